"""What the measurement of HiGen's dials reads off clips whose truth is known, and how it sums up."""
import numpy as np
import pytest

from tools.benchmarks.content_factors import summary, travel_and_hue
from tools.world.draw import render
from tools.world.scene import Truth


def clip(travel: float, hue: float, color: str = "red") -> np.ndarray:
    """An object that goes `travel` to the right while its colour turns by `hue` degrees."""
    still = (0.0, 0.0)
    truth = Truth("square", color, "gray", "moving right", (-travel / 2, travel / 2), still, (0.2, 0.2), still, hue)
    return render(truth, 8, (64, 64))


@pytest.mark.parametrize("travel", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("hue", [-45, 0, 45, 120])
def test_travel_and_hue_are_read_apart_from_each_other(travel, hue):
    seen_travel, seen_hue = travel_and_hue(clip(travel, hue))
    assert seen_travel == pytest.approx(travel, abs=0.02)
    assert seen_hue == pytest.approx(hue, abs=6)


def test_a_turn_across_red_does_not_jump():
    assert travel_and_hue(clip(0.2, 90, "purple"))[1] == pytest.approx(90, abs=6)


def test_where_no_object_is_seen_there_is_no_figure():
    assert np.isnan(travel_and_hue(np.full((8, 64, 64, 3), 128, np.uint8))).all()


def test_the_summary_tells_a_dial_that_turns_alone_from_one_that_leaks():
    def rows(*values):
        return {float(i): {"travel": travel, "hue": hue} for i, (travel, hue) in enumerate(values)}

    clean = summary({"motion_factor": rows((0.1, 50), (0.2, 51), (0.3, 50)),
                     "appearance_factor": rows((0.2, 0), (0.2, 40), (0.21, 80))})
    assert clean["motion_factor"]["monotonic"] and clean["appearance_factor"]["monotonic"]
    assert clean["motion_factor"]["leak"] == pytest.approx(1 / 80)
    assert clean["appearance_factor"]["leak"] == pytest.approx(0.01 / 0.2)
    leaky = summary({"motion_factor": rows((0.1, 0), (0.3, 40), (0.2, 80)),
                     "appearance_factor": rows((0.2, 0), (0.2, 40), (0.2, 80))})
    assert not leaky["motion_factor"]["monotonic"] and leaky["motion_factor"]["leak"] == pytest.approx(1)
