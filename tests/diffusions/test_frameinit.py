"""FrameInit: what it takes from the still clip, what from the noise."""
import pytest
import torch

from tests.diffusions.networks import randn
from tools.diffusions.ddim_scheduler import DDIMScheduler
from tools.diffusions.frameinit import FrameInit, low_pass, mix_frequencies
from tools.errors import UserError
from tools.registry import NOISE_INIT

SHAPE = (2, 4, 6, 8, 8)
PROCESS = DDIMScheduler(beta_start=0.00085, beta_end=0.012)
STILL = randn(2, 4, 1, 8, 8, seed=1).expand(SHAPE)


def parameters(method: str) -> dict:
    return {"method": method, "d_s": 0.5, "d_t": 0.5} | ({"n": 4} if method == "butterworth" else {})


@pytest.mark.parametrize("method", ["gaussian", "butterworth", "ideal", "box"])
def test_masks_pass_the_zero_frequency_and_stop_the_highest(method):
    mask = low_pass((6, 8, 8), **parameters(method))
    assert mask[3, 4, 4] == 1
    assert mask[0, 0, 0] < 0.2
    assert mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize("cut", [{"d_s": 0}, {"d_t": 0}])
def test_no_low_frequencies_leave_the_noise_as_it_is(cut):
    init = FrameInit(filter_params=parameters("gaussian") | cut)
    noise = randn(*SHAPE)
    torch.testing.assert_close(init(noise, STILL, PROCESS), noise)


def test_mixing_is_exact_at_both_ends():
    low, high = randn(*SHAPE), randn(*SHAPE, seed=1)
    torch.testing.assert_close(mix_frequencies(low, high, torch.ones(6, 8, 8)), low, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mix_frequencies(low, high, torch.zeros(6, 8, 8)), high)


def test_frames_agree_more_the_less_the_still_clip_is_noised():
    noise = randn(*SHAPE)

    def agreement(level):
        start = FrameInit(level, parameters("gaussian"))(noise, STILL, PROCESS)
        return float(torch.nn.functional.cosine_similarity(start.flatten(2)[..., :64], STILL.flatten(2)[..., :64],
                                                           dim=-1).mean())

    assert agreement(100) > agreement(850) > agreement(999) - 1e-6


def test_noise_of_its_own_is_drawn_only_when_asked_for():
    noise, other, draws = randn(*SHAPE), randn(*SHAPE, seed=5), []

    def draw():
        draws.append(1)
        return other

    shared = FrameInit()(noise, STILL, PROCESS, draw)
    assert not draws
    apart = FrameInit(independent_noise=True)(noise, STILL, PROCESS, draw)
    assert draws == [1]
    assert (apart - shared).abs().max() > 1e-3


@pytest.mark.parametrize(("section", "words"), [
    ({"filter_params": {"method": "gausian"}}, "filter 'gausian' is unknown .did you mean 'gaussian'"),
    ({"filter_params": {"method": "butterworth"}}, "needs its order n"),
    ({"filter_params": {"ds": 0.25}}, "unknown key 'ds' .did you mean 'd_s'"),
    ({"filter_params": {"d_s": -1}}, "must not be negative"),
    ({"noise_levle": 850}, "unknown key 'noise_levle' .did you mean 'noise_level'"),
])
def test_wrong_settings_are_named(section, words):
    with pytest.raises(UserError, match=words):
        NOISE_INIT.build({"type": "FrameInit", **section})


def test_a_level_beyond_the_process_is_refused():
    with pytest.raises(UserError, match="noise_level 1000 is no step"):
        FrameInit(1000)(randn(*SHAPE), STILL, PROCESS)
