"""Pixels of a clip: signed distances with an edge one pixel soft, at any resolution."""
import colorsys
import dataclasses
import math

import numpy as np

from tools.world.scene import Track, Truth, track
from tools.world.vocabulary import BACKGROUNDS, COLORS, NEW_COLORS, OUTLINES, STRIPES

BANDS = 8  # stripes over the height: 8 pixels each at 64


def render(truth: Truth, frames: int, size: tuple[int, int]) -> np.ndarray:
    """Draw a clip.

    Args:
        truth: what to draw.
        frames: number of frames, at least 1.
        size: (width, height) in pixels.

    Returns:
        uint8 [F, H, W, 3], sRGB.
    """
    return paint(truth, track(truth, frames, size), size, truth.hue)


def paint(words, path: Track, size: tuple[int, int], hue: float = 0.0) -> np.ndarray:
    """Draw anything with `shape`, `color` and `background` along a path; sizes as in `render`, hue as in `Truth`."""
    width, height = size
    video = np.empty((len(path.radii), height, width, 3), np.uint8)
    video[:] = background(words.background, height)[None, :, None, None]
    # Only a box around the object is computed: the same number of pixels for all frames, at each frame's own corner.
    side = min(math.ceil(2 * path.radii.max()) + 3, width, height)
    corners = np.floor(path.centers - side / 2).astype(int).clip(0, [width - side, height - side])
    grid = np.arange(side, dtype=np.float32) + 0.5
    x = grid[None, None, :] + (corners[:, 0] - path.centers[:, 0]).astype(np.float32)[:, None, None]
    y = grid[None, :, None] + (corners[:, 1] - path.centers[:, 1]).astype(np.float32)[:, None, None]
    distance = signed_distance(words.shape, x, y, path.radii[:, None, None], path.angles[:, None, None])
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    color = ink(words.color, x, y, path.radii[:, None, None], path.angles[:, None, None])
    if hue:
        color = recolored(color[0], np.linspace(0, hue, len(video)))
    for number, (frame, alpha, (left, top)) in enumerate(zip(video, cover, corners)):
        box = frame[top:top + side, left:left + side]
        box[:] = box + alpha * (color[number % len(color)] - box) + 0.5
    return video


def recolored(rgb: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """A colour [3] at other places of the colour circle, [F] degrees away: float32 [F, 3], 0..255 as the colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
    turned = [colorsys.hsv_to_rgb((hue + way / 360) % 1, saturation, value) for way in degrees]
    return 255 * np.array(turned, np.float32)


def ink(name: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Colour of an object's pixels, float32: [1, 3] where it has one, [F, h, w, 3] where it is striped.

    Stripes turn with the object and meet in a ramp one pixel wide; arguments as in `signed_distance`.
    """
    if name in COLORS:
        return np.array([COLORS[name]], np.float32)
    first, second = (np.array(COLORS[part], np.float32) for part in NEW_COLORS[name])
    band = 2 * radius / STRIPES
    across = y * np.cos(angle) - x * np.sin(angle) + radius  # from the top of the object
    to_edge = (across + band / 2) % band - band / 2  # signed distance to the nearest edge between bands
    above = (np.round(across / band) - 1) % 2  # is the band above that edge of the second colour?
    share = np.where(above == 1, 1, 0) + np.where(above == 1, -1, 1) * np.clip(to_edge + 0.5, 0, 1)
    return first + share[..., None].astype(np.float32) * (second - first)


def object_cover(truth: Truth, frames: int, size: tuple[int, int]) -> np.ndarray:
    """Share of every pixel that the object covers, float32 [F, H, W], 0..1; arguments as in `render`."""
    on_black, on_white = (render(dataclasses.replace(truth, background=name), frames, size)[..., 0].astype(np.float32)
                          for name in ("black", "white"))
    return 1 - (on_white - on_black) / 255


def background(name: str, height: int) -> np.ndarray:
    """Grey level of every row, uint8 [H]; bands meet in a ramp one pixel wide."""
    levels = BACKGROUNDS[name]
    if len(levels) == 1:
        return np.full(height, levels[0], np.uint8)
    band = height / BANDS
    rows = np.arange(height) + 0.5
    to_edge = (rows + band / 2) % band - band / 2  # signed distance to the nearest edge between bands
    first = (np.round(rows / band).astype(int) - 1) % 2  # the band above that edge is of level 0 or 1
    level = np.array(levels, float)
    above, below = level[first], level[1 - first]
    return np.round(above + (below - above) * np.clip(to_edge + 0.5, 0, 1)).astype(np.uint8)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Distance to the outline, negative inside; exact but beyond the corners, where the edges' lines go on.

    Args:
        shape: one of `OUTLINES`.
        x, y: position relative to the object's centre (y down), broadcast against the rest.
        radius: circumradius in the unit of x and y.
        angle: radians clockwise from upright.
    """
    if OUTLINES[shape] is None:
        return np.hypot(x, y) - radius
    tips = OUTLINES[shape]
    # Fold the plane into half a sector, 0 (a tip) to pi / count (the notch beside it): one edge is all that is left.
    sector = 2 * math.pi / tips.count
    theta = np.arctan2(x, -y) - angle - np.float32(tips.upright)
    theta = np.abs(theta - sector * np.round(theta / sector))
    # The edge runs from (1, 0) to notch * (cos, sin)(sector / 2); (nx, ny) is its outward normal.
    dx, dy = tips.notch * math.cos(sector / 2) - 1, tips.notch * math.sin(sector / 2)
    nx, ny = dy / math.hypot(dx, dy), -dx / math.hypot(dx, dy)
    return np.hypot(x, y) * (nx * np.cos(theta) + ny * np.sin(theta)) - nx * radius


def unit_area(shape: str) -> float:
    """Area of a shape of circumradius 1."""
    tips = OUTLINES[shape]
    return math.pi if tips is None else tips.count * tips.notch * math.sin(math.pi / tips.count)
