"""`DiffusionDDIM` as a process: what its conversions, limits and draws promise."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.diffusions.networks import Recorder, randn
from tools import noise
from tools.diffusions.ddim import MEAN_TYPES, VAR_TYPES, DiffusionDDIM
from tools.diffusions.losses import LOSS_TYPES
from tools.diffusions.predictions import restrict_x0, v_from_x0
from tools.errors import UserError
from tools.registry import DIFFUSION

SHAPE = (2, 4, 3, 4, 5)


def process(mean_type="v", var_type="fixed_small", zero_terminal_snr=True, **options):
    parameters = {"num_timesteps": 1000, "zero_terminal_snr": zero_terminal_snr}
    return DiffusionDDIM("cosine", parameters, mean_type, var_type, **options)


def perfect_output(diffusion, x0, n, xt, t):
    """What a network without error would say."""
    return {"x0": x0, "eps": n, "x_{t-1}": diffusion.q_posterior_mean_variance(x0, xt, t)[0],
            "v": v_from_x0(x0, n, *diffusion.alpha_sigma(t, x0))}[diffusion.mean_type]


@given(st.sampled_from(MEAN_TYPES), st.integers(0, 998), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_x0_comes_back_from_what_the_network_should_say(mean_type, step, seed):
    diffusion = process(mean_type)
    x0, n = randn(*SHAPE, seed=seed, dtype=torch.float64), randn(*SHAPE, seed=seed + 1, dtype=torch.float64)
    t = torch.tensor([step, 0])
    xt = diffusion.q_sample(x0, t, n)
    predicted = diffusion.predict_x0(perfect_output(diffusion, x0, n, xt, t), xt, t)
    torch.testing.assert_close(predicted, x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
def test_posterior_of_a_perfect_network_is_that_of_q(mean_type):
    diffusion = process(mean_type, zero_terminal_snr=False)
    x0, n, t = randn(*SHAPE, dtype=torch.float64), randn(*SHAPE, seed=1, dtype=torch.float64), torch.tensor([3, 700])
    xt = diffusion.q_sample(x0, t, n)
    out = perfect_output(diffusion, x0, n, xt, t)
    for ours, true in zip(diffusion.mean_variance(out, xt, t), (*diffusion.q_posterior_mean_variance(x0, xt, t), x0)):
        torch.testing.assert_close(ours, true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
@pytest.mark.parametrize("var_type", VAR_TYPES)
def test_everything_is_finite_at_zero_signal(mean_type, var_type):
    diffusion = process(mean_type, var_type)
    x, t = randn(*SHAPE), torch.tensor([999, 999])
    outputs = diffusion.p_mean_variance(x, t, Recorder(var_type.startswith("learned")))
    assert all(value.isfinite().all() for value in outputs)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("mean_type", MEAN_TYPES)
@pytest.mark.parametrize("var_type", VAR_TYPES)
def test_every_loss_works_with_every_target_and_variance(loss_type, mean_type, var_type):
    diffusion = process(mean_type, var_type, zero_terminal_snr=False, loss_type=loss_type)
    loss = diffusion.loss(randn(*SHAPE), torch.tensor([0, 640]), Recorder(var_type.startswith("learned")),
                          {"y": randn(2, 3)}, weight=torch.tensor([1.0, 0.5]), use_div_loss=True)
    assert loss.shape == (2,) and loss.isfinite().all()


@pytest.mark.parametrize("loss_type", ["mse", "l1", "charbonnier"])
@pytest.mark.parametrize("mean_type", MEAN_TYPES)
def test_perfect_network_has_no_loss(loss_type, mean_type):
    diffusion = process(mean_type, loss_type=loss_type)
    x0, n, t = randn(*SHAPE), randn(*SHAPE, seed=1), torch.tensor([5, 700])
    loss = diffusion.loss(x0, t, lambda xt, t: perfect_output(diffusion, x0, n, xt, t), noise=n)
    assert loss.abs().max() < 2e-6


def test_bound_of_a_perfect_network_is_its_prior():
    diffusion = DiffusionDDIM("linear", {"num_timesteps": 8}, "x0", "fixed_small")
    x0 = randn(*SHAPE).clamp(-0.9, 0.9)
    terms = diffusion.variational_lower_bound_loop(x0, lambda xt, t: x0)
    assert terms["vlb"].shape == (2, 8)
    assert terms["vlb"][:, :-1].abs().max() < 1e-5 and terms["x0_mse"].max() == 0 and terms["mse"].max() < 1e-10
    torch.testing.assert_close(terms["total_bits_per_dim"], terms["vlb"].sum(1) + terms["prior_bits_per_dim"])


def test_percentile_limits_each_sample_by_itself():
    x0 = randn(3, 4, 2, 4, 4) * torch.tensor([0.1, 3.0, 9.0]).view(-1, 1, 1, 1, 1)
    limited = restrict_x0(x0, percentile=0.9)
    for sample, whole in zip(limited, x0):
        torch.testing.assert_close(sample, restrict_x0(whole[None], percentile=0.9)[0])
    assert limited.abs().max() <= 1 and torch.equal(limited[0], x0[0])


@given(st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_float_times_mean_the_same_as_integers(step):
    diffusion = process()
    x0, n = randn(*SHAPE), randn(*SHAPE, seed=1)
    whole, real = torch.tensor([step, 1]), torch.tensor([float(step), 1.0])
    torch.testing.assert_close(diffusion.q_sample(x0, real, n), diffusion.q_sample(x0, whole, n))
    torch.testing.assert_close(diffusion.loss(x0, real, Recorder(), noise=n),
                               diffusion.loss(x0, whole, Recorder(), noise=n))


def test_fractional_time_lies_between_its_neighbours_and_keeps_the_variance():
    diffusion = process()
    alpha, sigma = diffusion.alpha_sigma(torch.tensor([400.0, 400.25, 401.0]), randn(3, 1))
    assert alpha[0] > alpha[1] > alpha[2] and sigma[0] < sigma[1] < sigma[2]
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, 1), atol=2e-6, rtol=0)


def test_rescaled_times_do_not_depend_on_the_number_of_steps():
    network = Recorder()
    diffusion = DiffusionDDIM("cosine", {"num_timesteps": 250}, "v", "fixed_small", rescale_timesteps=True)
    diffusion.p_mean_variance(randn(*SHAPE), torch.tensor([0, 125]), network)
    assert network.calls[0][1].tolist() == [0.0, 500.0] and network.calls[0][1].dtype == torch.float32


def test_offset_noise_is_drawn_after_the_plain_one(monkeypatch):
    drawn = []
    monkeypatch.setattr(noise, "device_randn", lambda shape, **_: drawn.append(tuple(shape)) or torch.ones(shape))
    n = process(noise_strength=0.1).sample_noise(torch.zeros(SHAPE))
    assert drawn == [SHAPE, (2, 4, 3, 1, 1)]
    torch.testing.assert_close(n, torch.full(SHAPE, 1.1))


def test_mask_counts_outside_as_no_distance():
    diffusion, mask = process(), torch.zeros(2, 3, 3, 4, 5)
    mask[:, 0] = 1  # the first of three frames
    x0, n, t = randn(*SHAPE), randn(*SHAPE, seed=1), torch.tensor([10, 500])
    full = diffusion.loss(x0[:, :, :1], t, Recorder(), noise=n[:, :, :1])
    torch.testing.assert_close(diffusion.loss(x0, t, Recorder(), noise=n, loss_mask=mask), full / 3)


@pytest.mark.parametrize(("options", "message"), [
    ({"mean_type": "epsilon"}, "unknown mean_type 'epsilon'.*did you mean 'eps'"),
    ({"var_type": "fixed"}, "unknown var_type"),
    ({"loss_type": "msee"}, "did you mean 'mse'"),
    ({"schedule": "linear-sd"}, "did you mean 'linear_sd'"),
    ({"schedule_param": {"zero_snr": True}}, "unknown key 'zero_snr'"),
    ({"mean_typ": "v"}, "did you mean 'mean_type'"),
])
def test_bad_section_gets_one_line_with_the_nearest_valid_word(options, message):
    with pytest.raises(UserError, match=message):
        DIFFUSION.build({"type": "DiffusionDDIM", **options})


def test_leaked_default_keys_are_accepted():
    DIFFUSION.build({"type": "DiffusionDDIM", "ddim_timesteps": 50})
