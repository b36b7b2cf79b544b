"""How near pixels are to given ones."""
import math

import cv2
import numpy as np

WINDOW, SIGMA = 11, 1.5  # pixels, of the Gaussian window of SSIM
LEVEL, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # what keeps its two quotients finite


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels, 10 * log10(255^2 / mean squared error); infinite for equal pixels.

    Args:
        image, reference: uint8 of one shape: an image [H, W, 3] or a clip [F, H, W, 3].
    """
    _check_pair(image, reference)
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return 10 * math.log10(255 ** 2 / error) if error else math.inf


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of grey values (Wang et al. 2004, IEEE TIP 13(4), eq. 13), 1 for equal pixels.

    Averaged over the places where the 11 pixels of the window lie inside, and over the frames of a clip.

    Args:
        image, reference: as for `psnr`, sides of at least 11 pixels.
    """
    _check_pair(image, reference)
    if min(image.shape[-3:-1]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} pixels a side, not {image.shape[-2]}x"
                         f"{image.shape[-3]}")
    pairs = zip(image.reshape(-1, *image.shape[-3:]), reference.reshape(-1, *image.shape[-3:]), strict=True)
    return float(np.mean([_ssim(*(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float64) for p in pair))
                          for pair in pairs]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    var_x, var_y = _local_mean(x * x) - mean_x ** 2, _local_mean(y * y) - mean_y ** 2
    covariance = _local_mean(x * y) - mean_x * mean_y
    level = (2 * mean_x * mean_y + LEVEL) / (mean_x ** 2 + mean_y ** 2 + LEVEL)
    return float((level * (2 * covariance + CONTRAST) / (var_x + var_y + CONTRAST)).mean())


def _local_mean(values: np.ndarray) -> np.ndarray:
    margin = WINDOW // 2
    return cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA)[margin:-margin, margin:-margin]


def _check_pair(image: np.ndarray, reference: np.ndarray) -> None:
    if image.shape != reference.shape or image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(f"pictures are compared as uint8 arrays of one shape, not {image.dtype} {image.shape} with "
                         f"{reference.dtype} {reference.shape}")


def first_frame_psnr(video: np.ndarray, image: np.ndarray) -> float:
    """PSNR of the first frame of a clip [F, H, W, 3] against the image [H, W, 3] that it was to start from."""
    return psnr(video[0], image)
