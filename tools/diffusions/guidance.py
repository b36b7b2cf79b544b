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

    branches = 2  # no field: how many outputs `combine` takes

    @property
    def without_effect(self) -> bool:
        """Whether `combine` would return the conditional output, so that the other branches need not be run."""
        return not isinstance(self.scale, torch.Tensor) and self.scale == 1

    def combine(self, *outputs: torch.Tensor) -> torch.Tensor:
        """Guided output from the branches' outputs [B, C_out, ...]: conditional first, unconditional last."""
        y = outputs[0]
        channels = y.shape[1] // 2 if self.learned_variance else y.shape[1]
        means = [output[:, :channels] for output in outputs]
        out = self.rescaled(self.guided(*means), means[0])
        return torch.cat([out, y[:, channels:]], dim=1) if self.learned_variance else out

    def guided(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """y: conditional, u: unconditional prediction."""
        return u + self.scale * (y - u)

    def rescaled(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """A guided prediction with (part of) the standard deviation of the conditional one."""
        if not self.rescale:
            return out
        factor = _std(y) / (_std(out) + 1e-12)
        return out * (self.rescale * factor + 1 - self.rescale)


@dataclass(frozen=True)
class TwoWayGuidance(Guidance):
    """Text and picture guided apart, each by its own scale (Brooks et al. 2023, eq. 3).

    Args:
        scale, rescale, learned_variance: see `Guidance`; the scale is the text's.
        image: the picture's scale.
    """

    image: float = 1.0
    branches = 3

    @property
    def without_effect(self) -> bool:
        return super().without_effect and self.image == 1

    def guided(self, y: torch.Tensor, i: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """y: text and picture, i: picture alone, u: neither."""
        return u + self.image * (i - u) + self.scale * (y - i)


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
class _ForwardEach:
    model: Model
    branches: Sequence[Kwargs]
    guidance: Guidance

    def __call__(self, xt, t):
        return self.guidance.combine(*(self.model(xt, t, **kwargs).to(xt.dtype) for kwargs in self.branches))


@dataclass(frozen=True)
class _OneForward:
    model: Model
    kwargs: Kwargs
    guidance: Guidance

    def __call__(self, xt, t):
        count = self.guidance.branches
        out = self.model(torch.cat([xt] * count), torch.cat([t] * count), **self.kwargs).to(xt.dtype)
        return self.guidance.combine(*out.chunk(count))


def prepare(model: Model, model_kwargs: Kwargs | Sequence[Kwargs] | None, guidance: Guidance | None, *,
            batch: int, batched: bool = False) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Bind a model to its conditions.

    Args:
        model: called `model(x_t, t, **kwargs)`.
        model_kwargs: keyword arguments, or when `guidance` is given one set for each of its branches: [conditional,
            unconditional], or [text and picture, picture, neither] for `TwoWayGuidance`.
        guidance: None for a plain call; so is one without effect.
        batch: samples in x_t.
        batched: run all branches in one forward of a larger batch; one forward each (conditional first) when the
            branches cannot be joined.

    Raises:
        ValueError: guidance without as many keyword arguments as it has branches, or several sets without guidance.
    """
    if guidance is not None and guidance.without_effect:
        model_kwargs, guidance = conditional_kwargs(model_kwargs), None
    if guidance is None:
        if isinstance(model_kwargs, Sequence):
            raise ValueError("a pair of model_kwargs needs guide_scale")
        return _Plain(model, model_kwargs or {})
    if not isinstance(model_kwargs, Sequence) or len(model_kwargs) != guidance.branches:
        names = "[conditional, unconditional]" if guidance.branches == 2 else "[text and picture, picture, neither]"
        raise ValueError(f"guide_scale needs model_kwargs = {names}")
    joint = join(*model_kwargs, batch=batch) if batched else None
    if joint is not None:
        return _OneForward(model, joint, guidance)
    return _ForwardEach(model, model_kwargs, guidance)


def conditional_kwargs(model_kwargs: Kwargs | Sequence[Kwargs] | None) -> Kwargs:
    """The (conditional) keyword arguments, whether or not there are other sets beside them."""
    return (model_kwargs[0] if isinstance(model_kwargs, Sequence) else model_kwargs) or {}


def join(*branches: Kwargs, batch: int) -> dict[str, Any] | None:
    """All sets of conditions as one of `batch` samples each, in their order, or None when they differ in form."""
    first = branches[0]
    if any(other.keys() != first.keys() for other in branches):
        return None
    joint = {}
    for key, y in first.items():
        values = [branch[key] for branch in branches]
        tensors = [isinstance(value, torch.Tensor) for value in values]
        if all(tensors):
            if any(v.shape != y.shape for v in values) or y.ndim == 0 or y.shape[0] not in (1, batch):
                return None
            joint[key] = torch.cat([v.expand(batch, *v.shape[1:]) for v in values])
        elif any(tensors) or any(value != y for value in values):
            return None
        else:
            joint[key] = y
    return joint
