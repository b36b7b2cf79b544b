"""`DiffusionDDIMSR`: the two processes of video super-resolution by inversion and re-denoising."""
import torch

from tools.diffusions.gaussian import GaussianDiffusion
from tools.diffusions.guidance import Kwargs
from tools.diffusions.options import check_keys, schedule_table
from tools.diffusions.schedules import sigma_schedule
from tools.errors import UserError
from tools.registry import DIFFUSION

SECTION_KEYS = ("schedule", "mean_type", "schedule_param")


@DIFFUSION.register(ignored=["schedule", "schedule_param", "mean_type", "var_type", "loss_type", "epsilon",
                             "rescale_timesteps", "noise_strength", "ddim_timesteps"])
class DiffusionDDIMSR:
    """A pair of processes: one inverts a low-resolution video to a noise level, the other denoises it again.

    Args:
        reverse_diffusion, forward_diffusion: sections {schedule, mean_type, schedule_param} with the arguments of
            `schedules.sigma_schedule`.

    Attributes:
        reverse_diffusion, forward_diffusion: `GaussianDiffusion`.

    Raises:
        UserError: unknown name or key in a section.
    """

    def __init__(self, reverse_diffusion: dict, forward_diffusion: dict):
        self.reverse_diffusion = _process("reverse_diffusion", reverse_diffusion)
        self.forward_diffusion = _process("forward_diffusion", forward_diffusion)

    @property
    def num_timesteps(self) -> int:
        """Length T of the process that denoises."""
        return self.forward_diffusion.num_timesteps

    def loss(self, x0: torch.Tensor, t: torch.Tensor, model, model_kwargs: Kwargs | None = None,
             noise: torch.Tensor | None = None) -> torch.Tensor:
        """Training loss of each sample, [B], by the process that denoises; see `GaussianDiffusion.loss`."""
        return self.forward_diffusion.loss(x0, t, model, model_kwargs, noise)


def _process(name: str, section: dict) -> GaussianDiffusion:
    check_keys(name, section, SECTION_KEYS)
    if "schedule" not in section:
        raise UserError(f"Diffusion: {name} lacks the key 'schedule'")
    sigmas = schedule_table(sigma_schedule, section["schedule"], section.get("schedule_param"))
    return GaussianDiffusion(sigmas, section.get("mean_type", "v"))
