"""The conditions of VideoComposer (arXiv 2306.02018, section 3.2): encoders of maps along space and time, dropout.

A condition is asked for by an entry of `video_compositions` and handed to the network's forward under a keyword.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, silu

from tools.errors import UserError, nearest
from tools.models.blocks import to_frames, to_video
from tools.models.sequence import SequenceEncoder

POOLING = 4  # the stem's two strides bring maps, pooled to four times the latent size, to that size


class MapKind(NamedTuple):
    """A condition that has a value per pixel.

    Attributes:
        entry: of `video_compositions`.
        channels: of the map [b, channels, f, H, W].
        stem, mixer: names of its two modules in checkpoints.
    """

    entry: str
    channels: int
    stem: str
    mixer: str


# Forward keyword -> condition, in the order in which published checkpoints hold the modules.
MAPS = {
    "depth": MapKind("depthmap", 1, "depth_embedding", "depth_embedding_after"),
    "motion": MapKind("motion", 2, "motion_embedding", "motion_embedding_after"),
    "canny": MapKind("canny", 1, "canny_embedding", "canny_embedding_after"),
    "masked": MapKind("mask", 4, "masked_embedding", "mask_embedding_after"),
    "sketch": MapKind("sketch", 1, "sketch_embedding", "sketch_embedding_after"),
    "single_sketch": MapKind("single_sketch", 1, "single_sketch_embedding", "single_sketch_embedding_after"),
    "local_image": MapKind("local_image", 3, "local_image_embedding", "local_image_embedding_after"),
}
# Forward keyword -> entry of `video_compositions`, of every condition there is.
ENTRIES = {"y": "text", "image": "image", "histogram": "histogram"} | {key: kind.entry for key, kind in MAPS.items()}
# The order in which training's dropout draws for them (text, picture and palette follow): it fixes the random stream.
DRAWN = ("depth", "local_image", "motion", "canny", "sketch", "single_sketch", "masked")


def check_entries(entries) -> tuple[str, ...]:
    """The entries of `video_compositions` as a tuple.

    Raises:
        UserError: there are none, or one is unknown.
    """
    if not entries:
        raise UserError(f"video_compositions is empty; list what the denoiser is told, of: {_known()}")
    for entry in entries:
        if entry not in ENTRIES.values():
            raise UserError(f"video_compositions: no condition '{entry}'{nearest(entry, ENTRIES.values())}; "
                            f"there are: {_known()}")
    return tuple(entries)


def _known() -> str:
    return ", ".join(ENTRIES.values())


class MapStem(nn.ModuleDict):
    """Three convolutions that bring a map to the latents' size.

    The numbers of the layers are those of checkpoints; what lies between them has no weights.

    Args:
        channels: of the map. dim: of the result.
    """

    def __init__(self, channels: int, dim: int):
        super().__init__({"0": nn.Conv2d(channels, 4 * dim, 3, padding=1),
                          "3": nn.Conv2d(4 * dim, 4 * dim, 3, stride=2, padding=1),
                          "5": nn.Conv2d(4 * dim, dim, 3, stride=2, padding=1)})

    def forward(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """frames [n, channels, H, W] of any size to [n, dim, *size], size = (height, width) of the latents."""
        x = silu(self["0"](frames))
        x = adaptive_avg_pool2d(x, [POOLING * side for side in size])
        return self["5"](silu(self["3"](x)))


def add_encoder(owner: nn.Module, kind: MapKind, dim: int, depth: int) -> None:
    """Give `owner` the two modules of one condition: the stem and the encoder along the frames of every position."""
    owner.add_module(kind.stem, MapStem(kind.channels, dim))
    owner.add_module(kind.mixer, SequenceEncoder(dim, heads=2, dim_head=dim, depth=depth))


def encode_map(owner: nn.Module, kind: MapKind, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A map [b, channels, f, H, W] through its encoder: [b, dim, f, *size]."""
    features = getattr(owner, kind.stem)(to_frames(values), size)
    tokens = to_video(features, len(values)).permute(0, 3, 4, 2, 1)
    mixed = getattr(owner, kind.mixer)(tokens.flatten(0, 2)).view(tokens.shape)
    return mixed.permute(0, 4, 3, 1, 2)


def draw_extremes(batch: int, p_all_zero: float, p_all_keep: float) -> tuple[Tensor, Tensor]:
    """Which samples lose all of their conditions and which keep all: two disjoint masks [batch]."""
    losing = int((torch.rand(batch) < p_all_zero).sum())
    keeping = int((torch.rand(batch) < p_all_keep).sum())
    order = torch.randperm(batch)
    zero, keep = torch.zeros(2, batch, dtype=torch.bool)
    zero[order[:losing]] = True
    keep[order[losing:losing + keeping]] = True
    return zero, keep


class ConditionDropout(nn.Module):
    """Sets a condition to zero for whole samples in training, without rescaling the others.

    Draws come from torch's global CPU generator, so that masks do not depend on the device.

    Args:
        p: probability of every sample that is neither in `zero` nor in `keep`.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, zero: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x [b, ...]; zero, keep: bool [b], disjoint (None: no sample)."""
        return zero_samples(x, self.draw(len(x), zero, keep)) if self.training else x

    def draw(self, batch: int, zero: Tensor | None, keep: Tensor | None) -> Tensor:
        """Mask [batch] of the samples that are dropped."""
        none = torch.zeros(batch, dtype=torch.bool)
        dropped, keep = (none if mask is None else mask for mask in (zero, keep))
        count = int((torch.rand(batch) < self.p).sum())
        free = (~(dropped | keep)).nonzero().flatten()
        dropped = dropped.clone()
        dropped[free[torch.randperm(len(free))[:count]]] = True
        return dropped


def zero_samples(x: Tensor, dropped: Tensor) -> Tensor:
    """x [b, ...] with the samples of the mask `dropped` [b] set to zero."""
    return x * (~dropped).to(x).view(-1, *[1] * (x.dim() - 1))
