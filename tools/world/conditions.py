"""What steers a clip of the small world, drawn from its truth: depth, sketch, motion and mask without an annotator."""
import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from tools.world.draw import paint, signed_distance
from tools.world.scene import Track
from tools.world.vocabulary import VOCABULARY

WORDS = ("shape", "color", "background")

FAR, NEAR = 0.5, 2.0  # of background and object, in the unit of MiDaS's inverse depth / 20
STROKE = 1.0  # pixels that a line fades over, either way


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip of the world by what is to be drawn: words, the object's path, (width, height) in pixels."""

    shape: str
    color: str
    background: str
    path: Track
    size: tuple[int, int]

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [F, H, W, 3], to the bit what the dataset draws."""
        return paint(self, self.path, self.size)

    @property
    def distances(self) -> np.ndarray:
        """See `distances`."""
        return distances(self.shape, self.path, self.size)


def pack(truth: Mapping) -> dict[str, torch.Tensor]:
    """The truth of a batch of dataset items as tensors: `words` int64 [B, 3], `path` float32 [B, F, 4]."""
    numbers = [[list(VOCABULARY[word + "s"]).index(name) for name in truth[word]] for word in WORDS]
    path = torch.cat([truth["position"], truth["size"][..., None], truth["angle"][..., None]], dim=-1)
    return {"words": torch.tensor(numbers).T.contiguous(), "path": path.float()}


def unpack(words: torch.Tensor, path: torch.Tensor, size: tuple[int, int]) -> list[Scene]:
    """The scenes of a packed batch, drawn at `size` = (width, height)."""
    named = [[list(VOCABULARY[word + "s"])[i] for word, i in zip(WORDS, row, strict=True)] for row in words.tolist()]
    return [Scene(*names, Track(track[:, :2], track[:, 2], track[:, 3]), size)
            for names, track in zip(named, path.cpu().numpy(), strict=True)]


def distances(shape: str, path: Track, size: tuple[int, int]) -> np.ndarray:
    """Signed distance of every pixel to the object's outline, float32 [F, H, W], negative inside.

    Args:
        shape: of the object. path: where it is.
        size: (width, height) in pixels.
    """
    x, y = _offsets(path, size)
    radii, angles = path.radii[:, None, None], path.angles[:, None, None]
    return signed_distance(shape, x, y, radii, angles).astype(np.float32)


def cover(distance: np.ndarray) -> np.ndarray:
    """Share of every pixel that the object covers, 0..1, as it is drawn."""
    return np.clip(0.5 - distance, 0, 1)


def depth(distance: np.ndarray) -> np.ndarray:
    """Inverse depth [F, H, W]: the object in front of its background."""
    return FAR + (NEAR - FAR) * cover(distance)


def sketch(distance: np.ndarray) -> np.ndarray:
    """The outline [F, H, W], bright on dark."""
    return np.clip(1 - np.abs(distance) / STROKE, 0, 1)


def hole(distance: np.ndarray) -> np.ndarray:
    """1 where the object is, 0 elsewhere, [F, H, W]."""
    return (distance < 0).astype(np.float32)


def motion(distance: np.ndarray, path: Track) -> np.ndarray:
    """Forward motion of the object's points since the frame before, float32 [F, 2, H, W] in pixels (x, y).

    0 in the first frame and outside of the object. A point keeps its place relative to centre, radius and angle.
    """
    frames, height, width = distance.shape
    x, y = _offsets(path, (width, height))
    previous = np.maximum(np.arange(frames) - 1, 0)
    grown = (path.radii[previous] / path.radii)[:, None, None]
    turned = (path.angles[previous] - path.angles)[:, None, None]
    moved = (path.centers - path.centers[previous])[:, :, None, None]
    cosine, sine = np.cos(turned), np.sin(turned)
    before_x, before_y = grown * (cosine * x - sine * y), grown * (sine * x + cosine * y)
    field = moved + np.stack(np.broadcast_arrays(x - before_x, y - before_y), axis=1)
    return (field * hole(distance)[:, None]).astype(np.float32)


def _offsets(path: Track, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x [F, 1, W] and y [F, H, 1] of the pixels relative to the object's centre."""
    width, height = size
    x = np.arange(width, dtype=np.float32)[None, None, :] + 0.5 - path.centers[:, 0, None, None]
    y = np.arange(height, dtype=np.float32)[None, :, None] + 0.5 - path.centers[:, 1, None, None]
    return x, y
