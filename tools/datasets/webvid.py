"""Clips in the layout of WebVid-10M and Pexels: JSON lines that name video files and captions.

The rules which frames make a clip are those that ConsistI2V was trained with (arXiv:2402.04324), its draws in the
same order from Python's generator: stride, then start.
"""
import logging
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from tools import media
from tools.datasets.failures import Failures
from tools.datasets.jsonl import JsonLines
from tools.datasets.tensor_transforms import ClipTransform
from tools.errors import UserError, nearest
from tools.models.unet import takes_options_of
from tools.registry import DATASETS

log = logging.getLogger(__name__)

SHORT_CLIPS = ("nominal", "fitted", "skip")
MAX_ASPECT = 0.625  # height over width; Pexels videos from this on are left out
REPORTS = 20  # short videos named in the log; further ones are only counted
TRIES = 100  # unreadable videos in a row after which something else must be wrong


class TooShort(UserError):
    """A video has too few frames for the clip's stride."""


class Clip(NamedTuple):
    """One record: the video's file, its name in the list, its caption, its frame rate where the list has it."""

    file: str
    key: str
    caption: str
    fps: float | None


class Cut(NamedTuple):
    """Which frames make a clip, and the stride that is told of it."""

    frames: list[int]
    stride: int


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """How clips are cut out of videos.

    Args:
        sample_size: side in pixels, or [height, width].
        sample_stride: frames of the video per frame of the clip, or [least, most], drawn for each clip.
        max_frames: frames of the clip.
        sample_duration: seconds of the clip, instead of a stride; its frames are then duration times `sample_fps`.
        sample_fps: frames per second of such a clip; without effect where there is a stride.
        is_image: two frames of a clip, the first and a later one, for training the spatial layers alone.
        short_clips: what to do with a video too short for its stride. `nominal` spreads the frames over what there is
            and tells the drawn stride, as published weights were trained; `fitted` takes and tells the widest stride
            that fits; `skip` leaves such videos out.
        picture_fit: see `tensor_transforms.first_frame`.
        vit_transforms: PIL image -> picture for CLIP; items have a `vit_frame` where it is given.

    Raises:
        UserError: an argument out of range.
    """

    sample_size: int | Sequence[int] = 256
    sample_stride: int | Sequence[int] = 4
    max_frames: int = 16
    sample_duration: float | None = None
    sample_fps: float | None = None
    is_image: bool = False
    short_clips: str = "nominal"
    picture_fit: str = "cover"
    vit_transforms: Callable | None = None

    def __post_init__(self):
        low, high = self.strides
        if not 1 <= low <= high:
            raise UserError(f"sample_stride {self.sample_stride} is none: give a number from 1, or [least, most]")
        if self.sample_duration is not None and not self.sample_fps:
            raise UserError(f"sample_duration {self.sample_duration} needs sample_fps, the clips' frames per second")
        if self.frames < 2:
            raise UserError(f"clips need 2 frames or more, not {self.frames}: the first is the picture")
        if self.short_clips not in SHORT_CLIPS:
            raise UserError(f"short_clips '{self.short_clips}' is unknown{nearest(self.short_clips, SHORT_CLIPS)}; "
                            f"there are {', '.join(SHORT_CLIPS)}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.sample_size,) * 2 if isinstance(self.sample_size, int) else tuple(self.sample_size)

    @property
    def strides(self) -> tuple[int, int]:
        """Least and largest stride."""
        return (self.sample_stride,) * 2 if isinstance(self.sample_stride, int) else tuple(self.sample_stride)

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.max_frames if self.sample_duration is None else int(self.sample_duration * self.sample_fps)


class AnnotatedClips(Dataset):
    """Clips at a fixed or drawn stride, or of a fixed duration, from a random start.

    A video that cannot be read is reported once and counted, and one drawn at random takes its place.

    Args:
        clips: the records.
        options: see `ClipOptions`.

    Items: {"ref_frame" [3, h, w], "video" [F, 3, h, w] in [-1, 1], "caption", "key", "stride", "vit_frame"}.

    Raises:
        UserError: none of the first videos can be read.
    """

    def __init__(self, clips: Sequence[Clip], options: ClipOptions):
        self.clips, self.options = clips, options
        self.transform = ClipTransform(*options.size, fit=options.picture_fit)
        self._failures = Failures(len(clips), log)
        self.short = 0
        self._require_readable()

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def failures(self) -> list[str]:
        """Files found unreadable so far, by any worker."""
        return [self.clips[number].file for number in self._failures.numbers()]

    def __getitem__(self, index: int) -> dict:
        for _ in range(TRIES):
            state = random.getstate()
            try:
                if index not in self._failures:
                    return self.load(index)
            except TooShort:
                pass  # counted, and for another stride it may be long enough
            except UserError as error:
                self._failures.report(index, error)
                # What stands in for a video must not depend on whether it was known to be bad already.
                random.setstate(state)
            index = random.randint(0, len(self) - 1)
        raise UserError(f"{TRIES} videos in a row cannot be read, '{self.clips[index].file}' for one; the log has the "
                        "reasons (is video_folder right?)")

    def load(self, index: int) -> dict:
        """The item of one record; UserError where its video cannot be used."""
        clip = self.clips[index]
        info = media.probe_video(clip.file)
        if info.frames < 1:
            raise UserError(f"video '{clip.file}' has no frames")
        cut = self._cut(clip, info)
        frames = media.read_frames(clip.file, cut.frames)
        video = self.transform(torch.from_numpy(frames))
        item = {"ref_frame": video[0], "video": video, "caption": clip.caption, "key": clip.key, "stride": cut.stride}
        if self.options.vit_transforms is not None:
            item["vit_frame"] = self.options.vit_transforms(Image.fromarray(frames[0]))
        return item

    def _require_readable(self) -> None:
        """UserError unless one of the first videos can be opened."""
        for index in range(min(TRIES, len(self))):
            try:
                media.probe_video(self.clips[index].file)
                return
            except UserError as error:
                self._failures.report(index, error)
        raise UserError(f"none of the first {min(TRIES, len(self))} videos can be read, '{self.clips[0].file}' for "
                        "one; is video_folder right?")

    def _cut(self, clip: Clip, info: media.VideoInfo) -> Cut:
        """Frames of a clip; draws the stride, in image mode the distance of the two frames, then the start."""
        options = self.options
        stride = self._stride(clip, info)
        count = random.randint(2, options.frames) if options.is_image else options.frames
        wanted = (count - 1) * stride + 1
        if options.sample_duration is not None and not options.is_image:
            wanted = math.ceil((clip.fps or info.fps) * options.sample_duration)
        if wanted > info.frames:
            stride, wanted = self._shortened(clip, info.frames, stride, count)
        start = random.randint(0, info.frames - wanted)
        frames = np.linspace(start, start + wanted - 1, 2 if options.is_image else count).astype(int)
        return Cut(frames.tolist(), stride)

    def _stride(self, clip: Clip, info: media.VideoInfo) -> int:
        options = self.options
        if options.sample_duration is None:
            # A fixed stride draws nothing, so that the start's draw is the first.
            return options.sample_stride if isinstance(options.sample_stride, int) else random.randint(*options.strides)
        return max(math.ceil((clip.fps or info.fps) * options.sample_duration / (options.frames - 1) - 1), 1)

    def _shortened(self, clip: Clip, total: int, stride: int, count: int) -> tuple[int, int]:
        """Stride to tell and length to take where a video of `total` frames is too short for `count` at `stride`."""
        problem = f"video '{clip.file}' has {total} frames, too few for {count} at stride {stride}"
        self.short += 1
        if self.short <= REPORTS:
            log.warning("%s (short_clips %s; %d so far in this process)", problem, self.options.short_clips, self.short)
        if self.options.short_clips == "skip":
            raise TooShort(problem)
        if self.options.short_clips == "nominal":
            return stride, total
        fitted = max((total - 1) // (count - 1), 1)
        return fitted, min(total, (count - 1) * fitted + 1)


class WebVidRecords(Sequence):
    """Clips of WebVid-10M's layout: lines {"text", "file", "fps" (for a duration)}.

    Args:
        json_path: the file of JSON lines.
        video_folder: joined with a relative `file`, and with the base name of an absolute one; None takes it as it is.
    """

    def __init__(self, json_path: str, video_folder: str | None = None):
        self.lines, self.folder = JsonLines(_given(json_path, "json_path"), ("text", "file")), video_folder

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> Clip:
        record = self.lines[number]
        return Clip(_located(record["file"], self.folder), record["file"], record["text"], record.get("fps"))


class PexelsRecords(Sequence):
    """Clips of Pexels' layout: lines {"id", "file", "fps", "height", "width"}, wide ones alone, captions by id.

    Args:
        json_path: the file of JSON lines.
        caption_json_path: lines {"id", "text"}; records without a caption are left out.
        video_folder: see `WebVidRecords`.
    """

    def __init__(self, json_path: str, caption_json_path: str, video_folder: str | None = None):
        captions = JsonLines(_given(caption_json_path, "caption_json_path"), ("id", "text"))
        self.captions = {record["id"]: record["text"] for record in captions}
        self.lines = JsonLines(
            _given(json_path, "json_path"), ("id", "file", "height", "width"),
            lambda record: record["height"] / record["width"] < MAX_ASPECT and record["id"] in self.captions)
        self.folder = video_folder

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> Clip:
        record = self.lines[number]
        return Clip(_located(record["file"], self.folder), record["file"], self.captions[record["id"]],
                    record.get("fps"))


class JoinedRecords(Sequence):
    """Several lists one after the other."""

    def __init__(self, parts: Sequence[Sequence[Clip]]):
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> Clip:
        part = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[part][number - (int(self.ends[part - 1]) if part else 0)]


@DATASETS.register()
class WebVid10M(AnnotatedClips):
    """Clips of a file in WebVid-10M's layout; arguments of `WebVidRecords` and of `ClipOptions`."""

    @takes_options_of(ClipOptions)
    def __init__(self, json_path: str, video_folder: str | None = None, **options):
        super().__init__(WebVidRecords(json_path, video_folder), ClipOptions(**options))


@DATASETS.register()
class Pexels(AnnotatedClips):
    """Clips of files in Pexels' layout; arguments of `PexelsRecords` and of `ClipOptions`."""

    @takes_options_of(ClipOptions)
    def __init__(self, json_path: str, caption_json_path: str, video_folder: str | None = None, **options):
        super().__init__(PexelsRecords(json_path, caption_json_path, video_folder), ClipOptions(**options))


@DATASETS.register()
class JointDataset(AnnotatedClips):
    """Pexels and WebVid in one list, in this order.

    Args:
        webvid_config, pexels_config: {enable, and the arguments of `WebVidRecords` or `PexelsRecords`}; a list that is
            not enabled is left out.
        options: of `ClipOptions`.

    Raises:
        UserError: neither is enabled.
    """

    @takes_options_of(ClipOptions)
    def __init__(self, webvid_config: dict | None = None, pexels_config: dict | None = None, **options):
        parts = [records(**{key: value for key, value in config.items() if key != "enable"})
                 for records, config in ((PexelsRecords, pexels_config), (WebVidRecords, webvid_config))
                 if config and config.get("enable", True)]
        if not parts:
            raise UserError("JointDataset: neither webvid_config nor pexels_config is enabled; set enable: true in one")
        super().__init__(JoinedRecords(parts), ClipOptions(**options))


def _given(path: str | None, key: str) -> str:
    if not path:
        raise UserError(f"{key} is not set; name the annotation file, one JSON object per line")
    return path


def _located(file: str, folder: str | None) -> str:
    if not folder:
        return file
    return os.path.join(folder, os.path.basename(file) if file.startswith("/") else file)
