"""`DDIMScheduler`: the same diffusion process under the keys, times and end points of diffusers' scheduler.

Its sampler differs from `DiffusionDDIM`'s in two things that published numbers depend on: which times a shortened loop
visits, and that the last step ends at the clean sample instead of at step 0.
"""
import torch

from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.options import check_choice
from tools.diffusions.samplers import Progress, batch_of, run_steps, stride_of
from tools.errors import UserError
from tools.registry import DIFFUSION

SCHEDULES = {"linear": "linear", "scaled_linear": "linear_sd", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SPACINGS = ("leading", "trailing", "linspace")


@DIFFUSION.register(ignored=["_class_name", "_diffusers_version", "trained_betas", "skip_prk_steps",
                             "clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"])
class DDIMScheduler(DiffusionDDIM):
    """The process that a `scheduler_config.json` of diffusers describes.

    Args:
        num_train_timesteps: T.
        beta_start, beta_end: end points of the betas.
        beta_schedule: `linear`, `scaled_linear` (linear in sqrt(beta)) or `squaredcos_cap_v2` (cosine).
        steps_offset: added to every time of `leading` spacing.
        set_alpha_to_one: the last step ends at alpha bar 1 instead of at alpha bar of step 0.
        timestep_spacing: `leading`, `trailing` or `linspace`.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
        rescale_betas_zero_snr: end in pure noise (Lin et al. 2023, algorithm 1).
        clip_sample, thresholding: must be false: latents have no fixed range.
        noise_sampling_method, noise_alpha: see `DiffusionDDIM`.

    Raises:
        UserError: an unknown name, or an option that is not available.
    """

    def __init__(self, num_train_timesteps: int = 1000, beta_start: float = 0.0001, beta_end: float = 0.02,
                 beta_schedule: str = "linear", steps_offset: int = 0, set_alpha_to_one: bool = True,
                 timestep_spacing: str = "leading", prediction_type: str = "epsilon",
                 rescale_betas_zero_snr: bool = False, clip_sample: bool = False, thresholding: bool = False,
                 noise_sampling_method: str = "vanilla", noise_alpha: float = 1.0):
        check_choice("beta_schedule", beta_schedule, SCHEDULES)
        check_choice("prediction_type", prediction_type, PREDICTIONS)
        check_choice("timestep_spacing", timestep_spacing, SPACINGS)
        if clip_sample or thresholding:
            raise UserError("Diffusion: clip_sample and thresholding are for pixels; latents have no fixed range, set "
                            "both false")
        super().__init__(
            SCHEDULES[beta_schedule],
            {"num_timesteps": num_train_timesteps, "init_beta": beta_start, "last_beta": beta_end,
             "zero_terminal_snr": rescale_betas_zero_snr},
            mean_type=PREDICTIONS[prediction_type], var_type="fixed_small",
            noise_sampling_method=noise_sampling_method, noise_alpha=noise_alpha)
        self.steps_offset, self.spacing = steps_offset, timestep_spacing
        self.final_alpha_bar = 1.0 if set_alpha_to_one else super().alpha_bar(0)

    def alpha_bar(self, t: int) -> float:
        """ab_t; the final one for steps below 0."""
        return super().alpha_bar(t) if t >= 0 else self.final_alpha_bar

    def ddim_times(self, steps: int) -> list[tuple[int, int]]:
        """Descending (t, t - T // steps); the second is below 0 where the step ends at the clean sample."""
        total = self.num_timesteps
        stride = stride_of(total, steps)
        if self.spacing == "leading":
            times = [min(stride * i + self.steps_offset, total - 1) for i in reversed(range(steps))]
        elif self.spacing == "trailing":
            times = [round(total - i * total / steps) - 1 for i in range(steps)]
        else:
            times = [round(i * (total - 1) / max(steps - 1, 1)) for i in reversed(range(steps))]
        return [(t, t - stride) for t in times]

    @torch.no_grad()
    def ddim_reverse_sample_loop(self, x0: torch.Tensor, model, model_kwargs=None, clamp=None, percentile=None,
                                 guide_scale=None, ddim_timesteps: int = 20, *, generator=None,
                                 progress: Progress | None = None, batched_guidance: bool = False) -> torch.Tensor:
        """Noise that DDIM would turn into x_0: the last of `invert`."""
        return self.invert(x0, model, model_kwargs, guide_scale, ddim_timesteps, progress, batched_guidance)[-1]

    @torch.no_grad()
    def invert(self, x0: torch.Tensor, model, model_kwargs=None, guide_scale=None, ddim_timesteps: int = 20,
               progress: Progress | None = None, batched_guidance: bool = False) -> list[torch.Tensor]:
        """The `ddim_timesteps` + 1 samples from x_0 to noise (Song et al. 2021, section 4.3).

        A step asks the network at the time it goes to, about a sample that is still at the level it comes from, as the
        published inversion does.
        """
        predict = self._guided(model, model_kwargs, guide_scale, len(x0), batched_guidance)
        path = [x0]

        def step(x, times):
            target, level = times
            out = predict(x, self.model_time(batch_of(target, x)))
            clean, eps = self._clean_and_noise(out, x, self.alpha_bar(min(level, self.num_timesteps - 1)))
            ab = self.alpha_bar(target)
            path.append(ab ** 0.5 * clean + (1 - ab) ** 0.5 * eps)
            return path[-1]

        run_steps(step, x0, self.ddim_times(ddim_timesteps)[::-1], progress)
        return path

    def _clean_and_noise(self, out: torch.Tensor, x: torch.Tensor, ab: float) -> tuple[torch.Tensor, torch.Tensor]:
        """x_0 and noise of a sample at level alpha bar `ab`, 1 included."""
        alpha, sigma = ab ** 0.5, (1 - ab) ** 0.5
        if self.mean_type == "v":
            return alpha * x - sigma * out, alpha * out + sigma * x
        if self.mean_type == "x0":
            return out, (x - alpha * out) / sigma if sigma else torch.zeros_like(x)
        return (x - sigma * out) / alpha, out
