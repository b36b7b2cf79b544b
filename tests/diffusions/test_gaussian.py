"""`GaussianDiffusion` and DPM-Solver++(2M) SDE: times, noise sources, and a second opinion from diffusers."""
import importlib.util
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diffusions.networks import Recorder, randn
from tools import noise
from tools.diffusions import dpm_solver, schedules
from tools.diffusions.ddim_sr import DiffusionDDIMSR
from tools.diffusions.gaussian import GaussianDiffusion, timesteps
from tools.errors import UserError
from tools.registry import DIFFUSION

SHAPE = (2, 4, 3, 4, 5)
SECTION = {"schedule": "cosine", "mean_type": "v", "schedule_param": {"num_timesteps": 1000}}


def process(prediction_type="v", schedule="logsnr_cosine_interp", n=1000):
    return GaussianDiffusion(schedules.sigma_schedule(schedule, n), prediction_type)


@pytest.mark.parametrize(("prediction_type", "theirs"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_solver_agrees_with_diffusers(prediction_type, theirs):
    betas = schedules.beta_schedule("linear_sd", 1000)
    diffusion = GaussianDiffusion(schedules.betas_to_sigmas(betas), prediction_type)
    start, y, times = randn(*SHAPE), randn(2, 3), torch.tensor([950, 801, 633, 420, 251, 77])
    drawn = [randn(*SHAPE, seed=i) for i in range(1, 6)]
    remaining = iter(drawn)
    ours = diffusion.sample(start, Recorder(), {"y": y}, steps=times, brownian=lambda a, b: next(remaining))

    oracle = DPMSolverMultistepScheduler(trained_betas=betas.numpy(), algorithm_type="sde-dpmsolver++",
                                         prediction_type=theirs, final_sigmas_type="zero")
    oracle.set_timesteps(timesteps=times.tolist())
    x = start * diffusion.sigmas[950]
    for t, n in zip(times, [*drawn, torch.zeros(SHAPE)]):
        x = oracle.step(Recorder()(x, t.expand(2), y=y), t, x, variance_noise=n).prev_sample
    assert (ours - x).abs().max() / x.abs().max() < 1e-4


@given(st.integers(1, 60), st.integers(100, 999), st.integers(0, 50),
       st.sampled_from(["leading", "linspace", "trailing"]))
@settings(max_examples=40, deadline=None)
def test_times_descend_within_their_range(n, t_max, t_min, discretization):
    times = timesteps(n, t_max, t_min, discretization)
    assert len(times) in (n, n + 1) and (times.diff() <= 0).all()
    assert times.max() <= t_max and times.min() >= t_min


@given(st.floats(0, 999))
@settings(max_examples=40, deadline=None)
def test_k_sigma_and_time_are_inverse(t):
    diffusion = process()
    back = diffusion.k_sigma_to_t(diffusion.t_to_k_sigma(torch.tensor([t])))
    assert abs(back.item() - t) < 0.3  # the last steps of the schedule are flat in float32


@pytest.mark.parametrize("steps", [1, 2, 15])
@pytest.mark.parametrize("discretization", ["leading", "linspace", "trailing"])
def test_sampling_from_pure_noise_is_finite(steps, discretization):
    betas = schedules.beta_schedule("cosine", 1000, zero_terminal_snr=True)
    diffusion = GaussianDiffusion(schedules.betas_to_sigmas(betas), "v")
    seen = []
    out = diffusion.sample(randn(*SHAPE), Recorder(), steps=steps, discretization=discretization,
                           progress=lambda *p: seen.append(p), generator=torch.Generator().manual_seed(0))
    assert out.isfinite().all() and seen[-1] == (steps, steps)


def test_generator_decides_the_noise():
    runs = [process().sample(randn(*SHAPE), Recorder(), steps=6, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_solver_without_torchsde_says_so_and_stays_seeded(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    runs = [process().sample(randn(*SHAPE), Recorder(), steps=6, generator=torch.Generator().manual_seed(1))
            for _ in range(2)]
    assert torch.equal(*runs) and "torchsde is not installed" in caplog.text


@pytest.mark.parametrize("source", ["BrownianTree", "BrownianIncrements"])
def test_brownian_noise_is_standard_normal_and_independent(source):
    if source == "BrownianTree":
        pytest.importorskip("torchsde")
    x, generator = torch.zeros(40_000), torch.Generator().manual_seed(0)
    ends = torch.tensor([8.0, 3.0, 0.5, 0.01])
    brownian = (dpm_solver.BrownianTree(x, ends.min(), ends.max(), generator) if source == "BrownianTree"
                else dpm_solver.BrownianIncrements(x, generator))
    first, second, third = (brownian(a, b) for a, b in pairwise(ends))
    for n in (first, second, third):
        assert abs(n.mean()) < 0.02 and abs(n.std() - 1) < 0.02
    assert abs((first * second).mean()) < 0.02 and abs((second * third).mean()) < 0.02


def test_eta_zero_draws_nothing(monkeypatch):
    monkeypatch.setattr(noise, "device_randn", lambda *a, **k: pytest.fail("a random number was drawn"))
    process().sample(randn(*SHAPE), Recorder(), steps=5, eta=0.0, brownian=lambda a, b: pytest.fail("drawn"))


@pytest.mark.parametrize("kind", ["x0", "xt"])
def test_intermediates_are_returned_for_every_evaluation(kind):
    out, kept = process().sample(randn(*SHAPE), Recorder(), steps=5, return_intermediate=kind)
    assert len(kept) == 5 and all(k.shape == out.shape for k in kept)
    if kind == "x0":
        torch.testing.assert_close(kept[-1], out)


def test_inversion_then_sampling_comes_back():
    diffusion = process("eps", "linear_sd")

    def network(x, t):  # exact for standard normal data, whose probability flow leaves x where it is
        return diffusion.alpha_sigma(t, x)[1] * x

    x0 = randn(*SHAPE)
    inverted = diffusion.ddim_reverse_sample_loop(x0, network, ddim_timesteps=100, reverse_steps=700)
    back = diffusion.sample(inverted, network, steps=100, t_max=699, eta=0.0)
    # The solver takes its start for the noise alone and scales it by sigma at step 699.
    assert (back - x0 * diffusion.sigmas[699]).abs().max() / x0.abs().max() < 0.05


@given(st.integers(0, 999), st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_next_step_undoes_prev_step(step, inference_steps):
    diffusion = process()
    x0, n = randn(*SHAPE, dtype=torch.float64), randn(*SHAPE, seed=1, dtype=torch.float64)
    t, earlier = torch.tensor([step] * 2), torch.tensor([step - 1000 // inference_steps] * 2)

    def velocity(t):
        alpha, sigma = diffusion.alpha_sigma(t, x0)
        return alpha * n - sigma * x0

    xt = diffusion.diffuse(x0, t, n)
    previous = diffusion.prev_step(velocity(t), t, xt, inference_steps)
    torch.testing.assert_close(diffusion.next_step(velocity(earlier), t, previous, inference_steps), xt, rtol=1e-5,
                               atol=1e-5)


def test_step_may_be_one_number_for_the_batch():
    x, v = randn(*SHAPE), randn(*SHAPE, seed=1)
    for method in (process().prev_step, process().next_step):
        assert torch.equal(method(v, 640, x), method(v, torch.tensor([640, 640]), x))


def test_step_below_zero_is_the_clean_sample():
    diffusion = process(schedule="linear_sd")
    mean, variance, log_variance, x0, _ = diffusion.denoise(randn(*SHAPE), torch.tensor([0, 0]), None, Recorder())
    torch.testing.assert_close(mean, x0, rtol=1e-3, atol=1e-6)  # 1 - alpha^2 in float32
    assert variance.max() == 0 and log_variance.unique().item() == -20


@pytest.mark.parametrize("level", [149, 699])
def test_an_exact_start_is_what_the_network_sees(level):
    diffusion, start = process(schedule="cosine"), randn(*SHAPE)
    options = {"steps": 4, "t_max": level, "eta": 0.0, "return_intermediate": "xt"}
    _, exact = diffusion.sample(start, Recorder(), {"y": randn(2, 3)}, exact_start=True, **options)
    _, shrunk = diffusion.sample(start, Recorder(), {"y": randn(2, 3)}, **options)
    assert torch.allclose(exact[0], start, rtol=1e-4, atol=1e-5)
    assert torch.allclose(shrunk[0], start * diffusion.sigmas[level].float(), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: process("velocity"), "unknown mean_type 'velocity'"),
    (lambda: process().sample(randn(*SHAPE), Recorder(), solver="euler_a"), "unknown solver 'euler_a'"),
    (lambda: process().sample(randn(*SHAPE), Recorder(), discretization="trail"), "did you mean 'trailing'"),
    (lambda: process().sample(randn(*SHAPE), Recorder(), solver_type="huen"), "did you mean 'heun'"),
    (lambda: process().sample(randn(*SHAPE), Recorder(), steps=0), "between 1 and 1000 steps, not 0"),
    (lambda: process().sample(randn(*SHAPE), Recorder(), steps=20, t_max=1000), r"t_max \(1000\)"),
    (lambda: process().sample(randn(*SHAPE), Recorder(), steps=701, t_max=699), "between 1 and 700 steps, not 701"),
    (lambda: process().ddim_reverse_sample_loop(randn(*SHAPE), Recorder(), ddim_timesteps=30, reverse_steps=1001),
     "num_timesteps"),
    (lambda: DiffusionDDIMSR(SECTION, SECTION | {"mean_typ": "v"}), "forward_diffusion.*did you mean 'mean_type'"),
    (lambda: DiffusionDDIMSR({}, SECTION), "reverse_diffusion lacks the key 'schedule'"),
])
def test_bad_option_gets_one_line(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_super_resolution_takes_the_keys_that_leak_from_the_defaults():
    built = DIFFUSION.build({"type": "DiffusionDDIMSR", "reverse_diffusion": SECTION, "forward_diffusion": SECTION,
                             "schedule": "cosine", "noise_strength": 0.1, "ddim_timesteps": 50})
    assert built.forward_diffusion.num_timesteps == 1000
