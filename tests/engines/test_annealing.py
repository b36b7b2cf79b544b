"""The learning rate over the updates."""
import math

import pytest
import torch

from tools.engines.annealing import AnnealingLR
from tools.errors import UserError


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def rates(count: int, **options) -> list[float]:
    """Rates of the first updates."""
    group = optimizer()
    schedule = AnnealingLR(group, **{"base_lr": 2.0, "warmup_steps": 4, "total_steps": 12, **options})
    found = []
    for _ in range(count):
        found.append(group.param_groups[0]["lr"])
        schedule.step()
    return found


@pytest.mark.parametrize(("mode", "halfway"), [("linear", 1.0), ("cosine", 1.0), ("none", 2.0)])
def test_it_warms_up_then_decays(mode, halfway):
    found = rates(14, decay_mode=mode)
    assert found[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert found[8] == pytest.approx(halfway)
    assert found[12:] == pytest.approx([2.0, 2.0] if mode == "none" else [0.0, 0.0])


def test_cosine_is_a_cosine():
    assert rates(7)[6] == pytest.approx(1 + math.cos(math.pi / 4))


def test_no_warm_up_starts_at_the_top_and_a_floor_is_kept():
    assert rates(1, warmup_steps=0) == [2.0]
    assert rates(14, min_lr=0.3)[0] == 0.3
    assert rates(14, min_lr=0.3)[-1] == 0.3


def test_it_continues_from_its_state_and_serves_several_optimisers():
    first = AnnealingLR(optimizer(), 2.0, 4, 12)
    for _ in range(6):
        first.step()
    pair = [optimizer(), optimizer()]
    second = AnnealingLR(pair, 2.0, 4, 12)
    second.load_state_dict(first.state_dict())
    assert [o.param_groups[0]["lr"] for o in pair] == [first.rate()] * 2


def test_an_unknown_decay_is_refused():
    with pytest.raises(UserError, match=r"'cosin' is unknown .*'cosine'"):
        AnnealingLR(optimizer(), 1.0, 0, 1, decay_mode="cosin")
