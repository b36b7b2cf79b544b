"""Pictures that golden cases describe by rule; which of the two rules is a matter of the topic."""
import numpy as np
from PIL import Image

from tests.goldens.reader import uniform


def engine_picture(key: str, height: int, width: int) -> Image.Image:
    """Topic vgen-engine: RGB, floor((u + 1) / 2 * 256) with u the rule's numbers in [-1, 1)."""
    return _rgb((uniform(key, (height, width, 3), scale=1.0) + 1) / 2 * 256)


def network_picture(key: str, height: int, width: int) -> Image.Image:
    """Topic vgen-unets-core: RGB, floor of the rule's numbers in [0, 255)."""
    return _rgb(uniform(key, (height, width, 3), 127.5, 127.5))


def _rgb(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.floor(values).clip(0, 255).astype(np.uint8))
