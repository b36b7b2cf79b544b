"""How near pixels are to given ones."""
import math

import numpy as np


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels, 10 * log10(255^2 / mean squared error); infinite for equal pixels.

    Args:
        image, reference: uint8 of one shape: an image [H, W, 3] or a clip [F, H, W, 3].
    """
    if image.shape != reference.shape or image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(f"PSNR compares uint8 arrays of one shape, not {image.dtype} {image.shape} with "
                         f"{reference.dtype} {reference.shape}")
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return 10 * math.log10(255 ** 2 / error) if error else math.inf


def first_frame_psnr(video: np.ndarray, image: np.ndarray) -> float:
    """PSNR of the first frame of a clip [F, H, W, 3] against the image [H, W, 3] that it was to start from."""
    return psnr(video[0], image)
