"""Colour histograms over a fixed palette in CIE Lab, VideoComposer's condition `histogram`.

The palette has hues in columns and saturations, then lightnesses in rows, then a ramp of greys. Its hues are set by
hand, nearer to what the eye tells apart than equal steps would be; they are those of published weights.
"""
import colorsys
import functools

import numpy as np
import torch
from torch import Tensor

from tools.annotators.base import Annotator, as_pictures
from tools.registry import ANNOTATOR

HUES = {
    8: (0, .10, .15, .28, .51, .58, .77, .85),
    9: (0, .10, .15, .28, .49, .54, .60, .7, .87),
    10: (0, .10, .15, .28, .49, .54, .60, .66, .76, .87),
    11: (0, .0833, .166, .25, .333, .5, .56333, .666, .73, .803, .916),
}
PALE = 0.4  # saturation of the last rows of a hue
DARKEST = 0.2  # value that the lightnesses approach
SMALLEST = 1e-5  # smoothed shares below count as none
PIXELS = 1 << 12  # compared with the palette at a time, so that the distances stay in the cache
BARS = (200, 50)  # width and height of a drawn histogram

# sRGB (IEC 61966-2-1) to XYZ, white point D65, observer 2 degrees.
TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE = np.array([0.95047, 1.0, 1.08883])


@ANNOTATOR.register("palette", aliases=["histogram"])
class Palette(Annotator):
    """Share of every palette colour in each frame, float32 [F, colours], by the nearest colour in Lab.

    Shares are smoothed over similar colours with weights exp(-d^2 / (2 sigma^2)); smoothed ones need not sum to 1.

    Args:
        num_hues, num_sat, num_light: of the palette; (num_hues + 1) * (num_sat + 2 * num_light) colours, 156 here.
        sigma: distance in Lab over which shares are smoothed; 0 for plain counts.

    Attributes:
        rgb: float64 [colours, 3] in [0, 1].
        lab: float64 [colours, 3].
        distances: float64 [colours, colours], squared, in Lab.
    """

    def __init__(self, num_hues: int = 11, num_sat: int = 5, num_light: int = 4, sigma: float = 10.0):
        self.rgb = palette_colors(num_hues, num_sat, num_light)
        self.lab = to_lab(self.rgb)
        self.distances = ((self.lab[:, None] - self.lab[None]) ** 2).sum(-1)
        self.sigma = sigma
        self.columns = num_hues + 1

    @property
    def channels(self) -> int:
        return len(self.rgb)

    @property
    def hex(self) -> list[str]:
        """Colours as `#rrggbb`."""
        return ["#" + "".join(f"{level:02x}" for level in np.round(color * 255).astype(int)) for color in self.rgb]

    @property
    def table(self) -> np.ndarray:
        """The palette as a picture of one pixel per colour, float64 [rows, columns, 3]; greys in the last column."""
        return self.rgb.reshape(self.columns, -1, 3).swapaxes(0, 1)

    def __call__(self, frames: Tensor) -> Tensor:
        """Histograms of frames rounded to 8 bits, so that each colour is looked up once."""
        shares = [self.histogram(*_distinct(picture)) for picture in as_pictures(frames)]
        return torch.from_numpy(np.stack(shares)).float().to(frames.device)

    def nearest(self, picture: np.ndarray) -> np.ndarray:
        """Number of the palette colour nearest to each pixel of a picture [..., 3] in [0, 1], [...]."""
        pixels = picture.reshape(-1, 3)
        found = [np.argmin((self.lab ** 2).sum(1) - 2 * to_lab(pixels[i:i + PIXELS]) @ self.lab.T, axis=1)
                 for i in range(0, len(pixels), PIXELS)]
        return np.concatenate(found).reshape(picture.shape[:-1])

    def quantize(self, picture: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] in the palette's colours."""
        return self.rgb[self.nearest(picture)]

    def histogram(self, picture: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Shares, float64 [colours], of a picture [..., 3] in [0, 1]; `counts` [...] is how often each pixel counts."""
        counts = None if counts is None else counts.ravel()
        shares = np.bincount(self.nearest(picture).ravel(), counts, minlength=len(self.rgb))
        shares = shares / shares.sum()
        if self.sigma > 0:
            shares = self.smoothing @ shares
            shares[shares < SMALLEST] = 0
        return shares

    @functools.cached_property
    def smoothing(self) -> np.ndarray:
        """Weights [colours, colours] of the other colours' shares; rows sum to 1."""
        weights = np.exp(-self.distances / (2 * self.sigma ** 2))
        return weights / weights.sum(1, keepdims=True)

    def bars(self, shares: np.ndarray, percentile: float = 90, width: int = BARS[0]) -> np.ndarray:
        """Colours whose share is above the percentile as bars in proportion, largest first, float64 [width, 3].

        Widths are rounded down; what is left over on the right is black.
        """
        order = np.argsort(-shares)
        order = order[shares[order] > np.percentile(shares, percentile)]
        row = np.zeros((width, 3))
        if len(order):
            widths = (shares[order] / shares[order].sum() * width).astype(int)
            drawn = np.repeat(self.rgb[order], widths, axis=0)
            row[:len(drawn)] = drawn
        return row

    def draw(self, maps: Tensor) -> np.ndarray:
        """Bars of every frame's largest colours, uint8 [F, 50, 200, 3]."""
        rows = np.stack([self.bars(shares) for shares in maps.double().cpu().numpy()])
        return np.round(np.repeat(rows[:, None], BARS[1], axis=1) * 255).astype(np.uint8)


def palette_colors(num_hues: int, num_sat: int, num_light: int) -> np.ndarray:
    """float64 [colours, 3], sRGB in [0, 1]: hue by hue, then greys from white to black."""
    saturations = [*np.linspace(0, 1, num_sat + 2)[1:-1], 1, *[1] * num_light, *[PALE] * (num_light - 1)]
    lightnesses = np.linspace(1, DARKEST, num_light + 2)[1:-1]
    values = [*[1] * (num_sat + 1), *lightnesses, *lightnesses[:-1]]
    hues = HUES.get(num_hues, tuple(np.arange(num_hues) / num_hues))
    colors = [colorsys.hsv_to_rgb(hue, s, v) for hue in hues for s, v in zip(saturations, values, strict=True)]
    return np.array(colors + [(grey,) * 3 for grey in np.linspace(1, 0, len(values))])


def _distinct(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N, 3] in [0, 1] of a uint8 [H, W, 3] picture and how many pixels have each, [N]."""
    red, green, blue = np.moveaxis(picture.astype(np.int32), -1, 0)
    codes, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1) / 255, counts


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of sRGB colours [..., 3] in [0, 1]."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
