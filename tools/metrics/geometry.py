"""Read shape, colour, background, motion, position and size of a clip of the small world back from its pixels.

No network takes part: the background comes from the frame's border; the object is what is not grey; its colour is
the hue of its inside; its shape is the outline that explains its pixels best; its motion is what its centre, its
area and its angle do over time. Nothing of the clip's truth is used, and what is not clear is None.
"""
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from tools.world.draw import background, signed_distance, unit_area
from tools.world.vocabulary import BACKGROUNDS, COLORS, SHAPES

MIN_CHROMA = 60  # of 255: the palest colour of the world has 140, its backgrounds 0
MIN_AREA = 0.004  # of the shorter side squared: a star of the smallest radius has 0.017
MAX_BACKGROUND_ERROR = 24  # grey levels, root mean square: less than flat grey is away from stripes (27)
MIN_VIVIDNESS = 0.55  # of the named colour's chroma (largest minus smallest channel)
MAX_HUE_ERROR = 22  # degrees; the nearest two colours of the world are 27 apart
MIN_SHARE = 0.7  # of all that is coloured must be one object
MAX_MISFIT = 0.25  # of the area, for a large object; what pixels blur away comes on top, see `misfits_of`
BLURS = (0.7, 1.0, 1.4)  # pixels, standard deviation of an edge's softness

# What a motion of the world does over a clip, so that the three kinds can be compared on one scale.
TYPICAL_TRAVEL = 0.39  # of the shorter side
TYPICAL_GROWTH = math.log(2.0)  # of the radius
TYPICAL_TURN = 1.1  # radians
MIN_MOTION = 0.4  # of the typical amount
DOMINANCE = 1.4  # how much stronger than the next a motion must be


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a clip shows. A word is None where it is not clear.

    Attributes:
        shape, color, background, motion: words of the vocabulary, for the clip as a whole.
        shapes, colors: the same per frame, F words each.
        centers: float32 [F, 2], centre of mass (x, y) in pixels, as in `scene.Track`; NaN where there is no object.
        radii: float32 [F], circumradius in pixels of the clip's shape (a circle's where that is not clear).
        areas: float32 [F], square pixels.
        angles: float32 [F], radians clockwise from upright, without jumps; NaN for circles and unclear shapes.
    """

    shape: str | None
    color: str | None
    background: str | None
    motion: str | None
    shapes: tuple[str | None, ...]
    colors: tuple[str | None, ...]
    centers: np.ndarray
    radii: np.ndarray
    areas: np.ndarray
    angles: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """bool [F]: is there an object in the frame?"""
        return np.isfinite(self.radii)


@dataclasses.dataclass(frozen=True)
class Blob:
    """The object of one frame: rgb of its inside, cover (0..1) of the pixels around it, and where these lie."""

    rgb: np.ndarray
    cover: np.ndarray
    left: int
    top: int

    @functools.cached_property
    def area(self) -> float:
        """Square pixels."""
        return float(self.cover.sum())

    @functools.cached_property
    def center(self) -> tuple[float, float]:
        """Centre of mass (x, y) in pixels of the frame."""
        x = self.left + 0.5 + (self.cover.sum(0) @ np.arange(self.cover.shape[1])) / self.area
        y = self.top + 0.5 + (self.cover.sum(1) @ np.arange(self.cover.shape[0])) / self.area
        return float(x), float(y)

    @functools.cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """x [1, w] and y [h, 1] of the pixels relative to the centre of mass."""
        x, y = self.center
        height, width = self.cover.shape
        across, down = np.arange(width) + (self.left + 0.5 - x), np.arange(height) + (self.top + 0.5 - y)
        return across[None, :].astype(np.float32), down[:, None].astype(np.float32)

    def phase(self, tips: int) -> float:
        """Where `tips` tips point: radians clockwise from the top, within pi / tips either way.

        The phase of the complex moment sum(cover * z^tips), z = -y + ix: mass far out lies toward the tips.
        """
        x, y = self.grid
        moment = (self.cover * (1j * x - y) ** tips).sum()
        return float(np.angle(moment)) / tips


def read_clip(video: np.ndarray) -> Reading:
    """Read a clip.

    Args:
        video: uint8 [F, H, W, 3], sRGB.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"a clip is uint8 [F, H, W, 3], not {video.dtype} {list(video.shape)}")
    rows = border_rows(video)
    blobs = [find_object(frame, rows) for frame in video]
    misfits = [misfits_of(blob) for blob in blobs]
    shape = _clip_shape(blobs, misfits)
    centers = np.array([b.center if b else (math.nan, math.nan) for b in blobs], np.float32)
    areas = np.array([b.area if b else math.nan for b in blobs], np.float32)
    angles = _angles(blobs, shape)
    colors = tuple(b and name_color(b.rgb) for b in blobs)
    return Reading(
        shape=shape, color=_majority(colors), background=name_background(rows),
        motion=name_motion(centers, areas, angles, min(video.shape[1:3])),
        shapes=tuple(_best(m) if m else None for m in misfits), colors=colors,
        centers=centers, radii=np.sqrt(areas / unit_area(shape or "circle")), areas=areas, angles=angles)


def border_rows(video: np.ndarray) -> np.ndarray:
    """Colour of the background per row, float32 [H, 3]: the median of both edges over the clip [F, H, W, 3]."""
    edge = max(1, video.shape[2] // 40)
    sides = np.concatenate([video[:, :, :edge], video[:, :, -edge:]], axis=2)
    return np.median(sides, axis=(0, 2)).astype(np.float32)


def name_background(rows: np.ndarray) -> str | None:
    """The background whose rows come nearest to `rows` [H, 3]."""
    errors = {name: float(np.sqrt(np.mean((rows - background(name, len(rows))[:, None]) ** 2))) for name in BACKGROUNDS}
    name = min(errors, key=errors.get)
    return name if errors[name] < MAX_BACKGROUND_ERROR else None


def find_object(frame: np.ndarray, rows: np.ndarray) -> Blob | None:
    """The one coloured thing of a frame; None where there is none, or several.

    Where it half covers a pixel, colours mix linearly: cover is the projection of (pixel - background) onto
    (object - background).

    Args:
        frame: uint8 [H, W, 3].
        rows: background, float32 [H, 3].
    """
    region = largest_region(frame)
    if region is None:
        return None
    pixels = frame[region.window].astype(np.float32)
    rgb = np.median(pixels[region.inside], axis=0)
    back = rows[region.top:region.top + len(pixels), None]
    toward = rgb - back
    cover = ((pixels - back) * toward).sum(-1) / np.maximum((toward ** 2).sum(-1), 1.0)
    return large_enough(Blob(rgb, (cover * region.near).clip(0, 1).astype(np.float32), region.left, region.top), frame)


class Region(NamedTuple):
    """A coloured thing: where in the frame, which pixels there may belong to it (0, 1), which surely do."""

    left: int
    top: int
    near: np.ndarray
    inside: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns."""
        height, width = self.near.shape
        return np.s_[self.top:self.top + height, self.left:self.left + width]


def largest_region(frame: np.ndarray) -> Region | None:
    """The one coloured thing of a frame [H, W, 3]; None where there is none, or several."""
    chroma = chroma_of(cv2.blur(frame, (3, 3)))
    peak = int(chroma.max())
    if peak < MIN_CHROMA:
        return None
    _, labels, stats, _ = cv2.connectedComponentsWithStats((chroma > peak / 2).astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + int(np.argmax(areas))
    if areas.max() < MIN_SHARE * areas.sum():
        return None
    left, top, width, height = (int(v) for v in stats[largest, :4])
    gap = 2 + min(frame.shape[:2]) // 64  # the soft edge around the half-way line belongs to the object
    y0, x0 = max(top - gap, 0), max(left - gap, 0)
    window = np.s_[y0:top + height + gap, x0:left + width + gap]
    near = cv2.dilate((labels[window] == largest).astype(np.uint8), np.ones((2 * gap + 1,) * 2, np.uint8))
    inside = (labels[window] == largest) & (chroma[window] > 0.8 * chroma[labels == largest].max())
    return Region(x0, y0, near, inside)


def large_enough(blob: Blob, frame: np.ndarray) -> Blob | None:
    """The blob, if it is more than a speck of the frame."""
    return blob if blob.area > MIN_AREA * min(frame.shape[:2]) ** 2 else None


def chroma_of(frame: np.ndarray) -> np.ndarray:
    """Largest minus smallest channel of every pixel, uint8 [H, W, 3] to [H, W]."""
    red, green, blue = cv2.split(frame)
    return cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)


def name_color(rgb: np.ndarray) -> str | None:
    """The colour of nearest hue; None between two hues, and where it is much paler or darker (pink, brown)."""
    errors = {name: abs((hue(rgb) - hue(np.array(known)) + 180) % 360 - 180) for name, known in COLORS.items()}
    name = min(errors, key=errors.get)
    vivid = np.ptp(rgb) > MIN_VIVIDNESS * np.ptp(COLORS[name])
    return name if vivid and errors[name] < MAX_HUE_ERROR else None


def hue(rgb: np.ndarray) -> float:
    """Hue in degrees (red 0, green 120, blue 240): the angle of the colour around the grey axis."""
    red, green, blue = (float(v) for v in rgb)
    return math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360


def misfits_of(blob: Blob | None, outlines: Mapping = SHAPES) -> dict[str, float] | None:
    """For every outline: how much of the object it leaves unexplained, 0 (nothing) to 1 (the most that may be).

    The shape is drawn at the object's own centre, area and angle, none of which blur changes, and as soft as fits
    best. The limit is a share of the area that is larger for small objects: these are all edge.
    """
    if blob is None:
        return None
    limit = (MAX_MISFIT + 0.5 / math.sqrt(blob.area / math.pi)) * blob.area
    x, y = blob.grid
    misfits = {}
    for shape, tips in outlines.items():
        angle = blob.phase(tips.count) - tips.upright if tips else 0.0
        radius = math.sqrt(blob.area / unit_area(shape))
        drawn = np.clip(0.5 - signed_distance(shape, x, y, np.float32(radius), np.float32(angle)), 0, 1)
        softened = [drawn] + [cv2.GaussianBlur(drawn, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) for sigma in BLURS]
        misfits[shape] = min(float(np.abs(soft - blob.cover).sum()) / limit for soft in softened)
    return misfits


def _best(misfits: dict[str, float]) -> str | None:
    shape = min(misfits, key=misfits.get)
    return shape if misfits[shape] < 1 else None


def _clip_shape(blobs: list, misfits: list) -> str | None:
    """The shape that explains the pixels of all frames best."""
    seen = [(blob.area, misfit) for blob, misfit in zip(blobs, misfits) if blob]
    if 2 * len(seen) <= len(blobs):
        return None
    total = sum(area for area, _ in seen)
    return _best({shape: sum(area * misfit[shape] for area, misfit in seen) / total for shape in SHAPES})


def _majority(words: tuple[str | None, ...]) -> str | None:
    """The word that more than half of the frames agree on."""
    word = max(set(words), key=words.count)
    return word if 2 * words.count(word) > len(words) else None


def _angles(blobs: list, shape: str | None) -> np.ndarray:
    tips = SHAPES.get(shape)
    angles = np.full(len(blobs), math.nan, np.float32)
    seen = [i for i, blob in enumerate(blobs) if blob]
    if tips and seen:
        turns = np.array([blobs[i].phase(tips.count) - tips.upright for i in seen])
        first = (turns[0] * tips.count + math.pi) % (2 * math.pi) - math.pi
        turns = np.unwrap(np.concatenate([[first], turns[1:] * tips.count])) / tips.count
        angles[seen] = turns
    return angles


def name_motion(centers: np.ndarray, areas: np.ndarray, angles: np.ndarray, unit: float) -> str | None:
    """The motion that dominates a clip; None for a still one, for one frame, and for mixtures.

    Straight lines are fitted through centre [F, 2], log-radius (half the log of the area [F]) and angle [F] over
    time; how far a line rises over the clip counts in units of what that motion typically does.

    Args:
        unit: the frame's shorter side in pixels.
    """
    seen = np.isfinite(areas)
    if seen.sum() < 2 or 2 * seen.sum() <= len(seen):
        return None
    time = np.linspace(0, 1, len(areas))[seen]
    time = time - time.mean()

    def rise(values):
        return float(time @ (values[seen] - values[seen].mean()) / (time @ time))

    x, y = (rise(centers[:, axis]) / unit / TYPICAL_TRAVEL for axis in (0, 1))
    growth = rise(np.log(areas)) / 2 / TYPICAL_GROWTH
    turn = rise(angles) / TYPICAL_TURN if np.isfinite(angles[seen]).all() else 0.0
    amounts = {"moving left": -x, "moving right": x, "moving up": -y, "moving down": y,
               "growing": growth, "shrinking": -growth, "turning": abs(turn)}
    (motion, most), (_, second) = sorted(amounts.items(), key=lambda item: -item[1])[:2]
    return motion if most > MIN_MOTION and most > DOMINANCE * second else None
