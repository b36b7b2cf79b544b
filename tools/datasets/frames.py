"""Which frames of a video make a clip: integer arithmetic only.

A rule is called as `rule(fps, total, sample_fps, frames, draw)`: the video's rate and number of frames, the clip's
rate and number of frames, and `draw(high)`, a whole number uniform over 0..high. It returns `frames` numbers from 0;
the reference's rules mark slots that they leave empty with BLANK.
"""
from collections.abc import Callable

BLANK = -1

Draw = Callable[[int], int]


def stride_of(fps: float, sample_fps: float) -> int:
    """Frames of the video per frame of the clip: the ratio rounded half to even, at least 1."""
    return max(1, round(fps / sample_fps))


def exact_clip(fps: float, total: int, sample_fps: float, frames: int, draw: Draw) -> list[int]:
    """Equally spaced frames from a start that is uniform over all that fit; every slot holds a frame.

    A video too short for its stride is sampled with the widest stride that fits: slower motion teaches less wrong than
    a still tail does. Only a video of fewer than `frames` frames has its last one repeated.
    """
    stride = stride_of(fps, sample_fps)
    if frames > 1:
        stride = max(1, min(stride, (total - 1) // (frames - 1)))
    start = draw(max(total - 1 - stride * (frames - 1), 0))
    return [min(start + i * stride, total - 1) for i in range(frames)]


def reference_clip(fps: float, total: int, sample_fps: float, frames: int, draw: Draw) -> list[int]:
    """The rule of the original's VideoDataset, which leaves one slot or more BLANK in most clips.

    Where the original failed, this does not: the stride is at least 1, and surplus frames are cut off.
    """
    return _reference(total, stride_of(fps, sample_fps), frames, draw, margin=2)


def reference_custom_clip(fps: float, total: int, sample_fps: float, frames: int, draw: Draw) -> list[int]:
    """The rule of the original's VideoCustomDataset: as `reference_clip`, but it stops later, and videos of at most
    `frames` frames are read whole."""
    if total <= frames:
        return _reference(total, 1, frames, draw, margin=0)
    return _reference(total, stride_of(fps, sample_fps), frames, draw, margin=1)


def _reference(total: int, stride: int, frames: int, draw: Draw, margin: int) -> list[int]:
    """Frames counted from 1 (p) with start <= p <= end - margin, every `stride`-th from `start`; the rest BLANK."""
    cover = stride * frames
    start, end = 0, total
    if total >= cover + 5:
        start = draw(total - cover - 5)
        end = start + cover
    kept = [p - 1 for p in range(start, min(total, end - margin) + 1, stride) if p >= 1][:frames]
    return kept + [BLANK] * (frames - len(kept))


RULES = {"exact": exact_clip, "reference": reference_clip, "reference_custom": reference_custom_clip}
