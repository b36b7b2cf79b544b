"""What a network's output says about the clean sample and the noise, for x_t = alpha x_0 + sigma eps.

`alpha` and `sigma` broadcast over x, with alpha^2 + sigma^2 = 1. sigma is never 0; alpha is 0 at zero terminal SNR,
where every function here stays finite.
"""
import torch


def x0_from_eps(xt: torch.Tensor, eps: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(x_t - sigma eps) / alpha; 0 where alpha is 0, because pure noise says nothing about x_0."""
    gone = alpha == 0
    x0 = (xt - sigma * eps) / torch.where(gone, torch.ones_like(alpha), alpha)
    return torch.where(gone, torch.zeros_like(x0), x0)


def x0_from_v(xt: torch.Tensor, v: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """alpha x_t - sigma v (Salimans & Ho 2022, appendix D)."""
    return alpha * xt - sigma * v


def eps_from_x0(xt: torch.Tensor, x0: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(x_t - alpha x_0) / sigma."""
    return (xt - alpha * x0) / sigma


def v_from_x0(x0: torch.Tensor, eps: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Velocity alpha eps - sigma x_0 (Salimans & Ho 2022, appendix D)."""
    return alpha * eps - sigma * x0


def restrict_x0(x0: torch.Tensor, clamp: float | None = None, percentile: float | None = None) -> torch.Tensor:
    """Keep a prediction in range: dynamic thresholding (Saharia et al. 2022, section 2.3), else a plain clamp.

    Args:
        x0: [B, ...].
        clamp: limit c of the interval [-c, c]; used when `percentile` is None.
        percentile: in (0, 1]; per sample s = max(1, that quantile of |x0|), the result is clip(x0, -s, s) / s.
    """
    if percentile is not None:
        s = torch.quantile(x0.flatten(1).abs().float(), percentile, dim=1).clamp(min=1).to(x0.dtype)
        s = s.view((-1,) + (1,) * (x0.ndim - 1))
        return torch.minimum(torch.maximum(x0, -s), s) / s
    if clamp is not None:
        return x0.clamp(-clamp, clamp)
    return x0
