"""Noise schedules: one function per family, and the conversions between betas, sigmas and log-SNRs.

All processes are variance preserving: x_t = alpha_t x_0 + sigma_t n with alpha_t^2 + sigma_t^2 = 1, and
alpha_t^2 = prod(1 - beta_i) for i <= t ("alpha bar").
"""
import math

import torch

from tools.errors import UserError, nearest

MAX_COSINE_BETA = 0.999


def beta_schedule(schedule: str, num_timesteps: int = 1000, init_beta: float | None = None,
                  last_beta: float | None = None, cosine_s: float = 0.008,
                  zero_terminal_snr: bool = False, shift: float = 1.0) -> torch.Tensor:
    """Variances beta_t of the forward process.

    Args:
        schedule: `linear` (Ho et al. 2020), `linear_sd` (linear in sqrt(beta), latent diffusion), `quadratic` (the
            same curve with other defaults) or `cosine` (Nichol & Dhariwal 2021, eq. 17).
        num_timesteps: length T.
        init_beta, last_beta: end points in (0, 1) of the linear families; None takes the family's own.
        cosine_s: offset of the cosine family.
        zero_terminal_snr: rescale so that x_{T-1} is pure noise (Lin et al. 2023, algorithm 1).
        shift: factor on the ratio of noise to signal at every step (Hoogeboom et al. 2023, eq. 8). Above 1 for data
            whose pixels and frames repeat each other: noise hides what a clip shows only at a higher level.

    Returns:
        float64 [T], values in (0, 1].

    Raises:
        UserError: unknown schedule, or a table that leaves (0, 1].
    """
    if num_timesteps < 1:
        raise UserError(f"schedule_param: num_timesteps must be at least 1, not {num_timesteps}")
    if schedule == "cosine":
        betas = _cosine_betas(num_timesteps, cosine_s)
    elif schedule in _END_POINTS:
        default_init, default_last = _END_POINTS[schedule](num_timesteps)
        first = default_init if init_beta is None else init_beta
        last = default_last if last_beta is None else last_beta
        betas = _line(first, last, num_timesteps, power=1 if schedule == "linear" else 2)
    else:
        raise UserError(f"unknown beta schedule '{schedule}'{nearest(schedule, BETA_SCHEDULES)}; "
                        f"known: {', '.join(BETA_SCHEDULES)}")
    if not ((betas > 0) & (betas <= 1)).all():
        raise UserError(f"schedule '{schedule}': betas must lie in (0, 1]; check init_beta {init_beta}, "
                        f"last_beta {last_beta} and num_timesteps {num_timesteps}")
    if shift != 1.0:
        betas = _shift(betas, shift)
    return rescale_zero_terminal_snr(betas) if zero_terminal_snr else betas


def _line(first: float, last: float, n: int, power: int) -> torch.Tensor:
    """n values from `first` to `last` whose `power`-th roots are equally spaced."""
    return torch.linspace(first ** (1 / power), last ** (1 / power), n, dtype=torch.float64) ** power


# The end points of `linear` keep the total noise of the original 1000 steps (1e-4 to 0.02) for any T.
_END_POINTS = {
    "linear": lambda n: (0.1 / n, min(20 / n, MAX_COSINE_BETA)),
    "linear_sd": lambda n: (0.00085, 0.012),
    "quadratic": lambda n: (0.0015, 0.0195),
}
BETA_SCHEDULES = (*_END_POINTS, "cosine")


def _cosine_betas(n: int, s: float) -> torch.Tensor:
    u = torch.arange(n + 1, dtype=torch.float64) / n
    alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_COSINE_BETA)


def _shift(betas: torch.Tensor, factor: float) -> torch.Tensor:
    if factor <= 0:
        raise UserError(f"schedule_param: shift must be above 0, not {factor}")
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    return 1 - _ratios(alpha_bar / (alpha_bar + factor ** 2 * (1 - alpha_bar)))


def rescale_zero_terminal_snr(betas: torch.Tensor) -> torch.Tensor:
    """Shift and scale sqrt(alpha bar) so that its last value is 0 and its first is kept (Lin et al. 2023, algorithm 1).

    A table whose largest value is already within 1e-4 of 1 is returned as it is.
    """
    if abs(betas.max().item() - 1) <= 1e-4:
        return betas
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    alpha_bar = ((root - last) * first / (first - last)) ** 2
    return 1 - _ratios(alpha_bar)


def _ratios(alpha_bar: torch.Tensor) -> torch.Tensor:
    """alpha_t = alpha bar_t / alpha bar_{t-1}, with alpha bar_{-1} = 1."""
    return torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def sigma_schedule(schedule: str, num_timesteps: int = 1000, init_beta: float | None = None,
                   last_beta: float | None = None, cosine_s: float = 0.008, zero_terminal_snr: bool = False,
                   scale_min: float = 2.0, scale_max: float = 4.0, logsnr_min: float = -15.0,
                   logsnr_max: float = 15.0) -> torch.Tensor:
    """Noise levels sigma_t, ascending.

    Args:
        schedule: `logsnr_cosine_interp`, or any name that `beta_schedule` takes (with its arguments).
        zero_terminal_snr: as in the original the rescale is applied to the sigmas themselves, and only where the
            largest is farther than 1e-4 from 1. The published SR600 schedules never get there.
        scale_min, scale_max, logsnr_min, logsnr_max: see `logsnr_cosine_interp`.

    Returns:
        [T] in (0, 1]; float64 (float32 for `logsnr_cosine_interp`, as the published model was trained).

    Raises:
        UserError: unknown schedule.
    """
    if schedule == "logsnr_cosine_interp":
        sigmas = logsnrs_to_sigmas(logsnr_cosine_interp(num_timesteps, scale_min, scale_max, logsnr_min, logsnr_max))
    elif schedule in BETA_SCHEDULES:
        sigmas = betas_to_sigmas(beta_schedule(schedule, num_timesteps, init_beta, last_beta, cosine_s))
    else:
        raise UserError(f"unknown sigma schedule '{schedule}'{nearest(schedule, SIGMA_SCHEDULES)}; "
                        f"known: {', '.join(SIGMA_SCHEDULES)}")
    return rescale_zero_terminal_snr(sigmas) if zero_terminal_snr else sigmas


SIGMA_SCHEDULES = (*BETA_SCHEDULES, "logsnr_cosine_interp")


def logsnr_cosine_interp(n: int, scale_min: float = 2.0, scale_max: float = 4.0, logsnr_min: float = -15.0,
                         logsnr_max: float = 15.0) -> torch.Tensor:
    """Cosine log-SNR curve, shifted for resolution interpolated between two shifts (Hoogeboom et al. 2023, eq. 8-10).

    Returns:
        float32 [n], descending; the clean end is shifted by `scale_min`, the noisy end by `scale_max`.
    """
    t = torch.linspace(1, 0, n)
    low, high = math.atan(math.exp(-0.5 * logsnr_min)), math.atan(math.exp(-0.5 * logsnr_max))
    logsnrs = -2 * torch.log(torch.tan(low + t * (high - low)))
    return t * (logsnrs + 2 * math.log(1 / scale_min)) + (1 - t) * (logsnrs + 2 * math.log(1 / scale_max))


def karras_schedule(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> torch.Tensor:
    """Spacing of Karras et al. 2022 (eq. 5), as variance-preserving noise levels.

    Args:
        sigma_min, sigma_max: variance-exploding levels sigma/alpha.

    Returns:
        float32 [n], ascending.
    """
    ramp = torch.linspace(1, 0, n)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    k = (high + ramp * (low - high)) ** rho
    return torch.sqrt(k**2 / (1 + k**2))


def betas_to_sigmas(betas: torch.Tensor) -> torch.Tensor:
    """sigma_t = sqrt(1 - alpha bar_t)."""
    return torch.sqrt(1 - torch.cumprod(1 - betas, dim=0))


def sigmas_to_betas(sigmas: torch.Tensor) -> torch.Tensor:
    """Inverse of `betas_to_sigmas`."""
    return 1 - _ratios(1 - sigmas**2)


def sigmas_to_logsnrs(sigmas: torch.Tensor) -> torch.Tensor:
    """ln(alpha^2 / sigma^2)."""
    return torch.log((1 - sigmas**2) / sigmas**2)


def logsnrs_to_sigmas(logsnrs: torch.Tensor) -> torch.Tensor:
    """Inverse of `sigmas_to_logsnrs`."""
    return torch.sqrt(torch.sigmoid(-logsnrs))
