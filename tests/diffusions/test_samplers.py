"""Sampling loops: second opinions, determinism, draws, and the cases where the original breaks."""
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diffusions.networks import Recorder, randn
from tools import noise
from tools.diffusions.ddim import MEAN_TYPES, DiffusionDDIM
from tools.diffusions.samplers import ddim_timesteps
from tools.errors import UserError

SHAPE = (2, 4, 3, 4, 5)
STABLE_DIFFUSION = {"num_timesteps": 1000, "init_beta": 0.00085, "last_beta": 0.012}
LOOPS = {
    "p_sample_loop": {},
    "ddim_sample_loop": {"ddim_timesteps": 8},
    "ddim_reverse_sample_loop": {"ddim_timesteps": 8},
    "plms_sample_loop": {"plms_timesteps": 8},
}


def short_process(mean_type="v", **options):
    return DiffusionDDIM("cosine", {"num_timesteps": 40, "zero_terminal_snr": True}, mean_type, "fixed_small",
                         **options)


def forbid_draws(*_, **__):
    raise AssertionError("a random number was drawn")


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize(("mean_type", "theirs"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_ddim_agrees_with_diffusers(mean_type, theirs, zero_terminal_snr, eta):
    parameters = STABLE_DIFFUSION | {"zero_terminal_snr": zero_terminal_snr}
    diffusion = DiffusionDDIM("linear_sd", parameters, mean_type, "fixed_small")
    x, y = randn(*SHAPE), randn(2, 3)
    ours = diffusion.ddim_sample_loop(x, Recorder(), {"y": y}, ddim_timesteps=25, eta=eta,
                                      generator=torch.Generator().manual_seed(3))

    oracle = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                           set_alpha_to_one=False, steps_offset=1, prediction_type=theirs,
                           rescale_betas_zero_snr=zero_terminal_snr)
    oracle.set_timesteps(25)
    generator = torch.Generator().manual_seed(3)
    for t in oracle.timesteps:
        out = Recorder()(x, t.expand(2), y=y)
        drawn = torch.randn(SHAPE, generator=generator) if eta else None
        x = oracle.step(out, t, x, eta=eta, variance_noise=drawn).prev_sample
    assert (ours - x).abs().max() / x.abs().max() < 1e-4


@given(st.integers(1, 1000))
@settings(max_examples=40, deadline=None)
def test_ddim_times_descend_to_one_by_equal_strides(steps):
    times = ddim_timesteps(1000, steps)
    assert times[-1] == 1 and times[0] <= 999 and len(times) >= steps
    strides = [a - b for a, b in pairwise(times)]
    assert set(strides[1:]) <= {1000 // steps}  # the first may be cut short by the end of the schedule


@pytest.mark.parametrize("steps", [500, 1000])
def test_zero_terminal_snr_is_finite_at_any_number_of_steps(steps):
    diffusion = DiffusionDDIM("cosine", {"num_timesteps": 1000, "zero_terminal_snr": True}, "v", "fixed_small")
    out = diffusion.ddim_sample_loop(randn(1, 2, 2, 2, 2), lambda x, t: 0.5 * torch.tanh(x), ddim_timesteps=steps)
    assert out.isfinite().all()


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
@pytest.mark.parametrize("options", [{"clamp": 1.0}, {"percentile": 0.9},
                                     {"guide_scale": 9.0, "model_kwargs": [{}, {}]},
                                     {"condition_fn": lambda x, t: 0.1 * torch.sin(x)}], ids=lambda o: next(iter(o)))
def test_limits_and_guidance_are_finite_where_no_signal_is_left(mean_type, options):
    out = short_process(mean_type).ddim_sample_loop(randn(1, 2, 2, 2, 2), lambda x, t: 0.5 * torch.tanh(x),
                                                    ddim_timesteps=40, **options)
    assert out.isfinite().all()


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_is_finite_from_pure_noise(loop, mean_type):
    diffusion = short_process(mean_type)
    assert getattr(diffusion, loop)(randn(*SHAPE), lambda x, t: 0.5 * torch.tanh(x), **LOOPS[loop]).isfinite().all()


def gaussian_data_network(diffusion):
    """The exact noise predictor of standard normal data, sigma_t x: its probability flow leaves x where it is."""
    return lambda x, t: diffusion.alpha_sigma(t, x)[1] * x


@given(st.integers(0, 2**16))
@settings(max_examples=5, deadline=None)
def test_inversion_then_sampling_comes_back(seed):
    diffusion = DiffusionDDIM("linear_sd", STABLE_DIFFUSION, "eps", "fixed_small")
    network, x0 = gaussian_data_network(diffusion), randn(1, 4, 2, 3, 3, seed=seed)
    errors = []
    for steps in (20, 200):
        inverted = diffusion.ddim_reverse_sample_loop(x0, network, ddim_timesteps=steps)
        back = diffusion.ddim_sample_loop(inverted, network, ddim_timesteps=steps)
        errors.append((back - x0).abs().max() / x0.abs().max())
    assert errors[0] < 0.25 and errors[1] < 0.025


def test_plms_is_closer_to_the_exact_flow_than_ddim():
    diffusion = DiffusionDDIM("linear_sd", STABLE_DIFFUSION, "eps", "fixed_small")
    network, x = gaussian_data_network(diffusion), randn(1, 4, 2, 3, 3)
    ddim = diffusion.ddim_sample_loop(x, network, ddim_timesteps=20)
    plms = diffusion.plms_sample_loop(x, network, plms_timesteps=20)
    assert (plms - x).abs().max() < 0.3 * (ddim - x).abs().max()


def test_ancestral_and_ddim_samples_of_normal_data_are_normal():
    diffusion = short_process("eps")
    network, x = gaussian_data_network(diffusion), randn(4000, 1)
    for sample in (diffusion.p_sample_loop(x, network, generator=torch.Generator().manual_seed(1)),
                   diffusion.ddim_sample_loop(x, network, ddim_timesteps=40, eta=1.0)):
        assert abs(sample.mean()) < 0.08 and abs(sample.std() - 1) < 0.08


@pytest.mark.parametrize("loop", ["ddim_sample_loop", "ddim_reverse_sample_loop", "plms_sample_loop"])
def test_deterministic_loops_draw_nothing(loop, monkeypatch):
    monkeypatch.setattr(noise, "device_randn", forbid_draws)
    getattr(short_process(), loop)(randn(*SHAPE), Recorder(), **LOOPS[loop])


@pytest.mark.parametrize(("loop", "options"), [("p_sample_loop", {}), ("ddim_sample_loop", {"eta": 1.0})])
def test_generator_decides_every_draw(loop, options):
    runs = [getattr(short_process(), loop)(randn(*SHAPE), Recorder(), generator=torch.Generator().manual_seed(seed),
                                           **options) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("loop", LOOPS)
def test_progress_counts_every_step(loop):
    seen = []
    getattr(short_process(), loop)(randn(*SHAPE), Recorder(), progress=lambda *p: seen.append(p), **LOOPS[loop])
    total = 40 if loop == "p_sample_loop" else 8
    assert seen == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("loop", ["p_sample_loop", "ddim_sample_loop", "plms_sample_loop"])
def test_condition_function_gets_the_conditional_set_under_guidance(loop):
    y, seen = randn(2, 3), []

    def push(x, t, y):
        seen.append(y)
        return torch.zeros_like(x)

    arguments = {"model_kwargs": [{"y": y}, {"y": y * 0}], "guide_scale": 3.0, **LOOPS[loop],
                 "generator": torch.Generator().manual_seed(0)}
    pushed = getattr(short_process(), loop)(randn(*SHAPE), Recorder(), condition_fn=push, **arguments)
    arguments["generator"] = torch.Generator().manual_seed(0)
    torch.testing.assert_close(pushed, getattr(short_process(), loop)(randn(*SHAPE), Recorder(), **arguments))
    assert all(value is y for value in seen)


@pytest.mark.parametrize("steps", [0, -3, 41])
def test_impossible_number_of_steps_gets_one_line(steps):
    with pytest.raises(UserError, match=f"between 1 and num_timesteps = 40, not {steps}"):
        short_process().ddim_sample_loop(randn(*SHAPE), Recorder(), ddim_timesteps=steps)
