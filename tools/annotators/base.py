"""What every annotator is: frames in, one map per frame out."""
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tools import media
from tools.errors import UserError


class Annotator:
    """Called with frames, float [F, 3, H, W] in [0, 1] (sRGB), gives one map per frame, float32 [F, C, H, W].

    Two annotators differ: `Palette` has no pixels and gives [F, 156]; `MotionVectors` takes a video file as well.

    Attributes:
        channels: C.
        chunk: frames that `stream` has in memory at a time.
    """

    channels = 1
    chunk = 16

    def __call__(self, frames: Tensor) -> Tensor:
        raise NotImplementedError

    def stream(self, path: str | Path) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames and maps of a video file of any length, chunk by chunk.

        Raises:
            UserError: the file is missing, not a video or damaged.
        """
        pictures = (media.frame_array(frame) for frame in media.decode(path))
        while chunk := list(itertools.islice(pictures, self.chunk)):
            frames = as_frames(np.stack(chunk))
            yield frames, self(frames)

    def draw(self, maps: Tensor) -> np.ndarray:
        """Maps for the eye, uint8 [F, H, W, 3]; here those of one channel in [0, 1] as they are, in grey."""
        return in_grey(maps)


class NetworkAnnotator(Annotator):
    """Base class of annotators that ask a network, `predict`.

    Args:
        device: where the network runs; maps come back to where the frames are.
        chunk: frames at a time.
        multiple: sides of pictures that the network takes are multiples of this; others are extended to the right and
            below by their last pixels, and the maps cut.
    """

    def __init__(self, device: str, chunk: int, multiple: int = 1):
        self.device, self.chunk, self.multiple = device, chunk, multiple

    def predict(self, frames: Tensor) -> Tensor:
        """Maps [n, C, H, W] of frames [n, 3, H, W] in [0, 1], n at most `chunk`, H and W multiples of `multiple`."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        height, width = check_frames(frames).shape[-2:]
        margins = (0, -width % self.multiple, 0, -height % self.multiple)
        maps = [self.predict(pad(part.float().to(self.device), margins, mode="replicate"))
                for part in frames.split(self.chunk)]
        return torch.cat(maps)[..., :height, :width].to(frames.device)


def as_frames(pictures: np.ndarray) -> Tensor:
    """uint8 [F, H, W, 3] to float32 [F, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def as_pictures(frames: Tensor) -> np.ndarray:
    """float [F, 3, H, W] in [0, 1] to uint8 [F, H, W, 3], rounded to the nearest grey level."""
    frames = check_frames(frames).detach().float().cpu()
    return np.ascontiguousarray((frames * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())


def in_grey(maps: Tensor) -> np.ndarray:
    """Maps [F, 1, H, W] in [0, 1] as they are, uint8 [F, H, W, 3]."""
    return as_pictures(maps.expand(-1, 3, -1, -1))


def check_frames(frames: Tensor) -> Tensor:
    """The frames; ValueError where they are not float [F, 3, H, W]."""
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(f"frames are float [F, 3, H, W] in [0, 1], not {frames.dtype} {list(frames.shape)}")
    return frames


def one_of(value: str, known: tuple[str, ...], option: str) -> str:
    """The value; UserError where it is not one of `known`."""
    if value not in known:
        raise UserError(f"{option} '{value}' must be one of {', '.join(known)}")
    return value
