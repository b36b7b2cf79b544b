"""Noise whose frames hang together: unit variance, the correlation that alpha says, draws by sample."""
import functools

import pytest
import torch

from tools import noise
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.noise_strategies import STRATEGIES, noise_strategy
from tools.errors import UserError

SHAPE = (2, 4, 5, 40, 40)


def drawn(name: str, alpha: float, seed: int = 0) -> torch.Tensor:
    draw = functools.partial(noise.cpu_randn, generator=torch.Generator().manual_seed(seed))
    return noise_strategy(name, alpha)(draw, SHAPE)


@pytest.mark.parametrize(("name", "expected"), [("vanilla", [0, 0]), ("pyoco_mixed", [0.8, 0.8]),
                                                ("pyoco_progressive", [0.8**0.5, 0.8])])
def test_variance_is_one_and_frames_correlate_as_alpha_says(name, expected):
    frames = drawn(name, alpha=2.0).transpose(0, 2).flatten(1)
    assert frames.std(dim=1).tolist() == pytest.approx([1] * 5, abs=0.03)
    correlation = torch.corrcoef(frames)
    assert [correlation[0, 1].item(), correlation[0, 2].item()] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_list_of_generators_draws_each_sample_by_its_own(name):
    strategy, shape = noise_strategy(name), (2, 4, 3, 4, 4)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = strategy(functools.partial(noise.cpu_randn, generator=seeds), shape)
    for row, seed in zip(together, (1, 2), strict=True):
        draw = functools.partial(noise.cpu_randn, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(row[None], strategy(draw, (1, *shape[1:])))


def test_training_noise_follows_the_strategy_of_the_process():
    process = DiffusionDDIM(noise_sampling_method="pyoco_mixed", noise_alpha=100.0)
    frames = process.sample_noise(torch.zeros(SHAPE))
    assert (frames[:, :, 0] - frames[:, :, 4]).abs().mean() < 0.05


def test_wrong_names_and_alphas_are_refused():
    with pytest.raises(UserError, match=r"'pyoco_mix' is unknown .did you mean 'pyoco_mixed'"):
        DiffusionDDIM(noise_sampling_method="pyoco_mix")
    with pytest.raises(UserError, match="noise_alpha must not be negative"):
        noise_strategy("pyoco_mixed", -1)
