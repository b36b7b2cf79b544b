"""`DiffusionDDIMReward`: the process of InstructVideo (arXiv 2312.12490), whose sampling can be trained through."""
import math
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from tools.diffusions import losses
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.samplers import Denoiser, batch_of, ddim_moments, randn_like, run_steps
from tools.diffusions.tables import lookup
from tools.errors import UserError
from tools.registry import DIFFUSION


@DIFFUSION.register(ignored=["ddim_timesteps"])
class DiffusionDDIMReward(DiffusionDDIM):
    """`DiffusionDDIM` with partial chains that carry a gradient, and with log-probabilities; arguments as there."""

    def partial_times(self, ddim_timesteps: int, starting_partial: float = 1.0) -> list[tuple[int, int]]:
        """The last share of DDIM's (t, step that t's ends at), descending; the first t is where a sample is noised to.

        Raises:
            UserError: no step is left.
        """
        times = self.ddim_times(ddim_timesteps)
        count = int(len(times) * starting_partial)
        if not 1 <= count <= len(times):
            raise UserError(f"starting_partial {starting_partial} of {len(times)} DDIM steps are {count} steps; it "
                            f"must be between {1 / len(times):.3g} and 1")
        return times[-count:]

    def ddim_sample_loop_partial(self, noise, model, starting_partial: float = 1.0, grad_checkpointing: bool = True,
                                 truncated_backprop: bool = True, trunc_backprop_timestep: int = 1, model_kwargs=None,
                                 clamp=None, percentile=None, condition_fn=None, guide_scale=None, ddim_timesteps=20,
                                 eta=0.0, *, generator=None, progress=None, batched_guidance=False) -> torch.Tensor:
        """x_0 from x at the time `partial_times(...)[0]`, differentiable in the network (section 3.2 of the paper).

        Args:
            noise: the noised samples, [B, C, F, h, w].
            starting_partial: share of DDIM's steps that is run.
            grad_checkpointing: keep one tensor per step with gradient and compute the rest again in the backward pass.
            truncated_backprop: only the last `trunc_backprop_timestep` steps carry a gradient, else all do.
        """
        denoiser = self.denoiser(model, model_kwargs, noise, clamp=clamp, percentile=percentile,
                                 condition_fn=condition_fn, guide_scale=guide_scale, batched_guidance=batched_guidance)
        times = self.partial_times(ddim_timesteps, starting_partial)
        first = max(len(times) - trunc_backprop_timestep, 0) if truncated_backprop else 0
        with_gradient = dict.fromkeys(times[first:])

        def step(x, at):
            mean, sigma = moments(denoiser, x, *at, eta)
            return mean + sigma * randn_like(x, generator) if sigma else mean

        def chosen_step(x, at):
            if at not in with_gradient:
                with torch.no_grad():
                    return step(x, at)
            return recomputed(step, x, at) if grad_checkpointing else step(x, at)

        return run_steps(chosen_step, noise, times, progress)

    @torch.no_grad()
    def ddim_sample_loop_with_logprob(self, noise, model, model_kwargs=None, clamp=None, percentile=None,
                                      condition_fn=None, guide_scale=None, ddim_timesteps=20, eta=1.0, *,
                                      starting_partial: float = 1.0, generator=None, progress=None,
                                      batched_guidance=False):
        """A drawn chain and how probable its draws were (Black et al. 2023, arXiv 2305.13301, section 4).

        Returns:
            x_0 [B, ...]; times of the steps, int64 [S]; S log-probabilities [B]; the S + 1 samples from x_t to x_0.

        Raises:
            UserError: eta is 0, a chain that is not drawn has no probabilities.
        """
        denoiser = self.denoiser(model, model_kwargs, noise, clamp=clamp, percentile=percentile,
                                 condition_fn=condition_fn, guide_scale=guide_scale, batched_guidance=batched_guidance)
        times = self.partial_times(ddim_timesteps, starting_partial)
        log_probs, samples = [], [noise]

        def step(x, at):
            mean, sigma = self._drawn_moments(denoiser, x, at, eta)
            drawn = mean + sigma * randn_like(x, generator)
            log_probs.append(log_normal(drawn, mean, sigma))
            samples.append(drawn)
            return drawn

        x0 = run_steps(step, noise, times, progress)
        return x0, torch.tensor([t for t, _ in times]), log_probs, samples

    def step_log_prob(self, denoiser: Denoiser, x: torch.Tensor, drawn: torch.Tensor, at: tuple[int, int],
                      eta: float) -> torch.Tensor:
        """[B]: log-probability, by the network as it is now, of a step of an earlier chain.

        Args:
            denoiser: from `denoiser(...)`.
            x, drawn: sample before and after the step.
            at: the step, one of `partial_times`.
            eta: of the chain.
        """
        return log_normal(drawn, *self._drawn_moments(denoiser, x, at, eta))

    def _drawn_moments(self, denoiser, x, at, eta):
        mean, sigma = moments(denoiser, x, *at, eta)
        if not sigma:
            raise UserError("log-probabilities need steps that are drawn: set eta above 0")
        return mean, sigma

    def loss_with_log_prob(self, x0: torch.Tensor, t: torch.Tensor, model, model_kwargs=None,
                           noise: torch.Tensor | None = None, use_div_loss: bool = False):
        """Loss of each sample, the predicted x_0, and how probable the step back to x_{t-1} is.

        The last is log N(m; x_t / sqrt(1 - beta), beta) with m = (x_t - sqrt(beta) out) / sqrt(1 - beta). Noise that is
        not given is drawn without offset.

        Returns:
            [B], [B, C, F, h, w], [B].

        Raises:
            UserError: the network does not predict noise.
        """
        if self.mean_type != "eps":
            raise UserError(f"log-probabilities of a loss need mean_type eps, not {self.mean_type}")
        noise = randn_like(x0) if noise is None else noise
        xt = self.q_sample(x0, t, noise)
        out = model(xt, self.model_time(t), **(model_kwargs or {}))
        loss = losses.training_loss(self, x0, t, lambda *_, **__: out, None, noise, None, use_div_loss)
        beta = lookup(self.tables.betas, t, xt)
        estimate = (xt - beta.sqrt() * self.split(out)[0]) / (1 - beta).sqrt()
        return loss, self.predict_x0(out, xt, t), log_normal(estimate, xt / (1 - beta).sqrt(), beta.sqrt())


def moments(denoiser: Denoiser, x: torch.Tensor, t: int, previous: int, eta: float) -> tuple[torch.Tensor, float]:
    """Mean and standard deviation of DDIM's step from x at t."""
    x0, eps = denoiser.x0_eps(x, batch_of(t, x))
    return ddim_moments(denoiser.process, x0, eps, t, previous, eta)


def recomputed(function: Callable, *arguments):
    """`function(*arguments)`, of which the backward pass computes the inside again instead of keeping it."""
    return checkpoint(function, *arguments, use_reentrant=False)


def log_normal(x: torch.Tensor, mean: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
    """[B]: log N(x; mean, sigma^2), the mean over the elements of a sample as in the reference."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    elements = -((x - mean) ** 2) / (2 * sigma**2) - sigma.log() - 0.5 * math.log(2 * math.pi)
    return elements.flatten(1).mean(dim=1)
