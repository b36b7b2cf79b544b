"""Picture transforms of the original's pipelines, number for number.

Every transform takes one PIL image or a list of them (the frames of a clip) and gives back what it was given; a random
one draws once for the whole clip, from the standard library's `random`. Sizes are (width, height), or one number for
a square.
"""
import math
import random
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageFilter
from torchvision.transforms import Compose
from torchvision.transforms import functional as F

Images = Image.Image | list[Image.Image]
Size = int | Sequence[int]

INTERPOLATIONS = {"nearest": Image.Resampling.NEAREST, "box": Image.Resampling.BOX,
                  "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ASPECT = (3 / 4, 4 / 3)  # of random crops, width over height


def train_transforms(resolution: Size, mean: Sequence[float], std: Sequence[float]) -> Compose:
    """Pixels for the autoencoder: crop to `resolution`, tensor, normalise."""
    return Compose([CenterCropWide(resolution), ToTensor(), Normalize(mean, std)])


def vit_transforms(resolution: Size, vit_resolution: Size, vit_mean: Sequence[float], vit_std: Sequence[float],
                   always_square: bool = False) -> Compose:
    """Pixels for the CLIP image encoder.

    Args:
        resolution: of the video; its width is the side of the square that CLIP is shown.
        vit_resolution: of the image encoder.
        vit_mean: per channel.
        vit_std: per channel.
        always_square: crop the square of the video's width first even where that is smaller than the encoder's input
            (the original's sampling tasks); otherwise such videos are cropped to `vit_resolution` at once (its training
            tasks).
    """
    width, vit_size = _pair(resolution)[0], _pair(vit_resolution)
    crop = (width, width) if always_square or width > vit_size[0] else vit_size
    return Compose([CenterCropWide(crop), Resize(vit_size), ToTensor(), Normalize(vit_mean, vit_std)])


def mask_transforms(resolution: Size, scale: int = 8) -> Compose:
    """A mask at the size of the latents: nearest pixels of the crop that `train_transforms` makes, in [0, 1]."""
    width, height = _pair(resolution)
    return Compose([CenterCropWide((width // scale, height // scale), "nearest"), ToTensor()])


class Resize:
    """Resize to `size`, bilinear, whatever the aspect ratio."""

    def __init__(self, size: Size):
        self.size = _pair(size)

    def __call__(self, images: Images) -> Images:
        return _each(images, lambda image: image.resize(self.size, Image.Resampling.BILINEAR))


class Rescale:
    """Resize so that the short side is `size` pixels, keeping the aspect ratio."""

    def __init__(self, size: int, interpolation="bilinear"):
        self.size, self.interpolation = size, _filter(interpolation)

    def __call__(self, images: Images) -> Images:
        return _each(images, lambda image: _short_side(image, self.size, self.interpolation))


class CenterCrop:
    """Central square of `size` pixels; ValueError for smaller images."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, images: Images) -> Images:
        return _each(images, self._crop)

    def _crop(self, image: Image.Image) -> Image.Image:
        if min(image.size) < self.size:
            raise ValueError(f"cannot crop {self.size} pixels out of {image.width}x{image.height}")
        return _central(image, (self.size, self.size))


class CenterCropWide:
    """Smallest scaling that covers `size`, then the central crop: the pipelines' one crop.

    The scaled sides are floored, so that one may be a pixel short of `size`; the crop then has a black edge, which
    published weights have seen.
    """

    def __init__(self, size: Size, interpolation="box"):
        self.size, self.interpolation = _pair(size), _filter(interpolation)

    def __call__(self, images: Images) -> Images:
        return _each(images, self._crop)

    def _crop(self, image: Image.Image) -> Image.Image:
        scale = min(image.width / self.size[0], image.height / self.size[1])
        scaled = max(1, round(image.width // scale)), max(1, round(image.height // scale))
        return _central(image.resize(scaled, self.interpolation), self.size)


class CenterCropV2:
    """Square of `size` pixels: halve while that stays large enough, scale the short side to `size`, crop centrally."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, images: Images) -> Images:
        return _each(images, lambda image: _central(_reduce(image, self.size), (self.size, self.size)))


class ResizeRandomCrop:
    """Scale the short side to `size_short`, then one random square of `size` for all frames."""

    def __init__(self, size: int, size_short: int = 292):
        self.size, self.size_short = size, size_short

    def __call__(self, images: Images) -> Images:
        return self.crop(images)[0]

    def crop(self, images: Images) -> tuple[Images, list[int]]:
        """Cropped images and the box [x1, y1, x2, y2] in the scaled image."""
        images = _each(images, lambda image: _reduce(image, self.size_short))
        width, height = _first(images).size
        left, top = random.randint(0, width - self.size), random.randint(0, height - self.size)
        box = [left, top, left + self.size, top + self.size]
        return _each(images, lambda image: image.crop(box)), box


class ExtractResizeRandomCrop(ResizeRandomCrop):
    """As ResizeRandomCrop, giving (images, box [x1, y1, x2, y2])."""

    def __call__(self, images: Images) -> tuple[Images, list[int]]:
        return self.crop(images)


class ExtractResizeAssignCrop:
    """Scale the short side to `size_short`, cut the given box [x1, y1, x2, y2], resize it to `size` (bilinear)."""

    def __init__(self, size: int, size_short: int = 292):
        self.size, self.size_short = _pair(size), size_short

    def __call__(self, images: Images, box: Sequence[int]) -> Images:
        return _each(images, lambda image: _reduce(image, self.size_short).crop(tuple(box)).resize(
            self.size, Image.Resampling.BILINEAR))


class RandomCrop:
    """Random part of at least `min_area` of the picture, aspect ratio uniform in 3/4..4/3, resized to `size`."""

    def __init__(self, size: Size, min_area: float = 0.4):
        self.size, self.min_area = _pair(size), min_area

    def __call__(self, images: Images) -> Images:
        width, height = _first(images).size
        area = random.uniform(self.min_area, 1) * width * height
        aspect = random.uniform(*ASPECT)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        w, h = min(w, width), min(h, height)
        return _cut(images, random.randint(0, width - w), random.randint(0, height - h), w, h, self.size)


class RandomCropV2:
    """As RandomCrop, with the aspect ratio log-uniform in `ratio`; ten tries to fit, then the central part."""

    def __init__(self, size: Size, min_area: float = 0.4, ratio: Sequence[float] = ASPECT):
        self.size, self.min_area, self.ratio = _pair(size), min_area, tuple(ratio)

    def __call__(self, images: Images) -> Images:
        width, height = _first(images).size
        return _cut(images, *self._box(width, height), self.size)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        low, high = self.ratio
        for _ in range(10):
            area = random.uniform(self.min_area, 1) * width * height
            aspect = math.exp(random.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, width - w), random.randint(0, height - h), w, h
        w, h = min(width, round(height * high)), min(height, round(width / low))
        return (width - w) // 2, (height - h) // 2, w, h


class RandomHFlip:
    """Mirror left and right with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, images: Images) -> Images:
        if random.random() >= self.p:
            return images
        return _each(images, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


class GaussianBlur:
    """Blur with probability `p`, radius uniform in `sigmas` (pixels)."""

    def __init__(self, sigmas: Sequence[float] = (0.1, 2.0), p: float = 0.5):
        self.sigmas, self.p = tuple(sigmas), p

    def __call__(self, images: Images) -> Images:
        if random.random() >= self.p:
            return images
        blur = ImageFilter.GaussianBlur(radius=random.uniform(*self.sigmas))
        return _each(images, lambda image: image.filter(blur))


class ColorJitter:
    """With probability `p`, change brightness, contrast, saturation and hue, in random order."""

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.1,
                 p: float = 0.5):
        self.factors = (brightness, contrast, saturation)
        self.hue, self.p = hue, p

    def __call__(self, images: Images) -> Images:
        if random.random() >= self.p:
            return images
        values = [random.uniform(max(0, 1 - factor), 1 + factor) for factor in self.factors]
        values.append(random.uniform(-self.hue, self.hue))
        steps = list(zip((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue), values))
        random.shuffle(steps)
        for adjust, value in steps:
            images = _each(images, lambda image, adjust=adjust, value=value: adjust(image, value))
        return images


class RandomGray:
    """Take the colours away with probability `p`."""

    def __init__(self, p: float = 0.2):
        self.p = p

    def __call__(self, images: Images) -> Images:
        if random.random() >= self.p:
            return images
        return _each(images, lambda image: image.convert("L").convert("RGB"))


class ToTensor:
    """float32 [3, H, W] in [0, 1], or [F, 3, H, W] for a list of F images."""

    def __call__(self, images: Images) -> torch.Tensor:
        if isinstance(images, list):
            return torch.stack([F.to_tensor(image) for image in images])
        return F.to_tensor(images)


class Normalize:
    """(x - mean) / std per channel, after clamping to [0, 1]; x is [3, H, W] or [F, 3, H, W]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = torch.tensor(mean).reshape(-1, 1, 1)
        self.std = torch.tensor(std).reshape(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.clamp(0, 1) - self.mean) / self.std


def _each(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    return [change(image) for image in images] if isinstance(images, list) else change(images)


def _first(images: Images) -> Image.Image:
    return images[0] if isinstance(images, list) else images


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _filter(interpolation) -> Image.Resampling:
    return INTERPOLATIONS[interpolation] if isinstance(interpolation, str) else Image.Resampling(interpolation)


def _central(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def _short_side(image: Image.Image, size: int, interpolation) -> Image.Image:
    scale = size / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), interpolation)


def _reduce(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`: halvings (box) while they leave at least that much, then bicubic."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return _short_side(image, size, Image.Resampling.BICUBIC)


def _cut(images: Images, left: int, top: int, width: int, height: int, size: tuple[int, int]) -> Images:
    box = (left, top, left + width, top + height)
    return _each(images, lambda image: image.crop(box).resize(size, Image.Resampling.BILINEAR))
