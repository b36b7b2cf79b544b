"""`GaussianDiffusion`: a variance-preserving process given by its noise levels, for super-resolution."""
import torch

from tools.diffusions import dpm_solver
from tools.diffusions.guidance import Guidance, prepare
from tools.diffusions.options import check_choice
from tools.diffusions.predictions import eps_from_x0, restrict_x0, v_from_x0, x0_from_eps, x0_from_v
from tools.diffusions.samplers import batch_of, randn_like, run_steps
from tools.diffusions.tables import lookup
from tools.errors import UserError

PREDICTION_TYPES = ("eps", "v")
SOLVERS = ("dpmpp_2m_sde",)
DISCRETIZATIONS = ("leading", "linspace", "trailing")


class GaussianDiffusion:
    """x_t = alpha_t x_0 + sigma_t n with alpha_t = sqrt(1 - sigma_t^2).

    Notation: x [B, C, F, h, w], t [B] integers in 0..T-1; the network is called `model(x_t, t, **kwargs)`;
    model_kwargs is a dict, or the pair [conditional, unconditional] with guide_scale. A "k-sigma" is sigma/alpha, the
    noise level of the variance-exploding sample x_t / alpha_t (Karras et al. 2022).

    Args:
        sigmas: [T], ascending in (0, 1]; kept as float32, as the published model was trained.
        prediction_type: what the network outputs, `eps` or `v`.

    Raises:
        UserError: unknown prediction type.
    """

    def __init__(self, sigmas: torch.Tensor, prediction_type: str = "eps"):
        check_choice("mean_type", prediction_type, PREDICTION_TYPES)
        self.sigmas = sigmas.float()
        self.alphas = torch.sqrt(1 - self.sigmas**2)
        self.num_timesteps = len(sigmas)
        self.prediction_type = prediction_type

    def alpha_sigma(self, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha_t and sigma_t, [B, 1, ..., 1]; 1 and 0 for t < 0."""
        clean = (t < 0).to(x.device).view((-1,) + (1,) * (x.ndim - 1))
        alpha, sigma = lookup(self.alphas, t.clamp(min=0), x), lookup(self.sigmas, t.clamp(min=0), x)
        return torch.where(clean, torch.ones_like(alpha), alpha), torch.where(clean, torch.zeros_like(sigma), sigma)

    def diffuse(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """x_t from x_0; draws normal noise when `noise` is None."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * (randn_like(x0) if noise is None else noise)

    def loss(self, x0: torch.Tensor, t: torch.Tensor, model, model_kwargs=None,
             noise: torch.Tensor | None = None) -> torch.Tensor:
        """Mean squared error of each sample, [B], in what the network predicts (noise or velocity).

        Args:
            noise: as x0; drawn when None.
        """
        noise = randn_like(x0) if noise is None else noise
        out = model(self.diffuse(x0, t, noise), t, **(model_kwargs or {}))
        target = noise if self.prediction_type == "eps" else v_from_x0(x0, noise, *self.alpha_sigma(t, x0))
        return ((out - target) ** 2).flatten(1).mean(dim=1)

    def denoise(self, xt: torch.Tensor, t: torch.Tensor, s: torch.Tensor | None, model, model_kwargs=None,
                guide_scale: float | None = None, guide_rescale: float | None = None, clamp: float | None = None,
                percentile: float | None = None):
        """One evaluation of the network, and the Gaussian of x_s given x_t that follows from it.

        Args:
            s: [B], the step to go to; t - 1 when None.
            guide_scale: classifier-free guidance; at 1 the unconditional branch is not run.
            guide_rescale: see `guidance.Guidance`.
            clamp, percentile: see `predictions.restrict_x0`; mean and noise follow from the restricted x_0.

        Returns:
            mean, variance, log variance (in [-20, 20]) of x_s, predicted x_0 and noise.
        """
        predict = self._guided(model, model_kwargs, guide_scale, guide_rescale, len(xt))
        x0, eps = self._x0_eps(predict, xt, t, clamp, percentile)
        alpha, sigma = self.alpha_sigma(t, xt)
        alpha_s, _ = self.alpha_sigma(t - 1 if s is None else s, xt)
        sigma_s = torch.sqrt(1 - alpha_s**2)
        beta = 1 - (alpha / alpha_s) ** 2
        mean = beta * alpha_s / sigma**2 * x0 + alpha / alpha_s * (sigma_s / sigma) ** 2 * xt
        variance = beta * (sigma_s / sigma) ** 2
        return mean, variance, torch.log(variance).clamp(-20, 20), x0, eps

    def _guided(self, model, model_kwargs, guide_scale, guide_rescale, batch, batched=False):
        guidance = None if guide_scale is None else Guidance(guide_scale, guide_rescale)
        return prepare(model, model_kwargs, guidance, batch=batch, batched=batched)

    def _x0_eps(self, predict, xt, t, clamp=None, percentile=None):
        alpha, sigma = self.alpha_sigma(t, xt)
        x0_from = x0_from_eps if self.prediction_type == "eps" else x0_from_v
        x0 = restrict_x0(x0_from(xt, predict(xt, t), alpha, sigma), clamp, percentile)
        return x0, eps_from_x0(xt, x0, alpha, sigma)

    @torch.no_grad()
    def ddim_reverse_sample_loop(self, x0: torch.Tensor, model, model_kwargs=None, clamp=None, percentile=None,
                                 guide_scale=None, guide_rescale=None, ddim_timesteps: int = 20,
                                 reverse_steps: int = 600, *, progress=None, batched_guidance=False) -> torch.Tensor:
        """Inversion: x at noise level `reverse_steps` - 1 from a clean x_0.

        Times 0, stride, 2 stride, ... below reverse_steps, stride = reverse_steps // ddim_timesteps.

        Raises:
            UserError: ddim_timesteps not in 1..reverse_steps, or reverse_steps above T.
        """
        if not 1 <= ddim_timesteps <= reverse_steps <= self.num_timesteps:
            raise UserError(f"inversion needs 1 <= steps ({ddim_timesteps}) <= noise levels ({reverse_steps}) <= "
                            f"num_timesteps ({self.num_timesteps})")
        predict = self._guided(model, model_kwargs, guide_scale, guide_rescale, len(x0), batched_guidance)
        stride = reverse_steps // ddim_timesteps

        def step(x, t):
            clean, eps = self._x0_eps(predict, x, batch_of(t, x), clamp, percentile)
            alpha, sigma = self.alpha_sigma(batch_of(min(t + stride, reverse_steps - 1), x), x)
            return alpha * clean + sigma * eps

        return run_steps(step, x0, range(0, reverse_steps, stride), progress)

    @torch.no_grad()
    def sample(self, noise: torch.Tensor, model, model_kwargs=None, guide_scale: float | None = None,
               guide_rescale: float | None = None, clamp: float | None = None, percentile: float | None = None,
               solver: str = "dpmpp_2m_sde", steps: int | torch.Tensor = 20, t_max: float | None = None,
               t_min: float | None = None, discretization: str = "linspace",
               discard_penultimate_step: bool | None = None, return_intermediate: str | None = None, eta: float = 1.0,
               s_noise: float = 1.0, solver_type: str = "midpoint", brownian=None, *, exact_start: bool = False,
               generator=None, progress=None, batched_guidance: bool = False):
        """x_0 from a sample at noise level t_max.

        Args:
            noise: x at t_max, variance preserving.
            solver: `dpmpp_2m_sde` is the only one.
            steps: network evaluations, or an int64 tensor of descending times to be used as they are.
            t_max, t_min: ends of the time range; T - 1 and 0 when None.
            discretization: `leading`, `linspace` or `trailing`, see `timesteps`.
            discard_penultimate_step: make one time more and drop the last one before the clean end; None means yes.
            return_intermediate: `x0` or `xt` returns (x_0, list of that quantity at every evaluation).
            eta, s_noise, solver_type, brownian: see `dpm_solver.dpmpp_2m_sde`.
            exact_start: start from `noise` as it is. The reference takes it for noise alone and shrinks it by sigma: by
                nothing at the highest levels, a ninth at the 700 of SR600's recipe, three quarters at 150.
            generator: seeds the Brownian motion.

        Raises:
            UserError: unknown name, a time range outside the schedule, or more steps than it has times.
        """
        check_choice("solver", solver, SOLVERS)
        check_choice("return_intermediate", return_intermediate, (None, "x0", "xt"))
        k_sigmas = self.k_sigmas(steps, t_max, t_min, discretization, discard_penultimate_step)
        predict = self._guided(model, model_kwargs, guide_scale, guide_rescale, len(noise), batched_guidance)
        kept = []

        def denoise(x, k):
            xt = x if k.isinf() else x / torch.sqrt(k**2 + 1)
            t = int(self.k_sigma_to_t(k[None]).round())
            x0, _ = self._x0_eps(predict, xt, batch_of(t, x), clamp, percentile)
            if return_intermediate is not None:
                kept.append(x0 if return_intermediate == "x0" else xt)
            return x0

        if brownian is None:
            brownian = dpm_solver.brownian_noise(noise, k_sigmas, generator)
        if exact_start and k_sigmas[0].isfinite():
            noise = noise * torch.sqrt(1 + k_sigmas[0] ** -2)
        x0 = dpm_solver.dpmpp_2m_sde(denoise, noise, k_sigmas, eta=eta, s_noise=s_noise, solver_type=solver_type,
                                     brownian=brownian, progress=progress)
        return x0 if return_intermediate is None else (x0, kept)

    def k_sigmas(self, steps: int | torch.Tensor, t_max: float | None = None, t_min: float | None = None,
                 discretization: str = "linspace", discard_penultimate_step: bool | None = None) -> torch.Tensor:
        """Descending k-sigmas of a sampling run, float32, with the final 0; arguments as of `sample`."""
        if isinstance(steps, torch.Tensor):
            return torch.cat([self.t_to_k_sigma(steps.cpu()), torch.zeros(1)])
        t_max = self.num_timesteps - 1 if t_max is None else t_max
        t_min = 0 if t_min is None else t_min
        if not 0 <= t_min <= t_max < self.num_timesteps or not 1 <= steps <= t_max - t_min + 1:
            raise UserError(f"sampling needs 0 <= t_min ({t_min}) <= t_max ({t_max}) < num_timesteps "
                            f"({self.num_timesteps}) and between 1 and {t_max - t_min + 1} steps, not {steps}")
        discard = discard_penultimate_step is not False
        k_sigmas = self.t_to_k_sigma(timesteps(steps + discard, t_max, t_min, discretization))
        return torch.cat([k_sigmas[:-1] if discard else k_sigmas, torch.zeros(1)])

    def t_to_k_sigma(self, t: torch.Tensor) -> torch.Tensor:
        """k-sigma at real-valued times, interpolated linearly in its logarithm; infinite where alpha reaches 0."""
        log_k = torch.log(self.sigmas / self.alphas)
        low, high = t.floor().long(), t.ceil().long()
        weight = t - low
        log_value = (1 - weight) * log_k[low] + weight * log_k[high]
        return torch.where(log_value.isfinite(), log_value, torch.inf).exp()

    def k_sigma_to_t(self, k_sigma: torch.Tensor) -> torch.Tensor:
        """Real-valued times of k-sigmas [N]; the inverse of `t_to_k_sigma` within the schedule, its ends beyond."""
        log_k = torch.log(self.sigmas / self.alphas)
        log_value = torch.log(k_sigma)
        low = (torch.searchsorted(log_k, log_value, right=True) - 1).clamp(0, len(log_k) - 2)
        weight = ((log_k[low] - log_value) / (log_k[low] - log_k[low + 1])).clamp(0, 1)
        return torch.where(k_sigma.isinf(), len(log_k) - 1, low + weight)

    # Single DDIM steps of a v network between t and t - T // inference_steps; below 0 lies the clean sample.

    def prev_step(self, model_out: torch.Tensor, t: torch.Tensor | int, xt: torch.Tensor,
                  inference_steps: int = 50) -> torch.Tensor:
        """Towards x_0: from x at t; model_out is v there, t [B] or one step for all."""
        t = torch.as_tensor(t)
        return self._v_step(model_out, xt, t, t - self.num_timesteps // inference_steps)

    def next_step(self, model_out: torch.Tensor, t: torch.Tensor | int, xt: torch.Tensor,
                  inference_steps: int = 50) -> torch.Tensor:
        """Towards noise: to x at t from the step before it; model_out is v at that step, t [B] or one step for all."""
        t = torch.as_tensor(t)
        return self._v_step(model_out, xt, t - self.num_timesteps // inference_steps, t)

    def _v_step(self, v, x, start, end):
        alpha, sigma = self.alpha_sigma(start, x)
        alpha_end, sigma_end = self.alpha_sigma(end, x)
        return alpha_end * x0_from_v(x, v, alpha, sigma) + sigma_end * (alpha * v + sigma * x)


def timesteps(n: int, t_max: float, t_min: float, discretization: str) -> torch.Tensor:
    """n descending real-valued times in [t_min, t_max] (Lin et al. 2023, table 2), float32.

    Raises:
        UserError: unknown discretization.
    """
    check_choice("discretization", discretization, DISCRETIZATIONS)
    stride = (t_max - t_min + 1) / n
    if discretization == "leading":
        times = torch.arange(t_min, t_max + 1, stride, dtype=torch.float32).flip(0)
    elif discretization == "linspace":
        times = torch.linspace(t_max, t_min, n)
    else:
        times = torch.arange(t_max, t_min - 1, -stride, dtype=torch.float32)
    return times.clamp(t_min, t_max)
