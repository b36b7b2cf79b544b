"""Animated GIFs."""
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tools.files import replacing

TICK = 10  # milliseconds: the unit of a GIF's durations


def write_gif(path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an endlessly repeating GIF and return its path.

    Frames last whole hundredths of a second, some one more than others, so that the clip keeps its length.

    Args:
        path: where to.
        frames: uint8 [H, W, 3] each, of one size.
        fps: frames per second, above 0.

    Raises:
        UserError: no space left; nothing remains of the file then.
    """
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    ends = [round(number * 1000 / fps / TICK) * TICK for number in range(len(images) + 1)]
    durations = [max(end - start, TICK) for start, end in itertools.pairwise(ends)]
    with replacing(path) as temporary:
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return Path(path)
