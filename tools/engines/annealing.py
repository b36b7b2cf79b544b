"""Learning-rate schedule: linear warm-up, then linear, cosine or no decay."""
import math
from collections.abc import Sequence

import torch

from tools.errors import UserError, nearest

DECAYS = {
    "linear": lambda r: 1 - r,
    "cosine": lambda r: (math.cos(math.pi * r) + 1) / 2,
    "none": lambda r: 1.0,
}


class AnnealingLR:
    """Sets the learning rate of one or several optimisers.

    Args:
        optimizer: one optimiser, or a sequence of them.
        base_lr: rate after the warm-up.
        warmup_steps: updates over which the rate grows linearly from 0.
        total_steps: where the decay reaches its end.
        decay_mode: `linear`, `cosine` or `none`.
        min_lr: the rate never falls below.
        last_step: number of the last update made; -1 at the start, so that update 0 runs at rate(0).
    """

    def __init__(self, optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], base_lr: float,
                 warmup_steps: int, total_steps: int, decay_mode: str = "cosine", min_lr: float = 0.0,
                 last_step: int = -1):
        if decay_mode not in DECAYS:
            raise UserError(f"decay_mode '{decay_mode}' is unknown{nearest(decay_mode, DECAYS)}; "
                            f"there are {', '.join(DECAYS)}")
        self.optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        self.base_lr, self.warmup_steps, self.total_steps = base_lr, warmup_steps, total_steps
        self.decay_mode, self.min_lr = decay_mode, min_lr
        self.current_step = last_step
        self.step()

    def rate(self) -> float:
        """Learning rate of the update to come."""
        k = self.current_step
        if self.warmup_steps > 0 and k <= self.warmup_steps:
            return max(self.base_lr * k / self.warmup_steps, self.min_lr)
        progress = min(max((k - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1), 0.0), 1.0)
        return max(self.base_lr * DECAYS[self.decay_mode](progress), self.min_lr)

    def step(self) -> None:
        """Go on by one update."""
        self.current_step += 1
        self._apply()

    def _apply(self) -> None:
        rate = self.rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def state_dict(self) -> dict:
        """What a resumed run needs; the other settings come from its configuration."""
        return {"current_step": self.current_step}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.current_step = state["current_step"]
        self._apply()
