"""Samplers of a discrete diffusion process: plain loops over tensors, separate from the process they sample.

A `Denoiser` is a network bound to a process, its guidance and its limits; every sampler asks it for a prediction and
moves x_t one step.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tools import noise
from tools.diffusions.predictions import eps_from_x0, x0_from_eps
from tools.errors import UserError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Denoiser:
    """What a network says about x_t.

    Args:
        process: a `DiffusionDDIM`.
        predict: guided network, `(x_t, model time) -> output`.
        clamp, percentile: see `predictions.restrict_x0`.
        condition_fn: `(x_t, model time, **condition_kwargs) -> gradient of a log-likelihood`, shaped as x_t
            (Dhariwal & Nichol 2021).
    """

    process: Any
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    clamp: float | None = None
    percentile: float | None = None
    condition_fn: Callable[..., torch.Tensor] | None = None
    condition_kwargs: dict = field(default_factory=dict)

    def mean_variance(self, xt: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of p(x_{t-1} | x_t)."""
        out = self.predict(xt, self.process.model_time(t))
        mean, variance, log_variance, _ = self.process.mean_variance(out, xt, t, self.clamp, self.percentile)
        if self.condition_fn is not None:
            mean = mean + variance * self._gradient(xt, t)
        return mean, log_variance

    def x0_eps(self, xt: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean sample and noise; the noise follows from the clamped x_0, so that both agree on x_t."""
        out = self.predict(xt, self.process.model_time(t))
        x0 = self.process.predict_x0(out, xt, t, self.clamp, self.percentile)
        alpha, sigma = self.process.alpha_sigma(t, xt)
        eps = eps_from_x0(xt, x0, alpha, sigma)
        if self.condition_fn is not None:
            eps = eps - sigma * self._gradient(xt, t)
            x0 = torch.where(alpha == 0, x0, x0_from_eps(xt, eps, alpha, sigma))
        return x0, eps

    def _gradient(self, xt, t):
        return self.condition_fn(xt, self.process.model_time(t), **self.condition_kwargs)


def ancestral(denoiser: Denoiser, x: torch.Tensor, *, generator=None, progress: Progress | None = None):
    """x_{t-1} ~ N(mean, variance) for every t from T-1 to 0 (Ho et al. 2020, algorithm 2)."""

    def step(x, t):
        mean, log_variance = denoiser.mean_variance(x, batch_of(t, x))
        if t == 0:
            return mean
        return mean + torch.exp(0.5 * log_variance) * randn_like(x, generator)

    return run_steps(step, x, range(denoiser.process.num_timesteps)[::-1], progress)


def stride_of(num_timesteps: int, steps: int) -> int:
    """Distance between the steps of a shortened loop.

    Raises:
        UserError: fewer than one step, or more than the process has.
    """
    if not 1 <= steps <= num_timesteps:
        raise UserError(f"ddim_timesteps must be between 1 and num_timesteps = {num_timesteps}, not {steps}")
    return num_timesteps // steps


def ddim_timesteps(num_timesteps: int, steps: int) -> list[int]:
    """Descending times 1 + i * stride below T. Asking for 30 of 1000 gives 31, the last one is always 1."""
    stride = stride_of(num_timesteps, steps)
    return [min(1 + i, num_timesteps - 1) for i in reversed(range(0, num_timesteps, stride))]


def ddim_moments(process, x0: torch.Tensor, eps: torch.Tensor, t: int, previous: int,
                 eta: float = 0.0) -> tuple[torch.Tensor, float]:
    """Mean and standard deviation of x at step `previous` from the prediction at step t (Song et al. 2021, eq. 12, 16).

    The deviation is 0 at t = 0, where nothing is drawn any more.
    """
    ab, ab_prev = (process.alpha_bar(i) for i in (t, previous))
    sigma = eta * ((1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev)) ** 0.5
    mean = ab_prev**0.5 * x0 + max(1 - ab_prev - sigma**2, 0) ** 0.5 * eps
    return mean, sigma if t > 0 else 0.0


def ddim_step(denoiser: Denoiser, x0: torch.Tensor, eps: torch.Tensor, t: int, previous: int, eta: float = 0.0,
              generator=None) -> torch.Tensor:
    """x at step `previous` from the prediction at step t; draws only if eta > 0."""
    mean, sigma = ddim_moments(denoiser.process, x0, eps, t, previous, eta)
    return mean + sigma * randn_like(x0, generator) if sigma else mean


def ddim(denoiser: Denoiser, x: torch.Tensor, steps: int, eta: float = 0.0, *, generator=None,
         progress: Progress | None = None) -> torch.Tensor:
    """DDIM at the times of the process; eta 0 is deterministic, 1 has the ancestral sampler's variance."""

    def step(x, times):
        t, previous = times
        x0, eps = denoiser.x0_eps(x, batch_of(t, x))
        return ddim_step(denoiser, x0, eps, t, previous, eta, generator)

    return run_steps(step, x, denoiser.process.ddim_times(steps), progress)


def ddim_reverse(denoiser: Denoiser, x: torch.Tensor, steps: int, *, progress: Progress | None = None):
    """Inversion: the deterministic update run from clean to noisy (Song et al. 2021, section 4.3).

    Times 0, stride, 2 stride, ...; beyond T-1 alpha bar is 0, so the last step returns the noise estimate itself.
    """
    total = denoiser.process.num_timesteps
    stride = stride_of(total, steps)

    def step(x, t):
        x0, eps = denoiser.x0_eps(x, batch_of(t, x))
        ab = denoiser.process.alpha_bar(t + stride) if t + stride < total else 0.0
        return ab**0.5 * x0 + (1 - ab) ** 0.5 * eps

    return run_steps(step, x, range(0, total, stride), progress)


def plms(denoiser: Denoiser, x: torch.Tensor, steps: int, *, progress: Progress | None = None) -> torch.Tensor:
    """Pseudo linear multi-step sampler (Liu et al. 2022, eq. 12-14); the first step costs two evaluations."""
    process = denoiser.process
    stride = stride_of(process.num_timesteps, steps)
    history: list[torch.Tensor] = []

    def step(x, t):
        previous = max(t - stride, 0)
        x0, eps = denoiser.x0_eps(x, batch_of(t, x))
        if history:
            combined = _adams_bashforth(eps, history)
        else:
            ahead = ddim_step(denoiser, x0, eps, t, previous)
            combined = (eps + denoiser.x0_eps(ahead, batch_of(previous, x))[1]) / 2
        history.insert(0, eps)
        del history[3:]
        alpha, sigma = process.alpha_sigma(batch_of(t, x), x)
        x0 = torch.where(alpha == 0, x0, x0_from_eps(x, combined, alpha, sigma))
        return ddim_step(denoiser, x0, combined, t, previous)

    return run_steps(step, x, ddim_timesteps(process.num_timesteps, steps), progress)


def _adams_bashforth(eps: torch.Tensor, history: list[torch.Tensor]) -> torch.Tensor:
    """Extrapolated noise of order 2 to 4 from the present estimate and up to three earlier ones, newest first."""
    weights = {1: (3 / 2, -1 / 2), 2: (23 / 12, -16 / 12, 5 / 12), 3: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    return sum(w * e for w, e in zip(weights[len(history)], (eps, *history), strict=True))


def run_steps(step: Callable[[torch.Tensor, Any], torch.Tensor], x: torch.Tensor, times: Sequence[Any],
              progress: Progress | None) -> torch.Tensor:
    """The loop that all samplers share: x <- step(x, t) for every t (a time, or what a sampler makes of one)."""
    for done, t in enumerate(times, start=1):
        x = step(x, t)
        if progress is not None:
            progress(done, len(times))
    return x


def batch_of(t: int, x: torch.Tensor) -> torch.Tensor:
    """One step for every sample of x, int64 [B]."""
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)


def randn_like(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Normal noise shaped as x."""
    return noise.device_randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
