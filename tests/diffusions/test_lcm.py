"""Consistency models: against diffusers' scheduler, and what must hold whatever the network says."""
import pytest
import torch

from tests.diffusions.networks import Recorder, randn
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.lcm import (
    SolverGrid,
    boundary_scalings,
    consistency,
    few_step_times,
    guided_prediction,
    multistep,
    pseudo_huber,
)
from tools.errors import UserError

NETWORK = Recorder()
ORACLES = {"v": ("v_prediction", True), "eps": ("epsilon", False), "x0": ("sample", True)}


def process(mean_type: str = "v", zero_terminal_snr: bool = True) -> DiffusionDDIM:
    parameters = {"init_beta": 0.00085, "last_beta": 0.012, "zero_terminal_snr": zero_terminal_snr}
    return DiffusionDDIM("linear_sd", parameters, mean_type, "fixed_small")


def noise(seed: int) -> torch.Tensor:
    return randn(2, 4, 3, 4, 5, seed=seed)


def scheduler(mean_type: str):
    """diffusers' scheduler of the same process."""
    from diffusers import LCMScheduler

    prediction, to_noise = ORACLES[mean_type]
    return LCMScheduler(prediction_type=prediction, beta_schedule="scaled_linear", clip_sample=False,
                        rescale_betas_zero_snr=to_noise)


def test_times_are_those_of_diffusers_for_every_number_of_steps():
    oracle = scheduler("v")
    for steps in range(1, 51):
        oracle.set_timesteps(steps)
        assert few_step_times(1000, 50, steps) == oracle.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("mean_type", ORACLES)
def test_samples_are_those_of_diffusers(mean_type, steps):
    diffusion, oracle = process(mean_type, ORACLES[mean_type][1]), scheduler(mean_type)
    oracle.set_timesteps(steps)
    draws = torch.Generator().manual_seed(1)
    x = noise(0)
    for t in oracle.timesteps:
        x = oracle.step(NETWORK(x, t.expand(2)), t, x, generator=draws, return_dict=False)[0]
    ours = multistep(diffusion.denoiser(NETWORK, {}, x), noise(0), steps, 50,
                     generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mean_type", ORACLES)
def test_at_time_0_the_sample_is_returned_whatever_the_network_says(mean_type):
    x, t = noise(0), torch.zeros(2, dtype=torch.long)
    assert torch.equal(consistency(process(mean_type), 100 * noise(1), x, t), x)
    c_skip, c_out = boundary_scalings(torch.tensor([19, 999]))
    assert (c_skip < 1e-5).all() and (c_out > 1 - 1e-5).all()


def test_a_step_of_the_grid_leads_along_the_line_of_clean_sample_and_noise():
    diffusion = process()
    grid = SolverGrid.of(diffusion.tables.alphas_cumprod, 50)
    x0, eps, index = noise(0), noise(1), torch.tensor([49, 20])
    t, earlier = grid.pair(index)
    assert t.tolist() == [999, 419] and earlier.tolist() == [979, 399]
    torch.testing.assert_close(grid.step(x0, eps, index), diffusion.q_sample(x0, earlier, eps))
    assert grid.pair(torch.tensor([0]))[1].tolist() == [0]


def test_the_teachers_step_is_ddims_with_the_scale_one_above_w():
    diffusion = process()
    grid = SolverGrid.of(diffusion.tables.alphas_cumprod, 50)
    xt, index, w = noise(0), torch.tensor([30, 7]), torch.tensor([4.0, 4.0])
    t, _ = grid.pair(index)
    conditional, unconditional = NETWORK(xt, t), NETWORK(-xt, t)
    x0, eps = guided_prediction(diffusion, conditional, unconditional, w, xt, t)
    model = iter((conditional, unconditional))
    expected = diffusion.p_mean_variance(xt, t, lambda *_: next(model), [{}, {}], guide_scale=5.0)[3]
    torch.testing.assert_close(x0, expected)
    torch.testing.assert_close(diffusion.q_sample(x0, t, eps), xt)


def test_every_sample_has_a_guidance_of_its_own():
    diffusion, xt, t = process(), noise(0), torch.tensor([419, 419])
    outputs = noise(1), noise(2)
    together = guided_prediction(diffusion, *outputs, torch.tensor([0.0, 9.0]), xt, t)[0]
    for row, w in enumerate((0.0, 9.0)):
        alone = guided_prediction(diffusion, *outputs, torch.full((2,), w), xt, t)[0]
        torch.testing.assert_close(together[row], alone[row])
    torch.testing.assert_close(together[0], diffusion.predict_x0(outputs[0], xt, t)[0])


def test_the_loss_is_square_for_small_differences_and_absolute_for_large_ones():
    zero = torch.zeros(3)
    assert pseudo_huber(zero, zero) == 0
    assert pseudo_huber(zero + 1e-5, zero).item() == pytest.approx((1e-5) ** 2 / (2 * 1e-3), rel=0.05)
    assert pseudo_huber(zero + 2, zero).item() == pytest.approx(2 - 1e-3, rel=1e-4)


def test_noise_between_the_steps_is_each_samples_own():
    diffusion = process()

    def sample(x, generators):
        return multistep(diffusion.denoiser(NETWORK, {}, x), x, 4, generator=generators)

    together = sample(noise(0), [torch.Generator().manual_seed(seed) for seed in (5, 6)])
    alone = sample(noise(0)[1:], torch.Generator().manual_seed(6))
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("steps", [0, 51])
def test_steps_that_the_model_was_not_distilled_for_are_refused(steps):
    with pytest.raises(UserError, match="between 1 and ddim_timesteps = 50"):
        few_step_times(1000, 50, steps)
