"""Camera motion from one picture: a crop that pans or zooms becomes a clip (arXiv:2402.04324, section 5.3).

Encoded, these frames are the reference of FrameInit, which hands their movement to the video. Frame i of f has made the
share i / f of the way, so that the last frame stops one step short of the end.
"""
import math

import torch
from PIL import Image
from torchvision.transforms import functional as F

from tools.datasets import tensor_transforms as transforms
from tools.errors import UserError, nearest

PANS = ("pan_left", "pan_right")
ZOOMS = ("zoom_in", "zoom_out")
MOTIONS = PANS + ZOOMS
ZOOM_RATIO = 1.5
ZOOM_DETAIL = 2  # pixels of the scaled picture per pixel of the video, along the height
MIN_TRAVEL = 1.25  # width of the scaled picture over the video's: a square picture has to be cut to let a pan move


def check_motion(motion: str | None) -> None:
    """UserError where there is no such motion; None is a still camera."""
    if motion is not None and motion not in MOTIONS:
        raise UserError(f"camera_motion '{motion}' is unknown{nearest(motion, MOTIONS)}; "
                        f"there are {', '.join(MOTIONS)} and null")


def moving_frames(image: Image.Image, motion: str, frames: int, height: int, width: int) -> torch.Tensor:
    """Clip [F, 3, height, width] in [-1, 1] of a camera that moves over a picture.

    Args:
        image: RGB, of any shape; it is scaled so that the crop stays inside and has room to move.
        motion: one of `MOTIONS`.
        frames: F.
        height, width: of the clip.

    Raises:
        UserError: unknown motion.
    """
    check_motion(motion)
    room, least = (math.ceil(MIN_TRAVEL * width), height) if motion in PANS else (width, ZOOM_DETAIL * height)
    side = transforms.covering_side(image.height, image.width, height, room, least)
    scaled = transforms.normalise(transforms.resize_short_side(F.to_tensor(image), side))
    return moving_crops(scaled, motion, frames, height, width)


def moving_crops(image: torch.Tensor, motion: str, frames: int, height: int, width: int) -> torch.Tensor:
    """The crops of `moving_frames` out of an image [3, H, W] that is scaled already."""
    if motion in PANS:
        return torch.stack([_pan(image, motion, i / frames, height, width) for i in range(frames)])
    return torch.stack([_zoom(image, motion, i / frames, height, width) for i in range(frames)])


def _pan(image: torch.Tensor, motion: str, done: float, height: int, width: int) -> torch.Tensor:
    share = done if motion == "pan_right" else 1 - done
    left, top = int((image.shape[2] - width) * share), (image.shape[1] - height) // 2
    return F.crop(image, top, left, height, width)


def _zoom(image: torch.Tensor, motion: str, done: float, height: int, width: int) -> torch.Tensor:
    """The largest centred crop of the video's proportions, or less by up to the zoom's ratio, scaled to the video."""
    rows, columns = image.shape[1:]
    widest = min(rows, columns * height // width), min(columns, rows * width // height)
    crop = [_side(length, motion, done) for length in widest]
    top, left = (rows - crop[0]) // 2, (columns - crop[1]) // 2
    return transforms.resize(F.crop(image, top, left, *crop), height, width)


def _side(widest: int, motion: str, done: float) -> int:
    narrowest = math.floor(widest / ZOOM_RATIO)
    way = int((widest - narrowest) * done)
    return widest - way if motion == "zoom_in" else narrowest + way
