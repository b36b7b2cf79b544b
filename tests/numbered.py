"""Clips whose frames bear their own number, readable after lossy coding."""
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

BITS = 10
BAR = 8  # pixels
HEIGHT = 48


def numbered_frames(numbers: Iterable[int]) -> np.ndarray:
    """uint8 [F, 48, 80, 3]: ten bars per frame, white where the number has a 1."""
    bits = np.array([[(number >> bit) & 1 for bit in range(BITS)] for number in numbers], np.uint8)
    rows = (bits * 255).repeat(BAR, axis=1)
    return np.broadcast_to(rows[:, None, :, None], (len(rows), HEIGHT, BITS * BAR, 3)).copy()


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers that frames [F, H, W, 3] of any even size bear."""
    bar = frames.shape[2] // BITS
    middles = frames[:, frames.shape[1] // 2, bar // 2::bar, 0]
    return [sum(1 << bit for bit in range(BITS) if row[bit] > 127) for row in middles]


def write_coded(path, frames: np.ndarray, fps: int = 8, *, format: str, codec: str = "libx264", gop: int = 12,
                b_frames: int = 2, stamps: Iterable[int] | None = None, pixels: str = "yuv420p") -> None:
    """Write frames in any container and codec; `stamps` are their times in units of 1 / fps."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = pixels, gop, b_frames
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        for frame, stamp in zip(frames, stamps if stamps is not None else range(len(frames)), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
