"""The pixels, maps and masks behind one line of a list of the compositional model."""
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tools import media
from tools.annotators.masks import Draws, random_mask
from tools.datasets.frames import BLANK, exact_clip, reference_clip
from tools.datasets.steered import ARRAYS, PICTURES, STILL, VIDEO, SteeredItem, read_vectors
from tools.datasets.transforms import CenterCropWide, Resize, ToTensor
from tools.world.conditions import Scene

log = logging.getLogger(__name__)

WHITE_DEPTH = 2.0  # what white stands for in a picture of depths, in the condition's unit: a near object's
MAPS = ("depth", "sketch", "single_sketch", "canny")  # conditions that a file can hold as they are, in grey
READ_OFF = ("local_image", "histogram", "motion")  # conditions that are read off their own file as off a video


@dataclass(frozen=True)
class Clip:
    """What the conditions of one video are made of.

    Attributes:
        length: number of frames F.
        frames: [F or 1, 3, H, W] in 0..1 that conditions are read off, where there is a video or picture.
        sources: condition -> frames of its own to read it off.
        given: condition -> the condition itself, [F or 1, C, H, W].
        mask: [1, 1, H, W], 1 where the video is to be painted anew.
        picture: for the image encoder.
        scene: of a clip of the small world.
    """

    length: int
    frames: Tensor | None = None
    sources: dict[str, Tensor] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    picture: Image.Image | None = None
    scene: Scene | None = None

    def pixels(self, key: str) -> Tensor:
        """What a condition is read off; ValueError where there is nothing."""
        frames = self.sources.get(key, self.frames)
        if frames is None:
            raise ValueError(f"nothing to read '{key}' off")
        return frames


class RandomDraws:
    """Draws of one request, from its generator; None: from Python's and NumPy's streams in the original's order."""

    def __init__(self, generator: torch.Generator | None):
        self.generator = generator

    def whole(self, high: int) -> int:
        """Uniform over 0..high."""
        if self.generator is None:
            return random.randint(0, high)
        return int(torch.randint(high + 1, (), generator=self.generator))

    def mask(self, width: int, height: int) -> np.ndarray:
        """Strokes, rectangles or a half, float32 [height, width] of 0 and 1."""
        if self.generator is None:
            return random_mask(width, height, random.random(), np.random)
        seed = int(torch.randint(2**32, (), generator=self.generator))
        return random_mask(width, height, random.Random(seed).random(), Draws(seed))


class ClipReader:
    """Reads what the files of a line hold.

    Args:
        size: [width, height] of the frames.
        length: frames of the video.
        sample_fps: rate that frames are taken at, about.
        original: as the original's loader, which stretches frames to the size, skips some of the first and leaves what
            is missing at the end black; otherwise the frames' middle is cut out and every frame is one of the video.
    """

    def __init__(self, size: Sequence[int], length: int, sample_fps: float, original: bool = False):
        self.size, self.length, self.sample_fps, self.original = tuple(size), length, sample_fps, original
        self.fit = Resize(self.size) if original else CenterCropWide(self.size)

    def __call__(self, item: SteeredItem, generator: torch.Generator | None = None) -> Clip:
        """The clip of an item that `check_files` has let pass.

        Raises:
            UserError: a file cannot be read after all.
        """
        draws = RandomDraws(generator)
        numbers = self._numbers(item, draws)
        keys = [key for key in item.keys if item.file_of(key)]
        own = {key: item.file_of(key) for key in keys if item.is_own(key)}
        video = item.files.get(VIDEO)
        frames = self._frames(video, numbers) if video else None
        given = {key: self._map(key, path, numbers) for key, path in own.items() if key in MAPS}
        if Path(own.get("motion", "")).suffix.lower() in ARRAYS:
            given["motion"] = vectors_at(read_vectors(own.pop("motion")), self.length, self.size)
        sources = {key: self._frames(path, numbers) for key, path in own.items() if key in READ_OFF}
        picture = self._pictures(item.file_of("image"), numbers[:1])[0] if "image" in keys else None
        return Clip(self.length, frames, sources, given, self._mask(item, own, numbers, draws), picture)

    def _numbers(self, item: SteeredItem, draws: RandomDraws) -> list[int]:
        """Numbers of the frames that are taken of videos; [0] of pictures.

        Those that show every frame are equally long; one that gives a style or a first frame need not be.
        """
        paths = [item.file_of(key) for key in sorted(item.keys, key=STILL.__contains__) if item.file_of(key)]
        videos = [path for path in paths if Path(path).suffix.lower() not in (*PICTURES, *ARRAYS)]
        if not videos:
            return [0]
        info = media.probe_video(videos[0])
        rule = reference_clip if self.original else exact_clip
        return [n for n in rule(info.fps, info.frames, self.sample_fps, self.length, draws.whole) if n != BLANK]

    def _pictures(self, path: str, numbers: list[int]) -> list[Image.Image]:
        if Path(path).suffix.lower() in PICTURES:
            return [media.read_image(path)]
        frames = media.probe_video(path).frames
        taken = [n for n in numbers if n < frames] or [0]
        return [Image.fromarray(frame) for frame in media.read_frames(path, taken)]

    def _frames(self, path: str, numbers: list[int]) -> Tensor:
        """[1, 3, H, W] of a picture, [F, 3, H, W] of a video, in 0..1; what a short one lacks is black."""
        pictures = self._pictures(path, numbers)
        self._note_size(path, pictures[0])
        frames = ToTensor()(self.fit(pictures))
        if Path(path).suffix.lower() in PICTURES or len(frames) == self.length:
            return frames
        return torch.cat([frames, frames.new_zeros(self.length - len(frames), *frames.shape[1:])])

    def _note_size(self, path: str, picture: Image.Image) -> None:
        width, height = self.size
        if picture.width * height != picture.height * width:
            log.info("'%s' is %dx%d, %s to %dx%d", path, *picture.size, "stretched" if self.original else "cut",
                     width, height)

    def _map(self, key: str, path: str, numbers: list[int]) -> Tensor:
        """A condition that a file holds as it is: [F or 1, 1, H, W]."""
        grey = self._frames(path, numbers).mean(dim=1, keepdim=True)
        return grey[:1] if key == "single_sketch" else grey * WHITE_DEPTH if key == "depth" else grey

    def _mask(self, item: SteeredItem, own: dict[str, str], numbers: list[int], draws: RandomDraws) -> Tensor | None:
        if "masked" not in item.keys:
            return None
        if "masked" in own:
            return (self._frames(own["masked"], numbers).mean(dim=1, keepdim=True) > 0.5).float()
        return torch.from_numpy(draws.mask(*self.size))[None, None]


def vectors_at(vectors: np.ndarray, length: int, size: tuple[int, int]) -> Tensor:
    """Motion vectors [n, 2, h, w] for `length` frames of `size` = (width, height); they grow with the picture.

    A single field moves all frames but the first, which has none before it; the last of several goes on.
    """
    fields = torch.from_numpy(vectors)
    if len(fields) == 1:
        fields = torch.cat([torch.zeros_like(fields), fields])
    fields = torch.cat([fields[:length], fields[-1:].expand(max(length - len(fields), 0), -1, -1, -1)])
    width, height = size
    scale = torch.tensor([width / fields.shape[3], height / fields.shape[2]]).view(1, 2, 1, 1)
    return interpolate(fields, size=(height, width), mode="nearest") * scale
