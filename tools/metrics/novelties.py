"""Recognise what customised models learn, a subject and a motion of the small world that no base model has seen.

By geometry, as in `geometry`: the subject is a hexagon in three stripes of two colours, the motion a straight way
down and to the right at once.
"""
import dataclasses

import numpy as np

from tools.metrics.geometry import (
    MAX_HUE_ERROR,
    Blob,
    chroma_of,
    hue,
    large_enough,
    largest_region,
    misfits_of,
    read_clip,
)
from tools.world.draw import ink, unit_area
from tools.world.vocabulary import COLORS, NEW_COLORS, NEW_MOTIONS, NEW_SHAPES, OUTLINES

(SUBJECT_SHAPE,), (SUBJECT_COLOR,) = NEW_SHAPES, NEW_COLORS
CORE = 0.8  # cover from which on a pixel's colour is the object's
MIN_STRIPES = 0.6  # correlation of the stripes seen with those that the subject has there
(NEW_WAY,) = NEW_MOTIONS.values()
MAX_DEVIATION = 22.5  # degrees from the new way; half of what lies between it and those that base models know
MIN_LENGTH = 0.15  # of a way, in units of the frame's shorter side; no clip of the world goes less than 0.3
MAX_BEND = 0.05  # of the same: how far off the straight line from start to end a place may be on average


@dataclasses.dataclass(frozen=True)
class Novelties:
    """What a clip shows of them.

    Attributes:
        subject: the subject, in more than half of the frames.
        motion: whatever is there goes aslant.
    """

    subject: bool
    motion: bool

    @property
    def both(self) -> bool:
        """The subject in that motion."""
        return self.subject and self.motion


def read_novelties(video: np.ndarray) -> Novelties:
    """Look for subject and motion in a clip, uint8 [F, H, W, 3]."""
    blobs = [find_striped(frame) for frame in video]
    seen = sum(is_subject(frame, blob) for frame, blob in zip(video, blobs, strict=True))
    striped = np.array([blob.center if blob else (np.nan, np.nan) for blob in blobs], np.float32)
    unit = min(video.shape[1:3])
    return Novelties(2 * seen > len(video), goes_aslant(striped, unit) or goes_aslant(read_clip(video).centers, unit))


def find_striped(frame: np.ndarray) -> Blob | None:
    """The one coloured thing of a frame, whatever its colours; `find_object` takes it to have one."""
    region = largest_region(frame)
    if region is None:
        return None
    vividness = min(np.ptp(COLORS[name]) for name in NEW_COLORS[SUBJECT_COLOR])
    cover = chroma_of(frame)[region.window].astype(np.float32) / vividness
    rgb = np.median(frame[region.window][region.inside], axis=0)
    return large_enough(Blob(rgb, (cover * region.near).clip(0, 1), region.left, region.top), frame)


def is_subject(frame: np.ndarray, blob: Blob | None) -> bool:
    """Whether a frame's thing has the subject's outline, its two colours, and these in its stripes."""
    if blob is None:
        return False
    misfits = misfits_of(blob, OUTLINES)
    others = [misfit for shape, misfit in misfits.items() if shape not in (SUBJECT_SHAPE, "circle")]
    # At a dozen pixels a hexagon is nearly a circle, which no other shape is; the stripes tell it from one.
    if misfits[SUBJECT_SHAPE] >= 1 or misfits[SUBJECT_SHAPE] >= min(others):
        return False
    return has_stripes(frame, blob)


def has_stripes(frame: np.ndarray, blob: Blob) -> bool:
    """Whether the colours of a thing are the subject's, where the subject has them."""
    height, width = blob.cover.shape
    pixels = frame[blob.top:blob.top + height, blob.left:blob.left + width].astype(np.float32)
    tips = NEW_SHAPES[SUBJECT_SHAPE]
    radius = np.float32(np.sqrt(blob.area / unit_area(SUBJECT_SHAPE)))
    drawn = ink(SUBJECT_COLOR, *blob.grid, radius, np.float32(blob.phase(tips.count) - tips.upright))
    first, second = (np.array(COLORS[name], np.float32) for name in NEW_COLORS[SUBJECT_COLOR])
    core = blob.cover > CORE
    asked, shown = (((colors[core] - first) @ (second - first)) / ((second - first) ** 2).sum()
                    for colors in (drawn, pixels))
    if core.sum() < 8 or not asked.std() or not shown.std() or np.corrcoef(asked, shown)[0, 1] < MIN_STRIPES:
        return False
    parts = ((pixels[core][asked < 0.25], first), (pixels[core][asked > 0.75], second))
    return all(len(part) > 0 and _hue_error(np.median(part, axis=0), color) < MAX_HUE_ERROR for part, color in parts)


def _hue_error(rgb: np.ndarray, wanted: np.ndarray) -> float:
    return abs((hue(rgb) - hue(wanted) + 180) % 360 - 180)


def goes_aslant(centers: np.ndarray, unit: float) -> bool:
    """Whether a path leads the new way, straight.

    Args:
        centers: [F, 2] (x, y) in pixels, NaN where there is nothing.
        unit: the frame's shorter side in pixels.
    """
    seen = np.isfinite(centers).all(axis=1)
    if seen.sum() < 5 or 4 * seen.sum() < 3 * len(seen):
        return False
    places = (centers[seen] @ np.array([1, 1j])) / unit
    # From a line through all places, of which the first and the last alone would be at the mercy of a bad frame.
    time = np.linspace(0, 1, len(places))
    slope, start = np.polyfit(time, places, 1)
    bend = np.abs(places - (start + slope * time)).mean()
    deviation = np.degrees(abs(np.angle(slope / complex(*NEW_WAY))))
    return bool(abs(slope) >= MIN_LENGTH and deviation <= MAX_DEVIATION and bend <= MAX_BEND)
