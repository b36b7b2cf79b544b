"""Pictures as clips of one frame, for joint training on images and videos."""
from collections.abc import Callable, Sequence

import torch

from tools import media
from tools.datasets.listed import Entry, ListedDataset
from tools.registry import DATASETS


@DATASETS.register(ignored=("max_words", "vit_frames", "get_first_frame", "get_random_frame", "placeholder_strings"))
class ImageDataset(ListedDataset):
    """Pictures with their captions.

    Arguments and errors are those of ListedDataset.
    """

    def __init__(self, data_list: Sequence[str], data_dir_list: Sequence[str], resolution: Sequence[int] = (384, 256),
                 vit_resolution: Sequence[int] = (224, 224), transforms: Callable | None = None,
                 vit_transforms: Callable | None = None):
        super().__init__(data_list, data_dir_list, resolution, vit_resolution, transforms, vit_transforms)
        self.require_readable()

    def load(self, entry: Entry, generator: torch.Generator) -> dict:
        """{"ref_frame" [3, H, W], "vit_frame" [3, h', w'], "video" [1, 3, H, W], "caption", "key", "fps": 1}."""
        image = media.read_image(entry.file)
        video = self.transforms([image])
        return {"ref_frame": video[0], "vit_frame": self.vit_transforms(image), "video": video,
                "caption": entry.caption, "key": entry.key, "fps": 1}
