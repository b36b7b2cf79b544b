"""Dense optical flow without a network: dense inverse search (arXiv 1603.03590), by OpenCV.

Its variational refinement carries motion into flat areas, where local methods see none.
"""
import cv2
import numpy as np

LEAST = 16  # pixels a side that the search needs; smaller pictures are extended by their last pixels


def dense_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Displacement of every pixel, float32 [H, W, 2] in pixels: what stands at p in `before` is at p + flow in `after`.

    Args:
        before, after: uint8 [H, W, 3] of one size.
    """
    height, width = before.shape[:2]
    margins = ((0, max(0, LEAST - height)), (0, max(0, LEAST - width)))
    grays = [np.pad(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), margins, mode="edge") for picture in (before, after)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.ascontiguousarray(search.calc(*grays, None)[:height, :width])
