"""Masks of what is taken out of a video and painted anew, drawn at random or given as a picture.

A mask is 1 where pixels are taken away. Draws come from a NumPy generator of the legacy kind in a fixed order, so that
the masks that published weights were shown can be drawn again.
"""
import math
import random
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from tools import media
from tools.annotators.base import Annotator, as_pictures, check_frames, one_of
from tools.registry import ANNOTATOR

CANVAS = 512  # side of the square on which random masks are drawn
ABOUT_PI = 3.1415926  # as the reference's strokes have it

Draws = np.random.RandomState


@ANNOTATOR.register("masks", aliases=["mask"])
class Masks(Annotator):
    """Frames without what the mask covers, [F, 4, H, W]: colours in [-1, 1] times (1 - mask), then (1 - mask).

    Args:
        kind: 'random' (strokes 70 %, rectangles 20 %, half the picture 10 %), or one of 'irregular', 'rectangle',
            'uncrop'.
        seed: of the draws; every call draws the same mask.
        picture: file of a mask to use instead, brighter than mid grey where pixels are taken away; any size.

    Raises:
        UserError: unknown kind; the picture is missing or not one.
    """

    channels = 4

    def __init__(self, kind: str = "random", seed: int = 0, picture: str | None = None):
        self.kind, self.seed = one_of(kind, ("random", *SHAPES), "masks: kind"), seed
        self.given = None if picture is None else np.asarray(media.read_image(picture).convert("L")) / 255.0

    def __call__(self, frames: Tensor) -> Tensor:
        height, width = check_frames(frames).shape[-2:]
        mask = torch.from_numpy(self.mask(width, height)).to(frames)
        return mask_out(frames, mask.expand(len(frames), 1, height, width))

    def mask(self, width: int, height: int) -> np.ndarray:
        """The mask at a size, float32 [height, width] of 0 and 1."""
        if self.given is not None:
            return (resize(self.given, width, height) > 0.5).astype(np.float32)
        share, draws = random.Random(self.seed).random(), Draws(self.seed)
        shape = SHAPES[self.kind] if self.kind in SHAPES else choose_shape(share)
        return resize(shape(CANVAS, CANVAS, draws), width, height)

    def draw(self, maps: Tensor) -> np.ndarray:
        return remains(maps)


def remains(maps: Tensor) -> np.ndarray:
    """What remains of frames in their condition `masked` [F, 4, H, W], grey where they are taken away."""
    return as_pictures(maps[:, :3] * 0.5 + 0.5)


def mask_out(frames: Tensor, mask: Tensor) -> Tensor:
    """Condition `masked` [..., 4, H, W] of frames [..., 3, H, W] in [0, 1] and masks [..., 1, H, W]."""
    return torch.cat([(frames * 2 - 1) * (1 - mask), 1 - mask], dim=-3)


def random_mask(width: int, height: int, share: float, draws: Draws) -> np.ndarray:
    """A mask of the kind that `share`, uniform in 0..1, chooses, float32 [height, width] of 0 and 1."""
    return resize(choose_shape(share)(CANVAS, CANVAS, draws), width, height)


def choose_shape(share: float) -> Callable:
    """The function that draws the kind of mask that `share`, uniform in 0..1, stands for."""
    return irregular_mask if share < 0.7 else rectangle_mask if share < 0.9 else uncrop_mask


def resize(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mask at another size, by the nearest pixel."""
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def irregular_mask(width: int, height: int, draws: Draws, *, max_angle: int = 4, max_length: int = 200,
                   max_width: int = 100, min_strokes: int = 1, max_strokes: int = 5,
                   mode: str = "line") -> np.ndarray:
    """Strokes of up to five segments that change direction, float32 [height, width].

    Args:
        draws: of all that is random.
        max_angle: of a segment, in whole radians, exclusive.
        max_length, max_width: of a segment beyond 10 and 5 pixels, exclusive.
        min_strokes, max_strokes: number of strokes, inclusive.
        mode: a segment is a 'line', or a 'circle' or 'square' at its start.
    """
    paint = BRUSHES[mode]
    mask = np.zeros((height, width), np.float32)
    for stroke in range(draws.randint(min_strokes, max_strokes + 1)):
        start = draws.randint(width), draws.randint(height)
        for _ in range(1 + draws.randint(5)):
            angle = 0.01 + draws.randint(max_angle)
            if stroke % 2 == 0:
                angle = 2 * ABOUT_PI - angle
            length, thickness = 10 + draws.randint(max_length), 5 + draws.randint(max_width)
            end = (int(np.clip(start[0] + length * math.sin(angle), 0, width)),
                   int(np.clip(start[1] + length * math.cos(angle), 0, height)))
            paint(mask, start, end, thickness)
            start = end
    return mask


def _paint_line(mask: np.ndarray, start: tuple, end: tuple, thickness: int) -> None:
    cv2.line(mask, start, end, 1.0, thickness)


def _paint_circle(mask: np.ndarray, start: tuple, end: tuple, thickness: int) -> None:
    cv2.circle(mask, start, thickness, 1.0, -1)


def _paint_square(mask: np.ndarray, start: tuple, end: tuple, thickness: int) -> None:
    x, y, half = *start, thickness // 2
    if min(x, y) >= half:  # the reference drops squares that reach beyond the left or upper edge
        mask[y - half:y + half, x - half:x + half] = 1


BRUSHES = {"line": _paint_line, "circle": _paint_circle, "square": _paint_square}


def rectangle_mask(width: int, height: int, draws: Draws, *, margin: int = 10, min_size: int = 30,
                   max_size: int = 150, min_strokes: int = 1, max_strokes: int = 4) -> np.ndarray:
    """One to four boxes inside the margin, sides of min_size to max_size - 1 pixels, float32 [height, width]."""
    mask = np.zeros((height, width), np.float32)
    for _ in range(draws.randint(min_strokes, max_strokes + 1)):
        across, down = draws.randint(min_size, max_size), draws.randint(min_size, max_size)
        left = draws.randint(margin, width - margin - across + 1)
        top = draws.randint(margin, height - margin - down + 1)
        mask[top:top + down, left:left + across] = 1
    return mask


def uncrop_mask(width: int, height: int, draws: Draws) -> np.ndarray:
    """The top, bottom, left or right half, float32 [height, width]."""
    halves = np.s_[:height // 2, :], np.s_[height // 2:, :], np.s_[:, :width // 2], np.s_[:, width // 2:]
    mask = np.zeros((height, width), np.float32)
    mask[halves[draws.randint(4)]] = 1
    return mask


SHAPES = {"irregular": irregular_mask, "rectangle": rectangle_mask, "uncrop": uncrop_mask}
