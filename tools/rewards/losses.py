"""From scores to losses: the reward itself, reward-weighted regression, policy gradients."""
import torch
from torch import Tensor


def reward_loss(scores: Tensor, *, weight: float = 1.0, spatial_weight: float = 1.0, limit: float = 5.0,
                alignment: Tensor | None = None) -> Tensor:
    """weight * mean(spatial_weight * (1 - score) * alignment): minimised where the reward is highest.

    Args:
        scores: [B] with gradient.
        limit: stands for an infinite advantage.
        alignment: [B] from `data_alignment`.
    """
    advantage = spatial_weight * (1 - scores)
    if alignment is not None:
        advantage = advantage * alignment
    return weight * advantage.nan_to_num(nan=torch.nan, posinf=limit, neginf=-limit).mean()


def data_alignment(reconstruction: Tensor, coefficient: float) -> Tensor:
    """exp(-coefficient * reconstruction loss) [B]: clips that the network explains badly count less."""
    return torch.exp(-coefficient * reconstruction)


def weighted_regression(scores: Tensor, reconstruction: Tensor) -> Tensor:
    """Reward-weighted regression (Lee et al. 2023, arXiv 2302.12192): the diffusion loss [B] of samples, weighted by
    their scores [B]."""
    return (scores * reconstruction).mean()


def policy_gradient(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Clipped importance-weighted policy gradient (DDPO-IS; Black et al. 2023, arXiv 2305.13301, section 4.3).

    Args:
        log_prob: [B] of a step by the network as it is; `old_log_prob`: when the step was drawn.
        advantages: [B].
        clip: largest change of the ratio that still earns anything.
    """
    ratio = torch.exp(log_prob - old_log_prob)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
