"""How much a clip moves and how much it flickers, by dense optical flow; no network takes part."""
import itertools
from typing import NamedTuple

import cv2
import numpy as np

from tools.annotators.flow import dense_flow

STRONGEST = 0.05  # share of pixels whose motion decides whether a clip is dynamic
DYNAMIC = 6 / 256  # of the shorter side, per frame
DYNAMIC_PAIRS = 4 / 16  # share of the frames that must move so much
RETURN = 1.0  # pixels; flow there and back must meet again within this, or the place is hidden in one frame


class Steadiness(NamedTuple):
    """Of one clip.

    Attributes:
        change: mean difference of consecutive frames, share of full range (VBench's temporal flickering is 1 - this).
        flicker: the same after the earlier frame was moved along the flow, over places seen in both (the warping error
            of arXiv 1808.00449, section 3).
        motion: mean length of the flow, percent of the shorter side per frame.
        dynamic: does it move at all? The rule of VBench (arXiv 2311.17982, appendix) on this flow: in a quarter of the
            frames the strongest 5 % of the pixels move by 6 of 256 parts of the shorter side or more.
    """

    change: float
    flicker: float
    motion: float
    dynamic: bool


def measure(video: np.ndarray) -> Steadiness:
    """Motion and flicker of a clip, uint8 [F, H, W, 3].

    Raises:
        ValueError: there is one frame.
    """
    if len(video) < 2:
        raise ValueError("one frame neither moves nor flickers")
    pairs = np.array([_pair(before, after) for before, after in itertools.pairwise(video)])
    change, flicker, motion = pairs[:, :3].mean(0)
    moving = (pairs[:, 3] >= DYNAMIC).sum()
    return Steadiness(float(change), float(flicker), 100 * float(motion),
                      bool(moving >= max(1, round(DYNAMIC_PAIRS * len(video)))))


def _pair(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float, float]:
    """Change, flicker, and mean and strongest motion in parts of the shorter side."""
    there, back = dense_flow(before, after), dense_flow(after, before)
    lengths = np.linalg.norm(there, axis=-1) / min(before.shape[:2])
    count = max(1, int(STRONGEST * lengths.size))
    strongest = np.partition(lengths.ravel(), -count)[-count:].mean()
    return _difference(before, after), _flicker(before, after, there, back), lengths.mean(), strongest


def _flicker(before: np.ndarray, after: np.ndarray, there: np.ndarray, back: np.ndarray) -> float:
    height, width = before.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    source_x, source_y = x + back[..., 0], y + back[..., 1]
    moved = cv2.remap(before, source_x, source_y, cv2.INTER_LINEAR)
    returned = back + cv2.remap(there, source_x, source_y, cv2.INTER_LINEAR)
    inside = (source_x >= 0) & (source_x <= width - 1) & (source_y >= 0) & (source_y <= height - 1)
    seen = inside & (np.linalg.norm(returned, axis=-1) < RETURN)
    return _difference(moved[seen], after[seen]) if seen.any() else _difference(before, after)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(np.float32) - second).mean()) / 255
