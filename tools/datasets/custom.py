"""A subject's photos and a motion's clips (DreamVideo, arXiv 2312.04433)."""
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from tools import media
from tools.datasets.frames import exact_clip
from tools.datasets.image import ImageDataset
from tools.datasets.listed import Entry
from tools.datasets.transforms import mask_transforms as default_masks
from tools.datasets.video import VideoDataset
from tools.errors import UserError
from tools.registry import DATASETS

MASKS = "masks"  # folder beside the photos


@DATASETS.register(ignored=("max_words", "vit_frames", "placeholder_strings"))
class VideoCustomDataset(VideoDataset):
    """Clips of a motion: as `VideoDataset`, but a video shorter than a clip is reported and left out.

    Arguments as `VideoDataset`.

    Args:
        get_random_frame: the reference frame is drawn at random; `get_first_frame` is without effect then.
        frame_sampling: `reference_custom` chooses frames as the original did, which filled up short videos with mid
            grey.
    """

    def __init__(self, data_list: Sequence[str], data_dir_list: Sequence[str], max_frames: int = 16,
                 sample_fps: float = 8, resolution: Sequence[int] = (384, 256),
                 vit_resolution: Sequence[int] = (224, 224), transforms: Callable | None = None,
                 vit_transforms: Callable | None = None, get_first_frame: bool = False, get_random_frame: bool = False,
                 frame_sampling: str = "exact"):
        self.get_random_frame = get_random_frame
        super().__init__(data_list, data_dir_list, max_frames, sample_fps, resolution, vit_resolution, transforms,
                         vit_transforms, get_first_frame, frame_sampling)

    def reference_of(self, count: int, generator: torch.Generator) -> int:
        if self.get_random_frame:
            return int(torch.randint(count, (), generator=generator))
        return super().reference_of(count, generator)

    def _frames_of(self, entry: Entry, info: media.VideoInfo, generator: torch.Generator) -> list[int]:
        numbers = super()._frames_of(entry, info, generator)
        if self.rule is exact_clip and info.frames < self.max_frames:
            raise UserError(f"video '{entry.file}' is too short: {info.frames} frames for clips of {self.max_frames}; "
                            "give a longer one, or fewer frames in frame_lens")
        return numbers


@DATASETS.register(ignored=("max_words", "vit_frames", "get_first_frame", "get_random_frame"))
class ImageCustomDataset(ImageDataset):
    """Photos of a subject with captions such as `a *`, and masks of it where they are asked for.

    The mask of `{folder}/dog.jpg` is `{folder}/masks/dog.png`, of the photo's size, white where the subject is.
    Arguments as `ImageDataset`.

    Args:
        mask_transforms: list of a PIL image -> float32 [1, 3, h, w] in [0, 1], of the latents' size.
        use_mask_diffusion: read the masks; items have `mask` float32 [1, 3, h, w], 0 or 1, then. A photo without a
            usable mask is reported and left out.
        placeholder_strings: words that `{}` in a caption stands for, in this order.

    Raises:
        UserError: as `ImageDataset`; a caption has more `{}` than there are placeholders.
    """

    def __init__(self, data_list: Sequence[str], data_dir_list: Sequence[str], resolution: Sequence[int] = (384, 256),
                 vit_resolution: Sequence[int] = (224, 224), transforms: Callable | None = None,
                 vit_transforms: Callable | None = None, mask_transforms: Callable | None = None,
                 use_mask_diffusion: bool = False, placeholder_strings: Sequence[str] = ("*",)):
        self.mask_transforms = mask_transforms or default_masks(resolution)
        self.use_mask_diffusion = use_mask_diffusion
        super().__init__(data_list, data_dir_list, resolution, vit_resolution, transforms, vit_transforms)
        self.entries = [entry._replace(caption=_filled_in(entry, placeholder_strings)) for entry in self.entries]

    def load(self, entry: Entry, generator: torch.Generator) -> dict:
        """As `ImageDataset`, with `mask`."""
        item = super().load(entry, generator)
        return item | {"mask": self._mask(entry.file)} if self.use_mask_diffusion else item

    def _mask(self, photo: Path) -> torch.Tensor:
        file = photo.parent / MASKS / f"{photo.stem}.png"
        mask, size = media.read_image(file), media.read_image(photo).size
        if mask.size != size:
            raise UserError(f"mask '{file}' is {mask.width}x{mask.height} pixels and its photo {size[0]}x{size[1]}; "
                            "draw it over the photo itself")
        pixels = self.mask_transforms([_binary(mask)])
        if not pixels.any():
            raise UserError(f"mask '{file}' is black all over; the subject must be white (255)")
        return pixels


def _binary(mask: Image.Image) -> Image.Image:
    """Every pixel black or white, whichever it is nearer to."""
    return mask.convert("L").point(lambda level: 255 * (level > 127)).convert("RGB")


def _filled_in(entry: Entry, placeholders: Sequence[str]) -> str:
    try:
        return entry.caption.format(*placeholders)
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"caption '{entry.caption}' of '{entry.key}': {{}} stands for one of placeholder_strings "
                        f"({', '.join(placeholders)}); other braces must be doubled") from error
