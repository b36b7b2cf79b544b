"""tools/engines/group_norm_guard.py: the gradients of a trained norm behind frozen layers."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tools.engines import group_norm_guard
from tools.engines.group_norm_guard import guard_group_norms


@pytest.fixture
def norm_and_input():
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    return norm, torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)


def test_a_trained_norm_of_a_frozen_input_has_the_gradients_of_its_formula(norm_and_input):
    norm, x = norm_and_input
    guard_group_norms(norm)
    target = torch.randn_like(x)
    (norm(x) * target).sum().backward()
    normalized = F.group_norm(x.contiguous(), 4, eps=norm.eps)
    torch.testing.assert_close(norm.weight.grad, (normalized * target).sum((0, 2, 3)))
    torch.testing.assert_close(norm.bias.grad, target.sum((0, 2, 3)))
    assert x.grad is None and not x.requires_grad


@pytest.mark.parametrize(("version", "guarded"), [("2.10.0+cu128", True), ("2.11.0", True), ("2.15.0+cu132", False),
                                                   ("3.0.0", False)])
def test_only_versions_with_the_fault_are_guarded(norm_and_input, monkeypatch, version, guarded):
    norm, _ = norm_and_input
    monkeypatch.setattr(group_norm_guard.torch, "__version__", version)
    guard_group_norms(nn.Sequential(nn.Conv2d(3, 8, 1), norm))
    assert bool(norm._forward_pre_hooks) == guarded


def test_frozen_norms_and_sampling_keep_their_input(norm_and_input):
    norm, x = norm_and_input
    with torch.no_grad():
        assert group_norm_guard._want_input_gradient(norm, (x,)) is None
    assert group_norm_guard._want_input_gradient(norm, (x.clone().requires_grad_(),)) is None
    assert group_norm_guard._want_input_gradient(norm.requires_grad_(False), (x,)) is None
