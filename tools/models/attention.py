"""The one door to attention kernels: every network here calls `attention`, so a new kernel is one change."""
import importlib
import importlib.util

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tools.errors import UserError

BACKENDS = ("sdpa", "xformers")
# Fused CUDA kernels put batch rows or heads on a grid axis that ends at 65,535; temporal attention at 1280x704 has
# 14,080 rows of 5 heads per sample, so a few samples reach the limit.
CUDA_GRID_LIMIT = 65_535

_backend = "sdpa"
_xformers_ops = None


def set_attention_backend(name: str) -> None:
    """Choose the kernel of all later calls: 'sdpa' (PyTorch's own, the default) or 'xformers'.

    xformers serves CUDA tensors only; tensors elsewhere keep going to PyTorch.

    Raises:
        UserError: unknown name, or xformers is not installed.
    """
    global _backend, _xformers_ops
    if name not in BACKENDS:
        raise UserError(f"attention backend '{name}': choose one of {', '.join(BACKENDS)}")
    if name == "xformers" and _xformers_ops is None:
        if importlib.util.find_spec("xformers") is None:
            raise UserError("attention backend 'xformers' is not installed: pip install xformers, or choose 'sdpa'")
        _xformers_ops = importlib.import_module("xformers.ops")
    _backend = name


def attention_backend() -> str:
    """Name of the backend in use."""
    return _backend


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v for every head.

    Args:
        q: [B, N, heads, d]. k, v: [B, L, heads, d].
        mask: added to the logits (or boolean, True = attend), broadcastable to [B, heads, N, L].

    Returns:
        [B, N, heads, d].
    """
    rows = CUDA_GRID_LIMIT // q.shape[2]
    if not q.is_cuda or q.shape[0] <= rows:
        return _kernel(q, k, v, mask)
    return in_chunks(q, k, v, mask, rows)


def in_chunks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    """`attention` with at most `rows` of the B rows in one kernel call."""
    parts = [q.split(rows), k.split(rows), v.split(rows)]
    shared = mask is None or mask.ndim < 4 or mask.shape[0] == 1
    parts.append([mask] * len(parts[0]) if shared else mask.split(rows))
    return torch.cat([_kernel(*part) for part in zip(*parts, strict=True)])


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if _backend == "xformers" and q.is_cuda:
        bias = None if mask is None else mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
        return _xformers_ops.memory_efficient_attention(q, k, v, attn_bias=bias)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
