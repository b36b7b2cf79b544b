"""Clips of video files."""
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from tools import media
from tools.datasets.frames import BLANK, RULES, stride_of
from tools.datasets.listed import Entry, ListedDataset
from tools.errors import UserError, nearest
from tools.registry import DATASETS


@DATASETS.register(ignored=("max_words", "vit_frames", "get_random_frame", "placeholder_strings"))
class VideoDataset(ListedDataset):
    """Clips of `max_frames` frames at about `sample_fps`, from a random start, with their captions.

    Args:
        data_list, data_dir_list, resolution, vit_resolution, transforms, vit_transforms: see ListedDataset.
        max_frames: frames per clip (F).
        sample_fps: frames per second of the clip; the video's rate is divided by a whole number to come near it.
        get_first_frame: the reference frame is the clip's first instead of its middle one.
        frame_sampling: `exact` fills every slot. `reference` (and `reference_custom`, of VideoCustomDataset) choose the
            frames as the original did, which left slots at zero, mid grey, in most clips.

    Raises:
        UserError: see ListedDataset; an argument out of range.
    """

    def __init__(self, data_list: Sequence[str], data_dir_list: Sequence[str], max_frames: int = 16,
                 sample_fps: float = 8, resolution: Sequence[int] = (384, 256),
                 vit_resolution: Sequence[int] = (224, 224), transforms: Callable | None = None,
                 vit_transforms: Callable | None = None, get_first_frame: bool = False,
                 frame_sampling: str = "exact"):
        super().__init__(data_list, data_dir_list, resolution, vit_resolution, transforms, vit_transforms)
        if max_frames < 1 or sample_fps <= 0:
            raise UserError(f"VideoDataset: max_frames must be 1 or more and sample_fps above 0, not {max_frames} and "
                            f"{sample_fps}")
        if frame_sampling not in RULES:
            raise UserError(f"VideoDataset: no frame_sampling '{frame_sampling}'{nearest(frame_sampling, RULES)}; "
                            f"there are: {', '.join(RULES)}")
        self.max_frames, self.sample_fps, self.rule = max_frames, sample_fps, RULES[frame_sampling]
        self.get_first_frame = get_first_frame
        self.require_readable()

    def load(self, entry: Entry, generator: torch.Generator) -> dict:
        """{"ref_frame" [3, H, W], "vit_frame" [3, h', w'], "video" [F, 3, H, W], "caption", "key", "fps", "stride"}.

        `fps` is the rate that the clip really has, rounded; `sample_fps` is only near it. `stride` is the number of the
        file's frames per frame of the clip.
        """
        info = media.probe_video(entry.file)
        numbers = self._frames_of(entry, info, generator)
        images = [Image.fromarray(frame) for frame in media.read_frames(entry.file, numbers)]
        reference = self.reference_of(len(images), generator)
        pixels = self.transforms(images)
        video = pixels.new_zeros(self.max_frames, *pixels.shape[1:])
        video[:len(images)] = pixels
        stride = max(numbers[1] - numbers[0], 1) if len(numbers) > 1 else stride_of(info.fps, self.sample_fps)
        return {"ref_frame": pixels[reference], "vit_frame": self.vit_transforms(images[reference]), "video": video,
                "caption": entry.caption, "key": entry.key, "fps": round(info.fps / stride), "stride": stride}

    def reference_of(self, count: int, generator: torch.Generator) -> int:
        """Which of a clip's `count` frames stands for it."""
        return 0 if self.get_first_frame else count // 2

    def _frames_of(self, entry: Entry, info: media.VideoInfo, generator: torch.Generator) -> list[int]:
        """Numbers of the frames to read, at most `max_frames`."""
        if info.frames < 1:
            raise UserError(f"video '{entry.file}' has no frames")
        slots = self.rule(info.fps, info.frames, self.sample_fps, self.max_frames,
                          lambda high: int(torch.randint(high + 1, (), generator=generator)))
        numbers = [number for number in slots if number != BLANK]
        if not numbers:
            raise UserError(f"video '{entry.file}' is too short: no frame for a clip of {self.max_frames}")
        return numbers
