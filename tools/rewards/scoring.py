"""What a reward is, and the checks between a reward and the training that trusts it.

A reward is any callable module registered as REWARD:

    @REWARD.register()
    class Brightness(torch.nn.Module):
        def forward(self, frames, captions):
            return frames.mean(dim=(2, 3, 4))

`frames` are float32 [B, S, 3, H, W] in 0..1: S frames of each of B videos in the order of time; `captions` are B texts.
The result is [B, S], a score of every frame, higher is better; a reward of whole clips repeats its score. It must be
differentiable in the frames where training goes through it (`reward_objective: reward`). An attribute `maximum` states
the best possible score where there is one.

A file with such a class is named by `imports: [my_reward.py]` and chosen by `reward: {type: Brightness}`. A type is
looked up by its name; nothing in a configuration is ever evaluated.
"""
import torch
from torch import Tensor, nn

from tools.errors import UserError


def score_frames(reward: nn.Module, frames: Tensor, captions: list[str]) -> Tensor:
    """Scores [B, S] of frames [B, S, 3, H, W] in 0..1.

    Raises:
        UserError: the reward gave something else than [B, S] numbers, or NaN.
    """
    scores = reward(frames, captions)
    name, wanted = type(reward).__name__, tuple(frames.shape[:2])
    if not isinstance(scores, Tensor) or tuple(scores.shape) != wanted:
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise UserError(f"reward {name} returned {found} for {wanted[0]} videos of {wanted[1]} frames; it must return "
                        f"a tensor of shape {wanted}, one score per frame")
    wrong = torch.isnan(scores).any(dim=1)
    if wrong.any():
        caption = captions[int(wrong.nonzero()[0])]
        raise UserError(f"reward {name} returned NaN for the caption '{caption}'; a reward must be a number everywhere "
                        "(look for a division by zero, or a logarithm or root of what may be negative)")
    return scores.float()


def require_gradient(reward: nn.Module, scores: Tensor) -> None:
    """UserError when scores of frames that carry a gradient have lost it."""
    if not scores.requires_grad:
        raise UserError(f"reward {type(reward).__name__} is not differentiable in the frames; use reward_objective rwr "
                        "or ddpo, which only need its scores")
