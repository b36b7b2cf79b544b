"""The attention door."""
import importlib.util

import pytest
import torch

from tests.models.examples import rand
from tools.errors import UserError
from tools.models import attention as door


def by_formula(q, k, v, mask=None):
    logits = torch.einsum("bnhd,blhd->bhnl", q.double(), k.double()) * q.shape[-1] ** -0.5
    logits = logits if mask is None else logits + mask
    return torch.einsum("bhnl,blhd->bnhd", logits.softmax(-1), v.double()).float()


@pytest.mark.parametrize("mask", [None, torch.full((5, 7), -torch.inf).triu(1)])
def test_it_is_softmax_attention(mask):
    q, k, v = rand("q", 2, 5, 3, 8), rand("k", 2, 7, 3, 8), rand("v", 2, 7, 3, 8)
    torch.testing.assert_close(door.attention(q, k, v, mask), by_formula(q, k, v, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", [None, rand("mask", 1, 1, 5, 5), rand("mask", 7, 1, 5, 5)])
def test_cutting_the_rows_changes_nothing(mask):
    q, k, v = (rand(name, 7, 5, 3, 8) for name in "qkv")
    torch.testing.assert_close(door.in_chunks(q, k, v, mask, rows=3), by_formula(q, k, v, mask), atol=1e-6, rtol=0)


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="sdpa, xformers"):
        door.set_attention_backend("flash3")
    assert door.attention_backend() == "sdpa"


@pytest.mark.skipif(importlib.util.find_spec("xformers") is not None, reason="xformers is installed")
def test_a_backend_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(UserError, match="pip install xformers"):
        door.set_attention_backend("xformers")
    assert door.attention_backend() == "sdpa"
