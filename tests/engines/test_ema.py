"""The moving average of the weights."""
import pytest
import torch
from torch import nn

from tools.engines.ema import EMA


@pytest.fixture
def model():
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.ones_(network[0].weight)
    return network


def step_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model[0].weight.fill_(value)


def test_it_follows_the_rule(model):
    ema = EMA(model, decay=0.9)
    step_to(model, 2.0)
    ema.update()
    assert torch.allclose(ema.average["0.weight"], torch.full((1, 2), 0.9 * 1 + 0.1 * 2))
    ema.update()
    assert torch.allclose(ema.average["0.weight"], torch.full((1, 2), 0.9 * 1.1 + 0.1 * 2))
    assert torch.equal(model[0].weight, torch.full((1, 2), 2.0))


def test_a_warm_up_lets_it_forget_the_start(model):
    ema = EMA(model, decay=0.999, warmup=True)
    step_to(model, 2.0)
    ema.update()
    assert torch.allclose(ema.average["0.weight"], torch.full((1, 2), 2 - 2 / 11))


def test_buffers_are_averaged_and_counters_copied(model):
    ema = EMA(model, decay=0.5)
    model[1].running_mean.fill_(4.0)
    model[1].num_batches_tracked.fill_(7)
    ema.update()
    assert ema.average["1.running_mean"].item() == 2.0
    assert ema.average["1.num_batches_tracked"].item() == 7


def test_it_continues_from_its_state(model):
    first, second = EMA(model, 0.9, warmup=True), EMA(model, 0.9, warmup=True)
    step_to(model, 3.0)
    first.update()
    second.load_state_dict(first.state_dict())
    for ema in (first, second):
        ema.update()
    assert second.updates == 2
    assert torch.equal(first.average["0.weight"], second.average["0.weight"])


def test_it_sees_weights_loaded_after_it_was_made(model):
    ema = EMA(model, decay=0.0)
    model.load_state_dict({key: torch.full_like(value, 5) for key, value in model.state_dict().items()})
    ema.update()
    assert torch.equal(ema.average["0.weight"], torch.full((1, 2), 5.0))
