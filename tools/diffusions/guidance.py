"""Classifier-free guidance (Ho & Salimans 2021), prepared once per sampling loop.

`prepare` returns a callable `(x_t, t) -> out`, so that a loop does not care how many forwards a step takes. Outputs are
combined in the dtype of x_t: a large scale would amplify the rounding of a half-precision network.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Kwargs = Mapping[str, Any]
Model = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Guidance:
    """How a conditional and an unconditional output become one.

    Args:
        scale: g in u + g (y - u); a tensor that broadcasts over the outputs for a scale per sample.
        rescale: share r of the correction that restores the conditional output's standard deviation (Lin et al.
            2023, eq. 15-16); None or 0 for none.
        learned_variance: the second half of the channels is a variance, taken from the conditional output unguided.
    """

    scale: float | torch.Tensor
    rescale: float | None = None
    learned_variance: bool = False

    def combine(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """y: conditional, u: unconditional output, both [B, C_out, ...]."""
        channels = y.shape[1] // 2 if self.learned_variance else y.shape[1]
        mean, variance = y[:, :channels], y[:, channels:]
        out = u[:, :channels] + self.scale * (mean - u[:, :channels])
        if self.rescale:
            factor = _std(mean) / (_std(out) + 1e-12)
            out = out * (self.rescale * factor + 1 - self.rescale)
        return torch.cat([out, variance], dim=1) if self.learned_variance else out


def _std(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each sample, [B, 1, ..., 1]."""
    return x.flatten(1).std(dim=1).view((-1,) + (1,) * (x.ndim - 1))


@dataclass(frozen=True)
class _Plain:
    model: Model
    kwargs: Kwargs

    def __call__(self, xt, t):
        return self.model(xt, t, **self.kwargs).to(xt.dtype)


@dataclass(frozen=True)
class _TwoForwards:
    model: Model
    conditional: Kwargs
    unconditional: Kwargs
    guidance: Guidance

    def __call__(self, xt, t):
        y = self.model(xt, t, **self.conditional).to(xt.dtype)
        u = self.model(xt, t, **self.unconditional).to(xt.dtype)
        return self.guidance.combine(y, u)


@dataclass(frozen=True)
class _OneForward:
    model: Model
    kwargs: Kwargs
    guidance: Guidance

    def __call__(self, xt, t):
        out = self.model(torch.cat([xt, xt]), torch.cat([t, t]), **self.kwargs).to(xt.dtype)
        return self.guidance.combine(*out.chunk(2))


def prepare(model: Model, model_kwargs: Kwargs | Sequence[Kwargs] | None, guidance: Guidance | None, *,
            batch: int, batched: bool = False) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Bind a model to its conditions.

    Args:
        model: called `model(x_t, t, **kwargs)`.
        model_kwargs: keyword arguments, or the pair [conditional, unconditional] when `guidance` is given.
        guidance: None for a plain call.
        batch: samples in x_t.
        batched: run both branches in one forward of twice the batch; two forwards (conditional first) when the
            branches cannot be joined.

    Raises:
        ValueError: guidance without a pair of keyword arguments, or a pair without guidance.
    """
    if guidance is None:
        if isinstance(model_kwargs, Sequence):
            raise ValueError("a pair of model_kwargs needs guide_scale")
        return _Plain(model, model_kwargs or {})
    if not isinstance(model_kwargs, Sequence) or len(model_kwargs) != 2:
        raise ValueError("guide_scale needs model_kwargs = [conditional, unconditional]")
    joint = join(*model_kwargs, batch=batch) if batched else None
    if joint is not None:
        return _OneForward(model, joint, guidance)
    return _TwoForwards(model, *model_kwargs, guidance)


def conditional_kwargs(model_kwargs: Kwargs | Sequence[Kwargs] | None) -> Kwargs:
    """The (conditional) keyword arguments, whether or not there is an unconditional set beside them."""
    return (model_kwargs[0] if isinstance(model_kwargs, Sequence) else model_kwargs) or {}


def join(conditional: Kwargs, unconditional: Kwargs, *, batch: int) -> dict[str, Any] | None:
    """Both sets of conditions as one of 2 * batch samples (conditional first), or None when they differ in form."""
    if conditional.keys() != unconditional.keys():
        return None
    joint = {}
    for key, y in conditional.items():
        u = unconditional[key]
        if isinstance(y, torch.Tensor) and isinstance(u, torch.Tensor):
            if y.shape != u.shape or y.ndim == 0 or y.shape[0] not in (1, batch):
                return None
            joint[key] = torch.cat([v.expand(batch, *v.shape[1:]) for v in (y, u)])
        elif isinstance(y, torch.Tensor) or isinstance(u, torch.Tensor) or y != u:
            return None
        else:
            joint[key] = y
    return joint
