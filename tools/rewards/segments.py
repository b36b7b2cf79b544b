"""Segmental video reward with temporal attenuation (InstructVideo, arXiv 2312.12490, section 3.3).

A clip is cut into segments of equal length and one frame of each is scored, so that a reward of pictures scores a video
at the cost of a few frames; frames far from the middle count less, because what helps one frame must not be bought by
the others.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from tools import noise
from tools.errors import UserError


@dataclass(frozen=True)
class Segments:
    """Which frames are scored, and how much each counts.

    Attributes:
        count: segments of a clip.
        selection: `TSN`: a frame drawn at random from every segment of every clip (Wang et al. 2016, arXiv 1608.00859);
            `fixed_first`: the first one of each; `middle`: the one in its middle.
        attenuation: rate lambda of exp(-lambda |i - F // 2|) for frame i of F; None: all count alike.
    """

    count: int
    selection: str = "TSN"
    attenuation: float | None = 1.0

    def choose(self, batch: int, frames: int, device: torch.device) -> Tensor:
        """Frame numbers, int64 [B, S].

        Raises:
            UserError: more segments than frames.
        """
        span = frames // self.count
        if span < 1:
            raise UserError(f"segments {self.count}: a clip has only {frames} frames")
        first = torch.arange(self.count, device=device) * span
        if self.selection != "TSN":
            return (first + (span // 2 if self.selection == "middle" else 0)).expand(batch, -1)
        return first + noise.device_randint(0, span, (batch, self.count), device=device)

    def weights(self, index: Tensor, frames: int) -> Tensor:
        """Factor of every scored frame, float32 [B, S]."""
        if self.attenuation is None:
            return torch.ones_like(index, dtype=torch.float32)
        return torch.exp(-self.attenuation * (index - frames // 2).abs().float())

    def video_score(self, scores: Tensor, index: Tensor, frames: int) -> Tensor:
        """Score of each video [B] from those of its frames [B, S]; not normalised by the factors, as in the paper."""
        return (scores * self.weights(index, frames)).mean(dim=1)


def take_frames(clips: Tensor, index: Tensor) -> Tensor:
    """Frames `index` [B, S] of clips [B, C, F, H, W] -> [B, C, S, H, W]."""
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    return clips.transpose(1, 2)[rows, index.to(clips.device)].transpose(1, 2)
