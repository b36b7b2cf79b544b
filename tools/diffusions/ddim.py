"""`DiffusionDDIM`: the discrete variance-preserving diffusion process that most methods train and sample with."""
import functools

import torch

from tools import noise as random
from tools.diffusions import losses, samplers
from tools.diffusions.guidance import Guidance, Kwargs, conditional_kwargs, prepare
from tools.diffusions.noise_strategies import noise_strategy
from tools.diffusions.options import check_choice, schedule_table
from tools.diffusions.predictions import restrict_x0, x0_from_eps, x0_from_v
from tools.diffusions.schedules import beta_schedule
from tools.diffusions.tables import DiffusionTables, lookup
from tools.registry import DIFFUSION

MEAN_TYPES = ("x0", "x_{t-1}", "eps", "v")
VAR_TYPES = ("learned", "learned_range", "fixed_large", "fixed_small")


@DIFFUSION.register(ignored=["ddim_timesteps"])
class DiffusionDDIM:
    """Diffusion over T discrete steps: x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) n (Ho et al. 2020; Song et al. 2021).

    Notation: x [B, C, F, h, w] (any shape with a batch axis will do), t [B] integers in 0..T-1 (fractional steps are
    interpolated), model_kwargs a dict of conditions, or the pair [conditional, unconditional] with guide_scale (a
    number; or a `guidance.Guidance`, with a set of conditions for each of its branches).

    Args:
        schedule, schedule_param: name and arguments of `schedules.beta_schedule`.
        mean_type: what the network outputs: `x0`, `x_{t-1}` (the posterior mean), `eps` or `v`.
        var_type: `fixed_small`, `fixed_large`, or `learned`, `learned_range` (twice the channels).
        loss_type: one of `losses.LOSS_TYPES`.
        epsilon: under the root of the Charbonnier loss.
        rescale_timesteps: the network gets t * 1000 / T as a float instead of t.
        noise_strength: strength of the offset noise, one extra draw per channel and frame added to training noise.
        noise_sampling_method, noise_alpha: how the noise of a clip's frames hangs together, in training and where
            sampling starts; see `noise_strategies`.
        coherence: weight of the coherence loss of TF-T2V (arXiv 2312.15770) beside the ordinary one: squared error
            of the differences between neighbouring frames of the network's output. The paper's weight is 0.1.

    Raises:
        UserError: unknown name or key.
    """

    def __init__(self, schedule: str = "linear_sd", schedule_param: dict | None = None, mean_type: str = "eps",
                 var_type: str = "learned_range", loss_type: str = "mse", epsilon: float = 1e-12,
                 rescale_timesteps: bool = False, noise_strength: float = 0.0,
                 noise_sampling_method: str = "vanilla", noise_alpha: float = 1.0, coherence: float = 0.0):
        check_choice("mean_type", mean_type, MEAN_TYPES)
        check_choice("var_type", var_type, VAR_TYPES)
        check_choice("loss_type", loss_type, losses.LOSS_TYPES)
        self.tables = DiffusionTables.from_betas(schedule_table(beta_schedule, schedule, schedule_param))
        self.num_timesteps = len(self.tables.betas)
        self.mean_type = mean_type
        self.var_type = var_type
        self.loss_type = loss_type
        self.epsilon = epsilon
        self.rescale_timesteps = rescale_timesteps
        self.noise_strength = noise_strength
        self.coherence = coherence
        self.strategy = noise_strategy(noise_sampling_method, noise_alpha)

    # The forward process q.

    def sample_noise(self, x0: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Noise shaped as x0; plus noise_strength times one draw per channel and frame, made after it."""
        n = self.strategy(functools.partial(random.device_randn, device=x0.device, dtype=x0.dtype,
                                            generator=generator), x0.shape)
        if self.noise_strength > 0:
            n = n + self.noise_strength * samplers.randn_like(x0[..., :1, :1], generator)
        return n

    def q_sample(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """x_t from x_0; draws offset noise when `noise` is None."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * (self.sample_noise(x0) if noise is None else noise)

    def q_mean_variance(self, x0: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, variance and log variance of q(x_t | x_0); the variances are [B, 1, ..., 1]."""
        return (lookup(self.tables.sqrt_alphas_cumprod, t, x0) * x0,
                lookup(1 - self.tables.alphas_cumprod, t, x0),
                lookup(self.tables.log_one_minus_alphas_cumprod, t, x0))

    def q_posterior_mean_variance(self, x0: torch.Tensor, xt: torch.Tensor, t: torch.Tensor):
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6-7)."""
        mean = (lookup(self.tables.posterior_mean_coef1, t, xt) * x0
                + lookup(self.tables.posterior_mean_coef2, t, xt) * xt)
        return (mean, lookup(self.tables.posterior_variance, t, xt),
                lookup(self.tables.posterior_log_variance_clipped, t, xt))

    def alpha_sigma(self, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(ab_t) and sqrt(1 - ab_t), [B, 1, ..., 1]."""
        return (lookup(self.tables.sqrt_alphas_cumprod, t, x),
                lookup(self.tables.sqrt_one_minus_alphas_cumprod, t, x))

    def alpha_bar(self, t: int) -> float:
        """ab_t of one step, in full precision."""
        return self.tables.alphas_cumprod[t].item()

    def ddim_times(self, steps: int) -> list[tuple[int, int]]:
        """Descending (t, the step that t's ends at) of a shortened loop; UserError unless `steps` is in 1..T."""
        stride = samplers.stride_of(self.num_timesteps, steps)
        return [(t, max(t - stride, 0)) for t in samplers.ddim_timesteps(self.num_timesteps, steps)]

    def model_time(self, t: torch.Tensor) -> torch.Tensor:
        """The time that the network is told."""
        return t.float() * 1000.0 / self.num_timesteps if self.rescale_timesteps else t

    # What the network's output means.

    def split(self, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and variance channels of a network's output; no variance channels where the variance is fixed."""
        return out.chunk(2, dim=1) if self.var_type.startswith("learned") else (out, None)

    def predict_x0(self, out: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, clamp: float | None = None,
                   percentile: float | None = None) -> torch.Tensor:
        """x_0 that an output (with its variance channels) stands for; see `predictions.restrict_x0`."""
        out, _ = self.split(out)
        if self.mean_type == "x0":
            x0 = out
        elif self.mean_type == "eps":
            x0 = x0_from_eps(xt, out, *self.alpha_sigma(t, xt))
        elif self.mean_type == "v":
            x0 = x0_from_v(xt, out, *self.alpha_sigma(t, xt))
        else:
            x0 = ((out - lookup(self.tables.posterior_mean_coef2, t, xt) * xt)
                  / lookup(self.tables.posterior_mean_coef1, t, xt))
        return restrict_x0(x0, clamp, percentile)

    def mean_variance(self, out: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, clamp: float | None = None,
                      percentile: float | None = None):
        """Mean, variance, log variance of p(x_{t-1} | x_t) and the predicted x_0.

        The limits apply to the returned x_0 only: as in the reference the mean follows from the unlimited one.
        """
        mean_out, variance_out = self.split(out)
        log_variance = self._log_variance(variance_out, xt, t)
        x0 = self.predict_x0(out, xt, t)
        mean = mean_out if self.mean_type == "x_{t-1}" else self.q_posterior_mean_variance(x0, xt, t)[0]
        return mean, torch.exp(log_variance), log_variance, restrict_x0(x0, clamp, percentile)

    def _log_variance(self, variance_out, xt, t):
        tables = self.tables
        if self.var_type == "learned":
            return variance_out
        if self.var_type == "fixed_large":
            large = torch.cat([tables.posterior_variance[1:2], tables.betas[1:]])
            return lookup(torch.log(large), t, xt)
        small = lookup(tables.posterior_log_variance_clipped, t, xt)
        if self.var_type == "fixed_small":
            return small
        share = (variance_out + 1) / 2  # Nichol & Dhariwal 2021, eq. 15
        return share * lookup(torch.log(tables.betas), t, xt) + (1 - share) * small

    def p_mean_variance(self, xt: torch.Tensor, t: torch.Tensor, model, model_kwargs=None, clamp: float | None = None,
                        percentile: float | None = None, guide_scale: float | None = None):
        """One evaluation of the network: see `mean_variance`."""
        predict = self._guided(model, model_kwargs, guide_scale, len(xt))
        return self.mean_variance(predict(xt, self.model_time(t)), xt, t, clamp, percentile)

    def _guided(self, model, model_kwargs, guide_scale, batch, batched=False):
        guidance = guide_scale if guide_scale is None or isinstance(guide_scale, Guidance) else Guidance(
            guide_scale, learned_variance=self.var_type.startswith("learned"))
        return prepare(model, model_kwargs, guidance, batch=batch, batched=batched)

    # Sampling. All loops take `generator` (source of every draw), `progress` (called with steps done and steps in all)
    # and `batched_guidance` (both guidance branches in one forward where their conditions can be joined).

    def denoiser(self, model, model_kwargs, x: torch.Tensor, *, clamp=None, percentile=None, condition_fn=None,
                 guide_scale=None, batched_guidance: bool = False) -> samplers.Denoiser:
        """The network bound to this process for one loop over samples shaped as x."""
        predict = self._guided(model, model_kwargs, guide_scale, len(x), batched_guidance)
        return samplers.Denoiser(self, predict, clamp, percentile, condition_fn, conditional_kwargs(model_kwargs))

    @torch.no_grad()
    def p_sample_loop(self, noise, model, model_kwargs=None, clamp=None, percentile=None, condition_fn=None,
                      guide_scale=None, *, generator=None, progress=None, batched_guidance=False) -> torch.Tensor:
        """x_0 from noise by the ancestral sampler, T steps."""
        denoiser = self.denoiser(model, model_kwargs, noise, clamp=clamp, percentile=percentile,
                                 condition_fn=condition_fn, guide_scale=guide_scale, batched_guidance=batched_guidance)
        return samplers.ancestral(denoiser, noise, generator=generator, progress=progress)

    @torch.no_grad()
    def ddim_sample_loop(self, noise, model, model_kwargs=None, clamp=None, percentile=None, condition_fn=None,
                         guide_scale=None, ddim_timesteps=20, eta=0.0, *, generator=None, progress=None,
                         batched_guidance=False) -> torch.Tensor:
        """x_0 from noise by DDIM; UserError when ddim_timesteps is not in 1..T."""
        denoiser = self.denoiser(model, model_kwargs, noise, clamp=clamp, percentile=percentile,
                                 condition_fn=condition_fn, guide_scale=guide_scale, batched_guidance=batched_guidance)
        return samplers.ddim(denoiser, noise, ddim_timesteps, eta, generator=generator, progress=progress)

    @torch.no_grad()
    def ddim_reverse_sample_loop(self, x0, model, model_kwargs=None, clamp=None, percentile=None, guide_scale=None,
                                 ddim_timesteps=20, *, generator=None, progress=None,
                                 batched_guidance=False) -> torch.Tensor:
        """Noise that DDIM would turn into x_0 (inversion). Deterministic: nothing is drawn from `generator`."""
        denoiser = self.denoiser(model, model_kwargs, x0, clamp=clamp, percentile=percentile,
                                 guide_scale=guide_scale, batched_guidance=batched_guidance)
        return samplers.ddim_reverse(denoiser, x0, ddim_timesteps, progress=progress)

    @torch.no_grad()
    def plms_sample_loop(self, noise, model, model_kwargs=None, clamp=None, percentile=None, condition_fn=None,
                         guide_scale=None, plms_timesteps=20, *, generator=None, progress=None,
                         batched_guidance=False) -> torch.Tensor:
        """x_0 from noise by PLMS. Deterministic: nothing is drawn from `generator`."""
        denoiser = self.denoiser(model, model_kwargs, noise, clamp=clamp, percentile=percentile,
                                 condition_fn=condition_fn, guide_scale=guide_scale, batched_guidance=batched_guidance)
        return samplers.plms(denoiser, noise, plms_timesteps, progress=progress)

    # Training.

    def loss(self, x0: torch.Tensor, t: torch.Tensor, model, model_kwargs: Kwargs | None = None,
             noise: torch.Tensor | None = None, weight: torch.Tensor | None = None, use_div_loss: bool = False,
             loss_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Training loss of each sample, [B].

        Args:
            noise: as x0; drawn (with offset noise) when None.
            weight: [B], factor of each sample's distance.
            use_div_loss: penalise predicted frames that are all alike (`eps` networks, more than one frame).
            loss_mask: [B, F, 3, h, w] in {0, 1}; elements outside count as zero distance in the mean.
        """
        return losses.training_loss(self, x0, t, model, model_kwargs, noise, weight, use_div_loss, loss_mask)

    @torch.no_grad()
    def variational_lower_bound_loop(self, x0: torch.Tensor, model, model_kwargs: Kwargs | None = None,
                                     clamp: float | None = None, percentile: float | None = None):
        """Bound on -log2 p(x_0) per element.

        Returns:
            dict of `vlb`, `x0_mse`, `mse` (of the noise) [B, T] from T-1 to 0, `prior_bits_per_dim` [B] and
            `total_bits_per_dim` [B].
        """
        return losses.variational_bound(self, x0, model, model_kwargs, clamp, percentile)
