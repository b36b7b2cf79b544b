"""Dense optical flow without a network: Farnebäck's polynomial expansion (SCIA 2003), by OpenCV."""
import cv2
import numpy as np

PYRAMID = 0.5  # size of a level relative to the one below
WINDOW = 15  # pixels over which displacements are averaged
ROUNDS = 3  # per level
NEIGHBOURS, SMOOTHNESS = 5, 1.2  # pixels that a polynomial is fitted to, and their Gaussian weights
LEVELS = 5


def dense_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Displacement of every pixel, float32 [H, W, 2] in pixels: what stands at p in `before` is at p + flow in `after`.

    Args:
        before, after: uint8 [H, W, 3] of one size.
    """
    grays = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (before, after)]
    return cv2.calcOpticalFlowFarneback(*grays, None, PYRAMID, LEVELS, WINDOW, ROUNDS, NEIGHBOURS, SMOOTHNESS, 0)
