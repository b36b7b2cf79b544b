"""Picture transforms of the diffusers lineage: on float tensors, bilinear without antialiasing.

Pixels are [..., 3, H, W] in [0, 1] until they are normalised; sizes are (height, width).
"""
import torch
from PIL import Image
from torchvision.transforms import functional as F

from tools.errors import UserError, nearest

FITS = ("cover", "pad", "stretch")


def first_frame(image: Image.Image, height: int, width: int, fit: str = "cover") -> torch.Tensor:
    """A picture as the first frame of a clip, [3, height, width] in [-1, 1].

    Args:
        image: RGB.
        height, width: of the clip.
        fit: `cover` scales the shorter side to `height`, or as far as it takes to fill the frame, and crops the middle;
            `pad` always scales the shorter side to `height` and leaves black edges where that is too narrow, as the
            published code does; `stretch` takes the whole picture out of proportion.

    Raises:
        UserError: unknown `fit`.
    """
    return normalise(fitted(F.to_tensor(image), height, width, fit))


def fitted(pixels: torch.Tensor, height: int, width: int, fit: str) -> torch.Tensor:
    """Pixels [..., 3, height, width]; see `first_frame`."""
    if fit not in FITS:
        raise UserError(f"picture_fit '{fit}' is unknown{nearest(fit, FITS)}; there are {', '.join(FITS)}")
    if fit == "stretch":
        return resize(pixels, height, width)
    side = covering_side(*pixels.shape[-2:], height, width, height) if fit == "cover" else height
    return F.center_crop(resize_short_side(pixels, side), [height, width])


def covering_side(image_height: int, image_width: int, height: int, width: int, least: int) -> int:
    """Shorter side, at least `least`, to which an image is scaled for its other side to be cut down to a frame."""
    short = min(image_height, image_width)
    need = max(height * short / image_height, width * short / image_width)
    side = max(least, int(need))
    # The longer side is rounded down, so that one pixel more may be needed.
    while any(side * length // short < target for length, target in ((image_height, height), (image_width, width))):
        side += 1
    return side


def resize_short_side(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Shorter side to `side` pixels, the longer one in proportion, rounded down."""
    return F.resize(pixels, [side], antialias=False)


def resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Out of proportion to (height, width)."""
    return F.resize(pixels, [height, width], antialias=False)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """[0, 1] to [-1, 1]."""
    return (pixels - 0.5) / 0.5


class ClipTransform:
    """Frames of a video to pixels: a mirror image of the whole clip by chance, shorter side to the height, middle.

    Args:
        height, width: of the clip in pixels.
        flip: probability of the mirror image; drawn from torch's generator, once per clip.
        fit: see `first_frame`.
    """

    def __init__(self, height: int, width: int, flip: float = 0.5, fit: str = "cover"):
        self.height, self.width, self.flip, self.fit = height, width, flip, fit

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 [F, H, W, 3] to float32 [F, 3, height, width] in [-1, 1]."""
        pixels = frames.permute(0, 3, 1, 2).float() / 255
        if torch.rand(1) < self.flip:
            pixels = F.hflip(pixels)
        return normalise(fitted(pixels, self.height, self.width, self.fit))
