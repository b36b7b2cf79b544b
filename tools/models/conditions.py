"""Remembering what depends on the conditions alone, so that fifty denoising steps compute it once."""
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ConditionCache:
    """Values by owner, name and the identity of the condition tensors that they were computed from.

    Identity includes the tensor's version counter, so an in-place edit of a condition is noticed. The condition
    tensors are held, so that their identity cannot be taken over by another tensor.
    """

    def __init__(self):
        self._values: dict[Hashable, tuple] = {}

    def get(self, name: Hashable, conditions: tuple[Tensor | None, ...], compute: Callable):
        """The value remembered for `name` and these tensors, computed on the first call."""
        key = (name, *(_identity(c) for c in conditions))
        if key not in self._values:
            self._values[key] = (conditions, compute())
        return self._values[key][1]


def _identity(tensor: Tensor | None) -> tuple[int, int]:
    if tensor is None:
        return 0, 0
    return id(tensor), 0 if tensor.is_inference() else tensor._version


class Remembers(nn.Module):
    """A module that can reuse results which depend on its conditions only.

    `cache` is set by the network's `condition_cache()`. It is not used while gradients are enabled (a remembered
    value would belong to another graph) or in training mode (dropout must be drawn anew).
    """

    cache: ConditionCache | None = None

    def remember(self, name: Hashable, conditions: tuple[Tensor | None, ...], compute: Callable):
        """`compute()`, or its earlier result for the same condition tensors while a cache is open."""
        if self.cache is None or self.training or torch.is_grad_enabled():
            return compute()
        return self.cache.get((id(self), name), conditions, compute)

    @contextmanager
    def condition_cache(self) -> Iterator[None]:
        """Inside, whatever depends on the conditions alone is computed once per condition tensor.

        For sampling loops: keys and values of the cross-attentions and the features of image conditions are reused as
        long as the same tensor objects are passed. Has no effect while gradients are enabled or in training mode;
        weights must not change inside.
        """
        if self.cache is not None:
            yield
            return
        holders = [m for m in self.modules() if isinstance(m, Remembers)]
        cache = ConditionCache()
        try:
            for module in holders:
                module.cache = cache
            yield
        finally:
            for module in holders:
                module.cache = None
