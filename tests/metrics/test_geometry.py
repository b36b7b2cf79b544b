"""Geometry reads the world's clips back: its own accuracy on ground truth, and what it must refuse."""
import collections
from fractions import Fraction

import cv2
import numpy as np
import pytest

from tools.media import probe_video, read_frames, write_video
from tools.metrics.geometry import hue, read_clip
from tools.world.draw import render
from tools.world.scene import sample_truth, track
from tools.world.vocabulary import MOTIONS, World

WORLD = World(motions=tuple(MOTIONS))
ATTRIBUTES = ("shape", "color", "background", "motion")
CLIPS = 100  # so that a limit of 99 percent allows for one mistake
LIMIT = Fraction(99, 100)


def clean(video, folder):
    return video


def noisy_and_blurred(video, folder):
    """Gaussian blur of 0.8 pixels, then noise of 8 grey levels."""
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 0.8) for frame in video])
    noise = np.random.default_rng(int(video.sum())).normal(0, 8, video.shape)
    return (blurred + noise).round().clip(0, 255).astype(np.uint8)


def encoded(video, folder):
    """Through the H.264 writer that generated videos go through."""
    path = write_video(folder / "clip.mp4", video, 8)
    return read_frames(path, range(probe_video(path).frames))


@pytest.mark.parametrize("channel", [clean, noisy_and_blurred, encoded])
@pytest.mark.parametrize(("frames", "size"), [(16, (64, 64)), (8, (32, 32))])
def test_each_attribute_is_right_in_99_percent_of_clips(tmp_path, channel, frames, size):
    right = collections.Counter()
    for index in range(CLIPS):
        truth = sample_truth(20260, index, WORLD)
        reading = read_clip(channel(render(truth, frames, size), tmp_path))
        path = track(truth, frames, size)
        right.update(name for name in ATTRIBUTES if getattr(reading, name) == getattr(truth, name))
        right["position"] += np.abs(reading.centers - path.centers).max() < 0.3
        right["size"] += np.abs(reading.radii / path.radii - 1).max() < 0.15
    assert {name: share for name in (*ATTRIBUTES, "position", "size")
            if (share := Fraction(right[name], CLIPS)) < LIMIT} == {}


@pytest.mark.parametrize("size", [(96, 48), (130, 130)])
def test_other_sizes(size):
    for index in range(12):
        truth = sample_truth(5, index, WORLD)
        reading = read_clip(render(truth, 6, size))
        assert all(getattr(reading, name) == getattr(truth, name) for name in ATTRIBUTES)


def test_angles_follow_a_turning_object():
    truth = sample_truth(5, 0, World(motions=("turning",)))
    reading = read_clip(render(truth, 12, (64, 64)))
    turned = reading.angles[-1] - reading.angles[0]
    assert turned == pytest.approx(truth.angle[1] - truth.angle[0], abs=0.05)


def test_an_empty_clip_has_a_background_and_nothing_else():
    reading = read_clip(np.full((4, 32, 32, 3), 128, np.uint8))
    assert reading.background == "gray"
    assert reading.shape is reading.color is reading.motion is None
    assert not reading.found.any() and np.isnan(reading.centers).all()


def test_noise_alone_is_nothing():
    reading = read_clip(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8))
    assert reading.shape is reading.motion is None


def drawn(draw, frames=8) -> np.ndarray:
    """White clip of 64x64 on which `draw(frame, number)` drew."""
    video = np.full((frames, 64, 64, 3), 255, np.uint8)
    for number, frame in enumerate(video):
        draw(frame, number)
    return video


RED, BROWN, CYAN = (225, 25, 40), (120, 65, 10), (0, 200, 200)


@pytest.mark.parametrize(("draw", "attribute"), [
    (lambda frame, i: cv2.circle(frame, (32, 32), 12, RED, 4), "shape"),  # a ring
    (lambda frame, i: cv2.rectangle(frame, (18, 28), (46, 36), RED, -1), "shape"),  # a bar
    (lambda frame, i: [cv2.circle(frame, (x, x), 8, RED, -1) for x in (16, 48)], "shape"),  # two objects
    (lambda frame, i: cv2.circle(frame, (32, 32), 12, CYAN, -1), "color"),
    (lambda frame, i: cv2.circle(frame, (32, 32), 12, BROWN, -1), "color"),
    (lambda frame, i: frame.__setitem__(..., (255, 200, 200)), "background"),
    (lambda frame, i: frame.__setitem__(..., 197), "background"),  # as bright as stripes are on average
    (lambda frame, i: cv2.circle(frame, (32, 32), 12, RED, -1), "motion"),  # stands still
    (lambda frame, i: cv2.circle(frame, (20 + 3 * i, 20 + 3 * i), 12, RED, -1), "motion"),  # slantwise
])
def test_what_is_not_of_the_world_is_unclear(draw, attribute):
    assert getattr(read_clip(drawn(draw)), attribute) is None


def test_one_frame_has_no_motion():
    reading = read_clip(render(sample_truth(0, 0), 1, (64, 64)))
    assert reading.motion is None and reading.shape == "circle"


def test_a_frame_without_the_object_is_passed_over():
    truth = sample_truth(0, 2)
    video = render(truth, 16, (64, 64))
    video[5] = video[0, 0, 0]
    reading = read_clip(video)
    assert (reading.shape, reading.motion) == (truth.shape, truth.motion)
    assert reading.shapes[5] is None and reading.found.sum() == 15


@pytest.mark.parametrize(("rgb", "degrees"),
                         [((255, 0, 0), 0), ((255, 255, 0), 60), ((0, 90, 0), 120), ((9, 9, 200), 240)])
def test_hue(rgb, degrees):
    assert hue(np.array(rgb)) == pytest.approx(degrees)


def test_floats_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        read_clip(np.zeros((2, 16, 16, 3), np.float32))
