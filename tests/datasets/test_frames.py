"""Which frames make a clip. The original's rules are checked by the golden cases (tests/test_replay.py)."""
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.datasets.frames import BLANK, RULES, exact_clip, stride_of

VIDEOS = {"fps": st.floats(1, 120), "total": st.integers(1, 2000), "sample_fps": st.floats(0.5, 60),
          "frames": st.integers(1, 64), "where": st.floats(0, 1)}


def drawer(where: float, bounds: list[int] | None = None):
    """A draw at the given part of its range, which it notes in `bounds`."""

    def draw(high: int) -> int:
        assert high >= 0
        if bounds is not None:
            bounds.append(high)
        return round(where * high)

    return draw


@given(**VIDEOS)
def test_every_slot_holds_an_existing_frame(fps, total, sample_fps, frames, where):
    clip = exact_clip(fps, total, sample_fps, frames, drawer(where))
    assert len(clip) == frames
    assert all(0 <= number < total for number in clip)


@given(**VIDEOS)
def test_frames_are_equally_spaced_and_differ_when_there_are_enough(fps, total, sample_fps, frames, where):
    clip = exact_clip(fps, total, sample_fps, frames, drawer(where))
    steps = {b - a for a, b in itertools.pairwise(clip)}
    if total >= frames > 1:
        assert len(steps) == 1
        assert 1 <= steps.pop() <= stride_of(fps, sample_fps)
    else:
        assert steps <= {0, 1}


@given(**VIDEOS)
def test_the_whole_video_can_be_reached(fps, total, sample_fps, frames, where):
    assert exact_clip(fps, total, sample_fps, frames, drawer(0))[0] == 0
    assert exact_clip(fps, total, sample_fps, frames, drawer(1))[-1] == total - 1


@given(**VIDEOS)
def test_there_is_one_draw_per_clip(fps, total, sample_fps, frames, where):
    bounds = []
    exact_clip(fps, total, sample_fps, frames, drawer(where, bounds))
    assert len(bounds) == 1


@pytest.mark.parametrize(("fps", "sample_fps", "stride"), [
    (24, 8, 3), (20, 8, 2), (28, 8, 4), (12, 8, 2), (4, 8, 1), (3, 8, 1), (30, 4, 8), (29.97, 8, 4)])
def test_stride_is_rounded_half_to_even_and_at_least_one(fps, sample_fps, stride):
    assert stride_of(fps, sample_fps) == stride


def test_long_video_is_sampled_at_its_stride():
    assert exact_clip(24, 300, 8, 4, drawer(0)) == [0, 3, 6, 9]


def test_short_video_is_sampled_at_a_narrower_stride():
    assert exact_clip(24, 40, 8, 16, drawer(0)) == [*range(0, 32, 2)]


def test_shorter_video_repeats_its_last_frame():
    assert exact_clip(8, 3, 8, 5, drawer(0)) == [0, 1, 2, 2, 2]


@pytest.mark.parametrize("rule", ["reference", "reference_custom"])
@given(**VIDEOS)
def test_reference_rules_fill_slots_from_the_front(rule, fps, total, sample_fps, frames, where):
    clip = RULES[rule](fps, total, sample_fps, frames, drawer(where))
    kept = [number for number in clip if number != BLANK]
    assert len(clip) == frames
    assert clip == kept + [BLANK] * (frames - len(kept))
    assert kept == sorted(kept)
    assert all(0 <= number < total for number in kept)
