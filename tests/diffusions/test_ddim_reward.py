"""InstructVideo's process: partial chains, where their gradient goes, and log-probabilities."""
import pytest
import torch
from torch import nn

from tests.diffusions.networks import randn
from tools.diffusions.ddim_reward import DiffusionDDIMReward, log_normal
from tools.errors import UserError

SHAPE = (2, 4, 3, 4, 5)
CONDITIONS = [{"y": torch.full((2, 1), 0.3)}, {"y": torch.full((2, 1), -0.2)}]


class Network(nn.Module):
    """A smooth network with one weight, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.calls = 0

    def forward(self, x, t, y):
        self.calls += 1
        wave = torch.cos(t.float() / 300).view(-1, 1, 1, 1, 1)
        return self.weight * wave * torch.tanh(x) + 0.1 * y.view(-1, 1, 1, 1, 1)


def process(mean_type: str = "eps") -> DiffusionDDIMReward:
    param = {"num_timesteps": 1000, "init_beta": 0.00085, "last_beta": 0.012}
    return DiffusionDDIMReward("linear_sd", param, mean_type=mean_type, var_type="fixed_small")


def run(network, start, **options) -> torch.Tensor:
    return process(options.pop("mean_type", "eps")).ddim_sample_loop_partial(
        start, network, model_kwargs=CONDITIONS, guide_scale=2.0, ddim_timesteps=10, **options)


def gradient(**options) -> torch.Tensor:
    network = Network()
    out = run(network, randn(*SHAPE), **options)
    return torch.autograd.grad((out * randn(*SHAPE, seed=1)).sum(), network.weight)[0]


@pytest.mark.parametrize("mean_type", ["eps", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_whole_chain_is_ddim(mean_type, eta):
    network, start = Network(), randn(*SHAPE)
    torch.manual_seed(1)
    partial = run(network, start, eta=eta, mean_type=mean_type)
    torch.manual_seed(1)
    whole = process(mean_type).ddim_sample_loop(start, network, CONDITIONS, guide_scale=2.0, ddim_timesteps=10, eta=eta)
    torch.testing.assert_close(partial, whole)


def test_a_share_of_the_chain_is_its_end():
    times = process().ddim_times(10)
    assert process().partial_times(10, 0.4) == times[6:]
    network = Network()
    run(network, randn(*SHAPE), starting_partial=0.4)
    assert network.calls == 2 * 4


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_recomputing_changes_no_gradient(steps):
    torch.testing.assert_close(gradient(trunc_backprop_timestep=steps, grad_checkpointing=True),
                               gradient(trunc_backprop_timestep=steps, grad_checkpointing=False))


def test_truncation_cuts_the_gradient_before_the_last_steps():
    start, network = randn(*SHAPE).requires_grad_(), Network()
    out = run(network, start, trunc_backprop_timestep=2)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(out.sum(), start)
    found = {steps: float(gradient(trunc_backprop_timestep=steps)) for steps in (1, 5, 10)}
    assert len(set(found.values())) == 3
    assert float(gradient(truncated_backprop=False)) == pytest.approx(found[10])


def test_log_probabilities_are_those_of_the_draws():
    network, start = Network(), randn(*SHAPE)
    chain = process()
    x0, times, log_probs, samples = chain.ddim_sample_loop_with_logprob(
        start, network, CONDITIONS, guide_scale=2.0, ddim_timesteps=10, eta=1.0, starting_partial=0.5)
    assert [t for t, _ in chain.partial_times(10, 0.5)] == times.tolist()
    assert torch.equal(samples[0], start)
    assert torch.equal(samples[-1], x0)
    denoiser = chain.denoiser(network, CONDITIONS, start, guide_scale=2.0)
    for at, recorded, x, drawn in zip(chain.partial_times(10, 0.5), log_probs, samples[:-1], samples[1:], strict=True):
        torch.testing.assert_close(chain.step_log_prob(denoiser, x, drawn, at, 1.0), recorded)


def test_log_normal_is_the_normal_density():
    x, mean, sigma = randn(2, 3, 4), randn(2, 3, 4, seed=1), torch.tensor(0.3)
    expected = torch.distributions.Normal(mean, sigma).log_prob(x).flatten(1).mean(dim=1)
    torch.testing.assert_close(log_normal(x, mean, sigma), expected)


def test_a_chain_that_is_not_drawn_has_no_probabilities():
    with pytest.raises(UserError, match="set eta above 0"):
        process().ddim_sample_loop_with_logprob(randn(*SHAPE), Network(), CONDITIONS, guide_scale=2.0, eta=0.0)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.5])
def test_a_chain_without_steps_is_refused(share):
    with pytest.raises(UserError, match=f"starting_partial {share}"):
        process().partial_times(10, share)


def test_loss_with_log_probability_needs_noise_prediction():
    with pytest.raises(UserError, match="mean_type eps, not v"):
        process("v").loss_with_log_prob(randn(*SHAPE), torch.tensor([3, 5]), Network(), CONDITIONS[0])
