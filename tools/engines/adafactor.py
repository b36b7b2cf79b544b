"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): second moments of rows and columns instead of every entry.

A matrix of a million entries keeps two thousand numbers of state, where Adam keeps two million.
"""
from collections.abc import Iterable

import torch
from torch import Tensor


class Adafactor(torch.optim.Optimizer):
    """Algorithm 4 to 6 of the paper, in the form that fairseq and transformers made common.

    Args:
        params: parameters or groups of them.
        lr: absolute rate, or with `scale_parameter` the rate relative to the parameter's size; None with
            `relative_step`.
        eps: added to squared gradients; least size of a parameter in `scale_parameter`.
        clip_threshold: largest root mean square of an update before the rate.
        decay_rate: c in the second moment's weight of the past, 1 - step^c.
        beta1: weight of the past updates (first moment); None for none.
        weight_decay: share of the parameter taken off per unit of rate.
        scale_parameter: multiply the rate by the parameter's root mean square.
        relative_step: rate min(1e-2, 1 / sqrt(step)) instead of `lr`.
        warmup_init: with `relative_step`, 1e-6 * step in place of 1e-2.

    Raises:
        ValueError: both or neither of `lr` and `relative_step`, or `warmup_init` without it.
    """

    def __init__(self, params: Iterable, lr: float | None = None, eps: tuple[float, float] = (1e-30, 1e-3),
                 clip_threshold: float = 1.0, decay_rate: float = -0.8, beta1: float | None = None,
                 weight_decay: float = 0.0, scale_parameter: bool = True, relative_step: bool = True,
                 warmup_init: bool = False):
        if (lr is None) != relative_step:
            raise ValueError("Adafactor takes either lr or relative_step")
        if warmup_init and not relative_step:
            raise ValueError("Adafactor: warmup_init needs relative_step")
        super().__init__(params, {
            "lr": lr, "eps": eps, "clip_threshold": clip_threshold, "decay_rate": decay_rate, "beta1": beta1,
            "weight_decay": weight_decay, "scale_parameter": scale_parameter, "relative_step": relative_step,
            "warmup_init": warmup_init})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        state, gradient, weight = self.state[parameter], parameter.grad.float(), parameter.float()
        state["step"] = state.get("step", 0) + 1
        rate = _rate(group, state["step"], weight)
        update = _normalised(gradient, state, 1 - state["step"] ** group["decay_rate"], group["eps"][0])
        update /= max(1.0, float(_rms(update)) / group["clip_threshold"])
        update *= rate
        if group["beta1"] is not None:
            past = state.setdefault("exp_avg", torch.zeros_like(update))
            update = past.lerp_(update, 1 - group["beta1"])
        parameter.copy_(weight * (1 - group["weight_decay"] * rate) - update)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _rate(group: dict, step: int, weight: Tensor) -> float:
    rate = group["lr"]
    if group["relative_step"]:
        rate = min(1e-6 * step if group["warmup_init"] else 1e-2, step**-0.5)
    return rate * max(group["eps"][1], float(_rms(weight))) if group["scale_parameter"] else rate


def _normalised(gradient: Tensor, state: dict, decay: float, eps: float) -> Tensor:
    """The gradient over the root of its second moment, which enters `state`; factored from two dimensions on."""
    squared = gradient.square() + eps
    if gradient.ndim < 2:
        return gradient * _average(state, "exp_avg_sq", squared, decay).rsqrt()
    row = _average(state, "exp_avg_sq_row", squared.mean(dim=-1), decay)
    column = _average(state, "exp_avg_sq_col", squared.mean(dim=-2), decay)
    return gradient * (row / row.mean(dim=-1, keepdim=True)).rsqrt()[..., None] * column.rsqrt()[..., None, :]


def _average(state: dict, name: str, value: Tensor, decay: float) -> Tensor:
    return state.setdefault(name, torch.zeros_like(value)).lerp_(value, 1 - decay)
