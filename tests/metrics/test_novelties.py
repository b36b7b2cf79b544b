"""The new subject and the new motion are recognised, and nothing else is taken for them."""
import cv2
import numpy as np
import pytest

from tools.metrics.novelties import goes_aslant, read_novelties
from tools.world.draw import render
from tools.world.scene import sample_truth, track
from tools.world.vocabulary import NEW_COLORS, NEW_MOTIONS, NEW_SHAPES, World

SUBJECT = {"shapes": tuple(NEW_SHAPES), "colors": tuple(NEW_COLORS)}
MOTION = {"motions": tuple(NEW_MOTIONS)}
CLIPS = 8


def seen(world: World, side: int, blur: float = 0.0) -> tuple[float, float, float]:
    """Shares of clips with the subject, the motion and both."""
    found = []
    for index in range(CLIPS):
        video = render(sample_truth(7, index, world), side // 4, (side, side))
        if blur:
            video = np.stack([cv2.GaussianBlur(frame, (0, 0), blur) for frame in video])
        found.append(read_novelties(video))
    return tuple(sum(getattr(one, part) for one in found) / CLIPS for part in ("subject", "motion", "both"))


@pytest.mark.parametrize(("side", "blur"), [(64, 0), (64, 1.2), (32, 0.8)])
@pytest.mark.parametrize(("words", "expected"), [
    (SUBJECT, (1, 0, 0)), (MOTION, (0, 1, 0)), (SUBJECT | MOTION, (1, 1, 1)), ({}, (0, 0, 0)),
    ({"shapes": tuple(NEW_SHAPES)}, (0, 0, 0)),
])
def test_subject_and_motion_are_seen_where_they_are_and_nowhere_else(words, expected, side, blur):
    assert seen(World(**words), side, blur) == expected


def test_stripes_alone_do_not_make_the_subject():
    assert seen(World(shapes=("square", "triangle", "star"), colors=tuple(NEW_COLORS)), 64)[0] == 0


def test_only_the_new_way_gone_straight_and_seen_is_the_motion():
    path = track(sample_truth(3, 0, World(**MOTION)), 16, (64, 64)).centers
    assert goes_aslant(path, 64)
    assert not goes_aslant(path[::-1], 64)
    assert not goes_aslant(path * [1, -1], 64)
    assert not goes_aslant(path * [1, 0.2], 64)
    assert not goes_aslant(path * 0.3, 64)
    hidden = path.copy()
    hidden[::2] = np.nan
    assert not goes_aslant(hidden, 64)
    bent = path + 12 * np.sin(np.linspace(0, 2 * np.pi, 16))[:, None] * [1, -1]
    assert not goes_aslant(bent, 64)


def test_the_new_words_left_what_older_seeds_draw_as_it_was():
    truth = sample_truth(3, 5)
    assert (truth.shape, truth.color, truth.background, truth.motion) in {
        (shape, color, background, motion) for shape in World().shapes for color in World().colors
        for background in World().backgrounds for motion in World().motions}
    assert {*NEW_SHAPES, *NEW_COLORS, *NEW_MOTIONS}.isdisjoint({*World().shapes, *World().colors, *World().motions})
