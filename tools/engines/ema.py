"""Exponential moving averages of a model's weights."""
from typing import Literal

import torch


@torch.no_grad()
def move_towards(target: torch.nn.Module, source: torch.nn.Module, decay: float) -> None:
    """Let a network of the same parameters follow: target <- decay * target + (1 - decay) * source."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1 - decay)


class EMA:
    """Moving average of every entry of a state dict, buffers included.

    Args:
        model: whose weights are averaged; the average starts at them.
        decay: weight of the past, `average <- decay * average + (1 - decay) * weights`.
        warmup: let the decay grow as (1 + n) / (10 + n) up to `decay`, for runs shorter than 1 / (1 - decay) updates.
            `diffusers`: as that library does, one update later, and the first update copies the weights.
    """

    def __init__(self, model: torch.nn.Module, decay: float, warmup: bool | Literal["diffusers"] = False):
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._live = list(model.state_dict().items())
        self.average = {key: value.detach().clone() for key, value in self._live}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present weights; integer entries are copied."""
        self.updates += 1
        decay = self.decay_at(self.updates)
        floats = [(self.average[key], value) for key, value in self._live if value.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], 1 - decay)
        for key, value in self._live:
            if not value.is_floating_point():
                self.average[key].copy_(value)

    def decay_at(self, update: int) -> float:
        """Weight of the past in update number `update`, from 1."""
        if not self.warmup:
            return self.decay
        n = update - 1 if self.warmup == "diffusers" else update
        return min(self.decay, (1 + n) / (10 + n)) if n else 0.0

    def state_dict(self) -> dict:
        """Average and number of updates."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.updates = state["updates"]
        for key, value in state["average"].items():
            self.average[key].copy_(value)
