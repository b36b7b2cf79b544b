"""Noise schedules: what is claimed of the tables, and a second opinion from diffusers."""
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.diffusions import schedules
from tools.diffusions.options import schedule_table
from tools.errors import UserError


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [("linear_sd", "scaled_linear"), ("linear", "linear"),
                                              ("cosine", "squaredcos_cap_v2")])
def test_betas_agree_with_diffusers(ours, theirs, zero_terminal_snr):
    ends = {"init_beta": 0.0009, "last_beta": 0.013}
    oracle = DDIMScheduler(beta_schedule=theirs, beta_start=0.0009, beta_end=0.013,
                           rescale_betas_zero_snr=zero_terminal_snr)
    betas = schedules.beta_schedule(ours, 1000, **ends, zero_terminal_snr=zero_terminal_snr)
    torch.testing.assert_close(betas.float(), oracle.betas, rtol=2e-4, atol=1e-6)


@given(st.sampled_from(schedules.BETA_SCHEDULES), st.integers(2, 400), st.booleans())
@settings(max_examples=40, deadline=None)
def test_betas_lie_in_range_and_end_in_pure_noise_when_asked(schedule, n, zero_terminal_snr):
    betas = schedules.beta_schedule(schedule, n, zero_terminal_snr=zero_terminal_snr)
    assert betas.shape == (n,) and betas.dtype == torch.float64
    assert (betas > 0).all() and (betas <= 1).all()
    if zero_terminal_snr:
        plain = schedules.beta_schedule(schedule, n)
        assert torch.cumprod(1 - betas, 0)[-1] == 0
        torch.testing.assert_close(betas[0], plain[0])


def test_linear_schedule_without_end_points_is_that_of_ddpm():
    betas = schedules.beta_schedule("linear", 1000)
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=30, unique=True))
@settings(max_examples=40, deadline=None)
def test_conversions_are_inverse(values):
    sigmas = torch.tensor(sorted(values), dtype=torch.float64)
    torch.testing.assert_close(schedules.betas_to_sigmas(schedules.sigmas_to_betas(sigmas)), sigmas)
    torch.testing.assert_close(schedules.logsnrs_to_sigmas(schedules.sigmas_to_logsnrs(sigmas)), sigmas)


@pytest.mark.parametrize("schedule", schedules.SIGMA_SCHEDULES)
def test_sigmas_ascend(schedule):
    sigmas = schedules.sigma_schedule(schedule, 500)
    assert (sigmas.diff() >= 0).all() and sigmas[0] > 0 and sigmas[-1] <= 1


def test_karras_levels_span_the_range():
    sigmas = schedules.karras_schedule(7, sigma_min=0.1, sigma_max=10.0)
    k = sigmas / torch.sqrt(1 - sigmas**2)
    torch.testing.assert_close(k[[0, -1]], torch.tensor([0.1, 10.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("function", "schedule", "parameters", "message"), [
    (schedules.beta_schedule, "cosin", {}, "did you mean 'cosine'"),
    (schedules.sigma_schedule, "logsnr_cosine", {}, "did you mean 'logsnr_cosine_interp'"),
    (schedules.beta_schedule, "cosine", {"num_timestep": 10}, "did you mean 'num_timesteps'"),
    (schedules.beta_schedule, "linear", {"last_beta": 1.5}, "last_beta 1.5"),
    (schedules.beta_schedule, "linear", {"num_timesteps": 0}, "at least 1"),
])
def test_bad_schedule_gets_one_line(function, schedule, parameters, message):
    with pytest.raises(UserError, match=message):
        schedule_table(function, schedule, parameters)
