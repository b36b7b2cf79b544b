"""The reward of latent videos: decode the frames that are scored, score them, weigh them."""
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tools.autoencoders.video import frame_chunks
from tools.rewards.scoring import score_frames
from tools.rewards.segments import Segments, take_frames


@dataclass(frozen=True)
class VideoReward:
    """Score of each video, differentiable in its latents.

    Only the scored frames are decoded: frames are decoded one by one, so the others have no part in the gradient.

    Attributes:
        reward: see `scoring`.
        autoencoder: component with `decode`.
        scale_factor: the engine's factor on latents.
        decoder_bs: frames per call of the decoder.
        segments: which frames are scored and how they count.
        recompute: decode a second time in the backward pass instead of keeping what the decoder computes on the way.
        autocast: makes the context in which the reward runs.
    """

    reward: nn.Module
    autoencoder: nn.Module
    scale_factor: float
    decoder_bs: int
    segments: Segments
    recompute: bool = True
    autocast: Callable[[], AbstractContextManager] = nullcontext

    def __call__(self, latents: Tensor, captions: list[str]) -> Tensor:
        """latents [B, c, F, h, w] -> scores [B]; UserError as `score_frames` and `Segments.choose`."""
        batch, frames = latents.shape[0], latents.shape[2]
        index = self.segments.choose(batch, frames, latents.device)
        pixels = self.decode(take_frames(latents, index))
        with self.autocast():
            scores = score_frames(self.reward, pixels, captions)
        return self.segments.video_score(scores, index, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, c, S, h, w] -> frames [B, S, 3, H, W] in 0..1."""
        images = latents.transpose(1, 2).flatten(0, 1) / self.scale_factor
        decoded = torch.cat([self._decode(z) for z in frame_chunks(images, self.decoder_bs)])
        return unit_range(decoded).unflatten(0, (latents.shape[0], -1))

    def _decode(self, z: Tensor) -> Tensor:
        if self.recompute and z.requires_grad:
            return checkpoint(self.autoencoder.decode, z, use_reentrant=False)
        return self.autoencoder.decode(z)


def unit_range(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1], a little more or less, to 0..1."""
    return (0.5 * pixels + 0.5).clamp(0, 1)
