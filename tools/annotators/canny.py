"""Edges after Canny (IEEE PAMI 8(6), 1986), by OpenCV: aperture 3, L1 norm of the gradient."""
import cv2
import numpy as np
import torch
from torch import Tensor

from tools.annotators.base import Annotator, as_pictures
from tools.errors import UserError
from tools.registry import ANNOTATOR

SPREAD = 0.33  # how far the two thresholds lie from the median
LOOSENESS = (0.1, 0.4)  # range of the random rule's draw


@ANNOTATOR.register("canny")
class Canny(Annotator):
    """Edge maps of 0 and 1, [F, 1, H, W].

    Args:
        low_threshold, high_threshold: of the gradient, in grey levels, the same for all frames; both or neither.
            Without them each frame has its own, from its median.
        random_threshold: where none are given, loosen the lower threshold by a random share, drawn once per call, and
            set the higher one to its double (the original's rule in training).

    Raises:
        UserError: one threshold without the other.
    """

    def __init__(self, low_threshold: float | None = None, high_threshold: float | None = None,
                 random_threshold: bool = False):
        if (low_threshold is None) != (high_threshold is None):
            raise UserError("canny: give low_threshold and high_threshold, or neither")
        self.fixed = None if low_threshold is None else (low_threshold, high_threshold)
        self.random_threshold = random_threshold

    def __call__(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Edges of frames [F, 3, H, W]; `generator` draws the random threshold."""
        looseness = self._draw(generator) if self.random_threshold else None
        edges = [find_edges(picture, *(self.fixed or thresholds(np.median(picture), looseness)))
                 for picture in as_pictures(frames)]
        return torch.from_numpy(np.stack(edges))[:, None].to(frames.device)

    def _draw(self, generator: torch.Generator | None) -> float:
        least, most = LOOSENESS
        return least + (most - least) * torch.rand((), generator=generator).item()


def thresholds(median: float, looseness: float | None = None) -> tuple[int, int]:
    """Lower and higher threshold for a picture whose values, of all channels, have this median (0 to 255).

    Args:
        looseness: share of the median that the random rule takes off the lower threshold; None for the fixed rule,
            a third below and above the median.
    """
    if looseness is not None:
        low = int(max(0, (1 - looseness) * median))
        return low, 2 * low
    return int(max(0, (1 - SPREAD) * median)), int(min(255, (1 + SPREAD) * median))


def find_edges(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of a uint8 [H, W, 3] picture, float32 [H, W] of 0 and 1."""
    return (cv2.Canny(picture, low, high) > 0).astype(np.float32)
