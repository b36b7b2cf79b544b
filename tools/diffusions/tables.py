"""The float64 tables of a discrete diffusion process, and how a value at step t meets a tensor."""
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DiffusionTables:
    """Everything that follows from the betas (Ho et al. 2020, section 2); each field is float64 [T].

    `alphas_cumprod_prev` starts with 1 and `alphas_cumprod_next` ends with 0: the clean and the pure-noise end.
    """

    betas: torch.Tensor
    alphas_cumprod: torch.Tensor
    alphas_cumprod_prev: torch.Tensor
    alphas_cumprod_next: torch.Tensor
    sqrt_alphas_cumprod: torch.Tensor
    sqrt_one_minus_alphas_cumprod: torch.Tensor
    log_one_minus_alphas_cumprod: torch.Tensor
    posterior_variance: torch.Tensor
    posterior_log_variance_clipped: torch.Tensor
    posterior_mean_coef1: torch.Tensor
    posterior_mean_coef2: torch.Tensor

    @classmethod
    def from_betas(cls, betas: torch.Tensor) -> "DiffusionTables":
        """Derive all tables; betas: [T] in (0, 1]."""
        betas = betas.double()
        alphas = 1 - betas
        ab = torch.cumprod(alphas, dim=0)
        prev = torch.cat([torch.ones_like(ab[:1]), ab[:-1]])
        variance = betas * (1 - prev) / (1 - ab)
        return cls(
            betas=betas,
            alphas_cumprod=ab,
            alphas_cumprod_prev=prev,
            alphas_cumprod_next=torch.cat([ab[1:], torch.zeros_like(ab[:1])]),
            sqrt_alphas_cumprod=ab.sqrt(),
            sqrt_one_minus_alphas_cumprod=(1 - ab).sqrt(),
            log_one_minus_alphas_cumprod=torch.log(1 - ab),
            posterior_variance=variance,
            posterior_log_variance_clipped=torch.log(variance.clamp(min=1e-20)),
            posterior_mean_coef1=betas * prev.sqrt() / (1 - ab),
            posterior_mean_coef2=(1 - prev) * alphas.sqrt() / (1 - ab),
        )

    @property
    def sqrt_recip_alphas_cumprod(self) -> torch.Tensor:
        """sqrt(1/ab), infinite where the signal is gone."""
        return (1 / self.alphas_cumprod).sqrt()

    @property
    def sqrt_recipm1_alphas_cumprod(self) -> torch.Tensor:
        """sqrt(1/ab - 1), infinite where the signal is gone."""
        return (1 / self.alphas_cumprod - 1).sqrt()


def lookup(table: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """table[t], shaped to broadcast over x and cast to its dtype and device.

    Args:
        table: [T] floating point.
        t: [B] in 0..T-1. Fractional steps (floating t) are interpolated linearly between their neighbours.
        x: [B, ...].

    Returns:
        [B, 1, ..., 1].
    """
    shape = (-1,) + (1,) * (x.ndim - 1)
    if not t.is_floating_point():
        return table.to(x)[t.to(x.device)].view(shape)
    values = table.to(x.device, torch.promote_types(x.dtype, torch.float32))
    t = t.to(x.device)
    low = t.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    weight = (t - low).to(values.dtype)
    return torch.lerp(values[low], values[high], weight).to(x.dtype).view(shape)
