"""Latent consistency models: boundary scalings, the grid of the teacher's steps, loss and few-step sampler.

A consistency function maps every point of a denoising trajectory to its clean end. It is distilled from a guided
teacher that makes single DDIM steps on a coarse grid of times.

Sources: Song et al. 2023 (consistency models); Luo et al. 2023 (LCM, arXiv 2310.04378); VideoLCM (arXiv 2312.09109).
"""
import itertools
import math
from dataclasses import dataclass

import torch

from tools.diffusions.guidance import Guidance
from tools.diffusions.predictions import eps_from_x0
from tools.diffusions.samplers import Denoiser, Progress, batch_of, randn_like, run_steps, stride_of
from tools.diffusions.tables import lookup
from tools.errors import UserError

SIGMA_DATA = 0.5
TIME_SCALE = 10.0  # of the discrete times in the boundary scalings
HUBER = 0.001


def boundary_scalings(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c_skip and c_out of discrete times t, float32 shaped as t; 1 and 0 at t = 0.

    They meet the boundary condition f(x, 0) = x whatever the network says.
    """
    scaled = TIME_SCALE * t.float()
    total = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()


def consistency(process, out: torch.Tensor, xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The clean sample f(x_t, t) = c_skip x_t + c_out x_0 (LCM, section 4.1).

    Args:
        process: the `DiffusionDDIM` that says what `out` means.
        out: the network's output at x_t [B, ...] and t [B].
    """
    c_skip, c_out = (scaling.to(xt).view(-1, *[1] * (xt.ndim - 1)) for scaling in boundary_scalings(t))
    return c_skip * xt + c_out * process.predict_x0(out.to(xt.dtype), xt, t)


def guidance_embedding(w: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoids of 1000 w, sines first: w [B] -> float32 [B, width]; an odd width ends with a zero."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=w.device, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = 1000 * w.float()[:, None] * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def pseudo_huber(a: torch.Tensor, b: torch.Tensor, c: float = HUBER) -> torch.Tensor:
    """Mean of sqrt((a - b)^2 + c^2) - c in float32: squared for differences below c, absolute above."""
    squares = (a.float() - b.float()) ** 2
    # The same without the difference of two nearly equal numbers, which loses small squares.
    return (squares / (torch.sqrt(squares + c**2) + c)).mean()


@dataclass(frozen=True)
class SolverGrid:
    """The times between which the teacher makes single DDIM steps.

    Attributes:
        times: int64 [N], ascending, every (T / N)-th step and T - 1 the last.
        alpha_bar: [N], at these times.
        alpha_bar_prev: [N], at the time before; that of step 0 for the first.
    """

    times: torch.Tensor
    alpha_bar: torch.Tensor
    alpha_bar_prev: torch.Tensor

    @classmethod
    def of(cls, alphas_cumprod: torch.Tensor, steps: int) -> "SolverGrid":
        """N = `steps` of the T times of a process.

        Raises:
            UserError: steps is not in 1..T.
        """
        times = torch.arange(1, steps + 1) * stride_of(len(alphas_cumprod), steps) - 1
        alpha_bar = alphas_cumprod[times]
        return cls(times, alpha_bar, torch.cat([alphas_cumprod[:1], alpha_bar[:-1]]))

    def pair(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Times [B] of steps `index` [B], and the times that these lead to, 0 at the least."""
        t = self.times.to(index.device)[index]
        return t, (t - self.stride).clamp(min=0)

    @property
    def stride(self) -> int:
        """Distance of two times."""
        return int(self.times[0]) + 1

    def step(self, x0: torch.Tensor, eps: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """DDIM from times `index` [B] to the ones before (Song et al. 2021, eq. 12 with sigma 0)."""
        return (lookup(self.alpha_bar_prev.sqrt(), index, x0) * x0
                + lookup((1 - self.alpha_bar_prev).sqrt(), index, x0) * eps)


def guided_prediction(process, conditional: torch.Tensor, unconditional: torch.Tensor, w: torch.Tensor,
                      xt: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean sample and noise that the teacher's guided output stands for (LCM, section 4.2).

    Args:
        process: the `DiffusionDDIM` of the teacher.
        conditional, unconditional: outputs at x_t [B, ...] and t [B].
        w: [B], guidance in the paper's sense, c + w (c - u); an ordinary scale is 1 + w.
    """
    guidance = Guidance(1 + w.to(xt).view(-1, *[1] * (xt.ndim - 1)),
                        learned_variance=process.var_type.startswith("learned"))
    out = guidance.combine(conditional.to(xt.dtype), unconditional.to(xt.dtype))
    x0 = process.predict_x0(out, xt, t)
    return x0, eps_from_x0(xt, x0, *process.alpha_sigma(t, xt))


def few_step_times(num_timesteps: int, solver_steps: int, steps: int) -> list[int]:
    """Descending times of the sampler: of the grid's N, counted from the noisy end, those number floor(k N / steps).

    Raises:
        UserError: steps is not in 1..N.
    """
    if not 1 <= steps <= solver_steps:
        raise UserError(f"num_inference_steps must be between 1 and ddim_timesteps = {solver_steps}, the times that "
                        f"the consistency model was distilled at, not {steps}")
    stride = stride_of(num_timesteps, solver_steps)
    return [(solver_steps - k * solver_steps // steps) * stride - 1 for k in range(steps)]


def multistep(denoiser: Denoiser, x: torch.Tensor, steps: int, solver_steps: int = 50, *, generator=None,
              progress: Progress | None = None) -> torch.Tensor:
    """Clean samples by a consistency model in a few steps (LCM, algorithm 3).

    Every step jumps to the clean sample; all but the last go back to the next time with fresh noise.

    Args:
        denoiser: network and process.
        x: [B, ...] pure noise.
        steps: evaluations of the network.
        solver_steps: N of the grid that the model was distilled on.
        generator: of the noise, see `tools.noise`.
    """
    process = denoiser.process
    times = few_step_times(process.num_timesteps, solver_steps, steps)
    following = dict(itertools.pairwise(times))

    def step(x, t):
        now = batch_of(t, x)
        clean = consistency(process, denoiser.predict(x, process.model_time(now)), x, now)
        if t not in following:
            return clean
        return process.q_sample(clean, batch_of(following[t], x), randn_like(x, generator))

    return run_steps(step, x, times, progress)
