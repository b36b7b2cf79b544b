"""Contrastive training of a small CLIP on frames, contact sheets and their captions."""
import math

import torch
import torch.nn.functional as F

from tools.embedders.tokens import tokenize
from tools.engines.engine import Engine, tasks
from tools.errors import UserError
from tools.registry import EMBEDDER


@tasks(train=("train_clip_entrance",))
class Contrastive(Engine):
    """CLIP's symmetric cross entropy (Radford et al., arXiv 2103.00020).

    Several clips of a batch may have one caption; all of them are right answers then, in equal parts.

    `frame_lens` [1] trains on single frames. Nothing there tells what moves, and words for motion end up all alike,
    which a denoiser that reads them cannot undo. A square number of frames ([4]) adds each clip's contact sheet as a
    second picture of its caption, on which motion can be read.
    """

    sections = ("embedder",)

    def build(self) -> None:
        self.embedder = EMBEDDER.build(self.cfg.embedder).to(self.runtime.device)
        self.check_picture_size(self.embedder)
        self.model = self.embedder.model

    def trainable(self) -> torch.nn.Module:
        return self.model

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        tokens = tokenize(batch["caption"], self.model.context_length).to(self.runtime.device)
        same = (tokens[:, None] == tokens[None]).all(dim=-1).float()
        pictures = self.pictures(batch)
        images, texts, scale = self.network(torch.cat(list(pictures.values())), tokens)
        losses, values = [], {"scale": scale}
        for name, part in zip(pictures, images.chunk(len(pictures)), strict=True):
            logits = scale * part @ texts.T
            losses.append(matching_loss(logits, same))
            values[f"retrieved_{name}"] = same.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
        return torch.stack(losses).mean(), values

    def pictures(self, batch: dict) -> dict[str, torch.Tensor]:
        """What shows the captions, [B, 3, h, w] each, normalised for CLIP: the first frame, and the sheet of a clip."""
        frame = batch["vit_frame"]
        if batch["video"].shape[1] == 1:
            return {"frame": frame}
        cfg = self.cfg
        pixels = batch["video"] * _channels(cfg.std, frame) + _channels(cfg.mean, frame)
        sheet = F.interpolate(contact_sheets(pixels), size=frame.shape[-2:], mode="area")
        return {"frame": frame, "sheet": (sheet - _channels(cfg.vit_mean, frame)) / _channels(cfg.vit_std, frame)}


def matching_loss(logits: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of rows and columns; `same` [B, B] is 1 where picture and caption may be paired."""
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def contact_sheets(video: torch.Tensor) -> torch.Tensor:
    """Frames in reading order on one picture: [B, F, C, H, W] to [B, C, n H, n W] with n = sqrt(F).

    Raises:
        UserError: F is not a square number.
    """
    frames = video.shape[1]
    side = math.isqrt(frames)
    if side * side != frames:
        raise UserError(f"frame_lens {frames}: a contact sheet takes a square number of frames (1, 4, 9, 16)")
    return video.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _channels(values, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
