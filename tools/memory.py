"""How much memory a computation would take, measured on meta tensors: shapes pass through the real code, no data."""
import contextlib
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tools.models import attention


def peak_bytes(computation: Callable[[], object]) -> int:
    """Largest number of bytes of all tensors that live at one time while `computation` runs.

    Tensors made before it (weights) do not count, those it makes (activations, gradients) do. Attention counts as the
    fused kernels do: inputs and output, no matrix of scores.
    """
    with _fused_attention(), LiveBytes() as live:
        computation()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end, on any device.

    Attributes:
        now, peak: bytes of the tensors made inside the context that live now, and that lived at the worst moment.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._live: set[int] = set()
        self._outside: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            if id(storage) not in self._live:
                self._outside[id(storage)] = storage
        out = func(*args, **kwargs)
        for storage in _storages(out):
            if id(storage) not in self._live and id(storage) not in self._outside:
                self._follow(storage)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._live.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.now -= size


def _storages(tree: object) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


class _FusedAttention(torch.autograd.Function):
    """Keeps what a fused kernel keeps; computes nothing."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """PyTorch has no fused kernel for meta tensors and would write out every score."""
    kernel = attention.scaled_dot_product_attention
    attention.scaled_dot_product_attention = lambda q, k, v, attn_mask=None: _FusedAttention.apply(q, k, v)
    try:
        yield
    finally:
        attention.scaled_dot_product_attention = kernel
