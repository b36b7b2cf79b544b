"""Rewards of the small world: its objects measured from pixels by geometry, without weights, differentiable.

The world's backgrounds are grey and its objects are not, and where an object half covers a pixel the colours mix
linearly. So a pixel's chroma (largest minus smallest channel) over the chroma of the colour that the caption names is
how much of the pixel the object covers.
"""
import torch
from torch import Tensor, nn

from tools.registry import REWARD
from tools.world.draw import unit_area
from tools.world.vocabulary import COLORS, parse_caption

COVER_FLOOR, COVER_FULL = 0.1, 0.9  # shares of the named colour's chroma; below is noise of the decoder


def chroma(frames: Tensor) -> Tensor:
    """Largest minus smallest channel of every pixel: [B, S, 3, H, W] -> [B, S, H, W]."""
    return frames.amax(dim=2) - frames.amin(dim=2)


def cover(frames: Tensor, captions: list[str]) -> Tensor:
    """Share of every pixel that the object covers, 0..1, [B, S, H, W]."""
    named = torch.tensor([max(rgb) - min(rgb) for rgb in _colors(captions)], device=frames.device) / 255
    share = chroma(frames) / named.view(-1, 1, 1, 1)
    return ((share - COVER_FLOOR) / (COVER_FULL - COVER_FLOOR)).clamp(0, 1)


def _colors(captions: list[str]) -> list[tuple[int, int, int]]:
    return [COLORS[parse_caption(caption).color] for caption in captions]


@REWARD.register()
class ObjectSize(nn.Module):
    """How near the object's circumradius is to `target`: 1 there, falling linearly to 0 at twice that and at nothing.

    What counts is the geometric mean over the scored frames of a clip, so that growing and shrinking stay possible.

    Args:
        target: in units of the frame's shorter side; the embedded models were trained on 0.22 to 0.28.
    """

    maximum = 1.0

    def __init__(self, target: float = 0.32):
        super().__init__()
        self.target = target

    def forward(self, frames: Tensor, captions: list[str]) -> Tensor:
        """frames [B, S, 3, H, W] in 0..1 -> [B, S], one score per clip."""
        areas = [unit_area(parse_caption(caption).shape) for caption in captions]
        unit = torch.tensor(areas, device=frames.device).view(-1, 1) * min(frames.shape[-2:]) ** 2
        squares = (cover(frames, captions).sum(dim=(2, 3)) / unit).clamp(min=1e-6)
        radius = squares.log().mean(dim=1, keepdim=True).div(2).exp()
        return (1 - (radius - self.target).abs() / self.target).clamp(min=0).expand(-1, frames.shape[1])


@REWARD.register()
class ObjectHeight(nn.Module):
    """How high the object's centre of mass is: 0 at the lower edge of the frame, 1 at the upper edge."""

    maximum = 1.0

    def forward(self, frames: Tensor, captions: list[str]) -> Tensor:
        """frames [B, S, 3, H, W] in 0..1 -> [B, S]."""
        rows = cover(frames, captions).sum(dim=3)
        height = rows.shape[2]
        above = 1 - (torch.arange(height, device=rows.device) + 0.5) / height
        return (rows * above).sum(dim=2) / rows.sum(dim=2).clamp(min=1e-6)


@REWARD.register()
class ObjectVividness(nn.Module):
    """How near the object's colour is to the pure one of the hue that the caption names: 0 grey, 1 pure.

    The pure colour has the named one's hue, a largest channel of 1 and a smallest of 0. Measured is the mean colour of
    the pixels that the object covers, along the pure colour's direction away from grey, so that neither lightness nor
    another hue earns anything.
    """

    maximum = 1.0

    def forward(self, frames: Tensor, captions: list[str]) -> Tensor:
        """frames [B, S, 3, H, W] in 0..1 -> [B, S]."""
        # Which pixels count is no matter of the gradient: painting more of them must not pay.
        mask = cover(frames, captions).detach()[:, :, None]
        mean = (frames * mask).sum(dim=(3, 4)) / mask.sum(dim=(3, 4)).clamp(min=1e-6)
        pure = torch.tensor([pure_color(rgb) for rgb in _colors(captions)], device=frames.device)
        direction = pure - pure.mean(dim=1, keepdim=True)
        along = torch.einsum("bsc,bc->bs", mean, direction) / (pure * direction).sum(dim=1, keepdim=True)
        return along.clamp(max=1)


def pure_color(rgb: tuple[int, int, int]) -> tuple[float, ...]:
    """The most saturated colour of the same hue, channels from 0 to 1."""
    low, high = min(rgb), max(rgb)
    return tuple((channel - low) / (high - low) for channel in rgb)
