"""Running statistics of rewards per prompt (DDPO, arXiv 2305.13301, section 4.4)."""
from collections import deque
from collections.abc import Sequence

import numpy as np

EPSILON = 1e-6


class PerPromptStatTracker:
    """Normalises rewards by mean and standard deviation of the prompt's latest ones.

    Args:
        buffer_size: rewards kept per prompt.
        min_count: with fewer of a prompt, the batch's statistics take the place of the prompt's.
    """

    def __init__(self, buffer_size: int = 32, min_count: int = 16):
        self.buffer_size, self.min_count = buffer_size, min_count
        self._rewards: dict[str, deque] = {}

    def update(self, prompts: Sequence[str], rewards: Sequence[float]) -> np.ndarray:
        """Advantages [B] of a batch; its rewards enter the statistics first."""
        rewards = np.asarray(rewards, dtype=np.float64)
        advantages = np.empty_like(rewards)
        for prompt in dict.fromkeys(prompts):
            own = np.array([p == prompt for p in prompts])
            kept = self._rewards.setdefault(prompt, deque(maxlen=self.buffer_size))
            kept.extend(rewards[own].tolist())
            base = rewards if len(kept) < self.min_count else np.array(kept)
            advantages[own] = (rewards[own] - base.mean()) / (base.std() + EPSILON)
        return advantages

    def state_dict(self) -> dict[str, list[float]]:
        """The rewards kept, oldest first."""
        return {prompt: list(kept) for prompt, kept in self._rewards.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Continue from what `state_dict` returned."""
        self._rewards = {prompt: deque(kept, maxlen=self.buffer_size) for prompt, kept in state.items()}
