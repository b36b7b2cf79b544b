"""The posterior against torch.distributions, an implementation of the same formulas by others."""
import pytest
import torch
from torch import distributions

from tools.autoencoders.distribution import DiagonalGaussianDistribution


def gaussian(seed: int, **options) -> DiagonalGaussianDistribution:
    parameters = torch.randn(3, 8, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return DiagonalGaussianDistribution(parameters, **options)


def as_torch(posterior: DiagonalGaussianDistribution) -> distributions.Independent:
    return distributions.Independent(distributions.Normal(posterior.mean, posterior.std), 3)


def test_kl_and_likelihood_agree_with_torch():
    one, other = gaussian(0), gaussian(1)
    standard = distributions.Independent(distributions.Normal(torch.zeros_like(one.mean), 1.0), 3)
    sample = other.sample(torch.Generator().manual_seed(2))

    torch.testing.assert_close(one.kl(), distributions.kl_divergence(as_torch(one), standard))
    torch.testing.assert_close(one.kl(other), distributions.kl_divergence(as_torch(one), as_torch(other)))
    torch.testing.assert_close(one.nll(sample), -as_torch(one).log_prob(sample))


def test_draws_have_the_moments_asked_for():
    parameters = torch.cat([torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), 1.0)], dim=1)
    draws = DiagonalGaussianDistribution(parameters).sample(torch.Generator().manual_seed(0))

    assert draws.mean().item() == pytest.approx(3.0, abs=0.05)
    assert draws.var().item() == pytest.approx(2.718, abs=0.1)


def test_draws_repeat_with_the_generator_and_differ_without():
    posterior = gaussian(0)
    first, second = (posterior.sample(torch.Generator().manual_seed(4)) for _ in range(2))

    assert torch.equal(first, second)
    assert not torch.equal(posterior.sample(), posterior.sample())


def test_log_variance_is_clamped():
    posterior = DiagonalGaussianDistribution(torch.tensor([0.0, 0.0, -99.0, 99.0]).reshape(1, 4, 1, 1))
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]


def test_deterministic_posterior_is_its_mean():
    posterior = gaussian(0, deterministic=True)

    assert torch.equal(posterior.sample(), posterior.mode())
    assert posterior.kl().tolist() == posterior.nll(posterior.mean).tolist() == [0.0]
