"""Read and write images and videos.

Frames are uint8 RGB arrays [F, H, W, 3]; a frame's number counts from 0 on the grid of the stream's average rate.
"""
import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from PIL import Image, ImageOps

from tools.errors import UserError
from tools.files import replacing
from tools.gif import write_gif
from tools.grids import contact_sheet, plain_grid, video_grid  # noqa: F401 - the one door to pictures and videos

log = logging.getLogger(__name__)

SEEK_GAP = 64  # frames: decoding on is cheaper than seeking up to about a group of pictures
END_SLACK = 8  # frames that a container may promise beyond its last one
# Quality of the original's writer (imageio's quality 8). The macroblock tree is off: with the AVX-512 code of the
# tested build it makes several files of the same small frames, with `asm=0` or `asm=avx2` one.
X264 = {"crf": "10", "x264-params": "mbtree=0"}


class VideoInfo(NamedTuple):
    """What a container says about its first video stream (size as coded, before any rotation flag)."""

    fps: float
    frames: int
    width: int
    height: int


def read_image(path) -> Image.Image:
    """RGB image, upright according to its EXIF orientation.

    Raises:
        UserError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"no image file '{path}'") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"not an image: '{path}' ({_reason(error)})") from error


def probe_video(path) -> VideoInfo:
    """Rate, number of frames and size of a video, without decoding.

    Containers that do not state their number of frames (Matroska, WebM) have their packets counted.

    Raises:
        UserError: the file is missing or holds no video.
    """
    with _open(path) as (container, stream):
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return VideoInfo(float(_rate(stream)), frames, stream.width, stream.height)


def read_frames(path, indices: Sequence[int]) -> np.ndarray:
    """Frames of a video by number; decodes only from the key frame before each run of them.

    Args:
        indices: numbers from 0, in any order, repeats allowed. In a video of variable rate, number i is what is on
            display i / average rate after its first frame.

    Returns:
        uint8 [len(indices), H, W, 3].

    Raises:
        UserError: the file is missing, not a video, damaged, or ends before a frame asked for.
    """
    if not len(indices) or min(indices) < 0:
        raise ValueError(f"frame numbers must be 0 or more and at least one, not {list(indices)}")
    found: dict[int, np.ndarray] = {}
    for run in _runs(sorted(set(indices))):
        for lead in (0.0, 2.0, None):
            frames = _read_run(path, run, lead)
            if frames is not None:
                found |= frames
                break
        else:
            raise UserError(f"video '{path}' has no frame that can be decoded")
    return np.stack([found[i] for i in indices])


def _runs(numbers: list[int]) -> list[list[int]]:
    """Split ascending numbers where the gap is worth a seek."""
    runs = [[numbers[0]]]
    for last, number in itertools.pairwise(numbers):
        if number - last > SEEK_GAP:
            runs.append([])
        runs[-1].append(number)
    return runs


def _read_run(path, run: list[int], lead: float | None) -> dict[int, np.ndarray] | None:
    """Decode ascending numbers from the key frame `lead` seconds before the first, or from the start (None).

    Returns None where the seek landed behind the first number, or the container cannot seek.
    """
    with _open(path) as (container, stream):
        rate = _rate(stream)
        seconds = run[0] / rate - Fraction(lead) if lead is not None else Fraction(0)
        if seconds <= 0:
            numbered = _numbered(container.decode(stream), rate * stream.time_base)
        else:
            opening = next(container.decode(stream), None)
            if opening is None or opening.pts is None or not _seek(container, stream, opening.pts, seconds):
                return None
            numbered = _sought(container.decode(stream), rate * stream.time_base, opening.pts)
        first = next(numbered, None)
        if first is None or (seconds > 0 and first[0] > run[0]):
            return None
        return _pick(itertools.chain([first], numbered), run, path)


def _pick(numbered: Iterable[tuple[int, av.VideoFrame]], run: list[int], path) -> dict[int, np.ndarray]:
    """For each number of the ascending `run`, the frame on display: the last one numbered at most so."""
    found, wanted, shown, number = {}, iter(run), None, -1
    want = next(wanted)
    for number, frame in numbered:
        while want is not None and number >= want:
            found[want] = frame_array(frame if number == want or shown is None else shown)
            want = next(wanted, None)
        if want is None:
            return found
        shown = frame
    for late in (want, *wanted):
        if late - number > END_SLACK:
            raise UserError(f"video '{path}' ends at frame {number}, frame {late} cannot be read")
        found[late] = frame_array(shown)
    return found


def _numbered(frames: Iterable[av.VideoFrame], rate: Fraction) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) from the first frame on, at `rate` frames per tick; those without a time stamp are counted."""
    number, origin = -1, None
    for frame in frames:
        number += 1
        if frame.pts is not None:
            origin = frame.pts if origin is None else origin
            number = round((frame.pts - origin) * rate)
        yield number, frame


def _sought(frames: Iterable[av.VideoFrame], rate: Fraction, origin: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) after a seek: from the first key frame on: those before it lack what they refer to."""
    for frame in itertools.dropwhile(lambda frame: not frame.key_frame, frames):
        if frame.pts is None:
            return
        yield round((frame.pts - origin) * rate), frame


def _seek(container, stream, origin: int, seconds: Fraction) -> bool:
    try:
        container.seek(origin + int(seconds / stream.time_base), stream=stream)
    except av.FFmpegError as error:
        log.debug("cannot seek in '%s' (%s); reading from the start", container.name, error)
        return False
    return True


def decode(path, export_vectors: bool = False) -> Iterator[av.VideoFrame]:
    """Every frame in order of display, as FFmpeg's decoder gives it; `frame_array` makes a picture of one.

    Args:
        path: the video.
        export_vectors: have the decoder export its motion vectors as side data, where it can.

    Raises:
        UserError: the file is missing, not a video or damaged.
    """
    with _open(path) as (container, stream):
        if export_vectors:
            ask_for_vectors(stream)
        frame = None
        for frame in container.decode(stream):
            yield frame
        if frame is None:
            raise UserError(f"video '{path}' has no frame that can be decoded")


def ask_for_vectors(stream) -> None:
    """Have a stream's decoder export motion vectors; before the first frame is decoded."""
    stream.codec_context.options = {"flags2": "+export_mvs"}


def quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that set a frame upright."""
    return round(frame.rotation / 90)


def frame_array(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as an upright picture, uint8 [H, W, 3]."""
    return np.rot90(frame.to_ndarray(format="rgb24"), k=quarter_turns(frame))


def _rate(stream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return Fraction(rate) if rate else Fraction(25)


@contextlib.contextmanager
def _open(path):
    """(container, first video stream); everything that FFmpeg reports inside becomes a UserError."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UserError(f"not a video: '{path}' (no video stream)")
            yield container, container.streams.video[0]
    except FileNotFoundError as error:
        raise UserError(f"no video file '{path}'") from error
    except av.FFmpegError as error:
        raise UserError(f"not a video, or a damaged one: '{path}' ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def write_video(path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an H.264 MP4 (yuv420p, for every player), or a GIF where the suffix says so, and return its path.

    A single frame becomes `{path}.png`. The same frames give the same bytes.

    Args:
        frames: uint8 [H, W, 3] each, of one size; an array [F, H, W, 3] or any iterable, consumed as it is written.
            Odd sizes, which yuv420p cannot hold, are extended by repeating the last row or column.
        fps: frames per second, above 0.

    Raises:
        UserError: no space left; nothing remains of the file then.
    """
    path = Path(path)
    frames = iter(frames)
    opening = list(itertools.islice(frames, 2))
    if not opening:
        raise ValueError(f"no frame to write to '{path}'")
    if len(opening) == 1:
        return write_png(path.with_name(path.name + ".png"), opening[0])
    if path.suffix == ".gif":
        return write_gif(path, itertools.chain(opening, frames), fps)
    height, width = opening[0].shape[:2]
    if height % 2 or width % 2:
        log.info("'%s': %dx%d is odd, extended by one pixel for yuv420p", path, width, height)
    with replacing(path) as temporary:
        _encode(temporary, itertools.chain(opening, frames), fps, width + width % 2, height + height % 2)
    return path


def _encode(path: Path, frames: Iterable[np.ndarray], fps: float, width: int, height: int) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            rows, columns = height - frame.shape[0], width - frame.shape[1]
            if rows or columns:
                frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def write_png(path, image) -> Path:
    """Write an image (PIL, or uint8 [H, W, 3]) as PNG and return its path; UserError when there is no space."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return Path(path)


def to_uint8(video: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Pixels of a normalised tensor: x * std + mean, clamped to [0, 1], times 255, truncated (as the original does).

    Args:
        video: [3, H, W], [F, 3, H, W] (dataset order) or [B, 3, F, H, W] (network order); left as it is.
        mean: per channel.
        std: per channel.

    Returns:
        uint8 [H, W, 3], [F, H, W, 3] or [B, F, H, W, 3].
    """
    video = video.detach().float().cpu()
    video = video.permute(0, 2, 3, 4, 1) if video.ndim == 5 else video.movedim(-3, -1)
    pixels = video * torch.tensor(std) + torch.tensor(mean)
    return (pixels.clamp(0, 1) * 255).to(torch.uint8).numpy()


def drop_grey_tail(frames: np.ndarray) -> np.ndarray:
    """The original writers' repair: drop a last frame of which more than 40 % of the values lie in 117..137.

    Published weights were trained on clips with grey tails (frames that the original's sampler never filled) and may
    end in one. Our datasets fill every frame, so nothing here calls this unless asked to.
    """
    last = frames[-1]
    grey = np.mean((last >= 117) & (last <= 137))
    return frames[:-1] if grey > 0.4 and len(frames) > 1 else frames
