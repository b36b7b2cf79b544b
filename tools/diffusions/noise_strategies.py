"""How the noise of a clip's frames hangs together: independent, mixed with a shared frame, or passed on (PYoCo).

Ge et al. 2023 (arXiv:2305.10474), section 3.2: frames of a video are alike, and so should be their noise. Every
strategy has unit variance per element; `alpha` sets the correlation a^2 / (1 + a^2) of two frames.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tools.errors import UserError, nearest

Draw = Callable[[Sequence[int]], torch.Tensor]


@dataclass(frozen=True)
class Vanilla:
    """Independent noise in every frame; `alpha` has no effect."""

    alpha: float = 1.0

    def __call__(self, draw: Draw, shape: Sequence[int]) -> torch.Tensor:
        """Noise [B, c, F, h, w]; `draw(shape)` gives independent standard normal numbers."""
        return draw(shape)


@dataclass(frozen=True)
class PyocoMixed(Vanilla):
    """sqrt(a^2 / (1 + a^2)) times one frame that all share, plus sqrt(1 / (1 + a^2)) times each frame's own (eq. 4).

    The shared frame is drawn first.
    """

    def __call__(self, draw: Draw, shape: Sequence[int]) -> torch.Tensor:
        common, own = _weights(self.alpha)
        shared = draw((*shape[:2], 1, *shape[3:]))
        return common * shared + own * draw(shape)


@dataclass(frozen=True)
class PyocoProgressive(Vanilla):
    """Autoregressive along the frames: e_k = sqrt(a^2 / (1 + a^2)) e_{k-1} + sqrt(1 / (1 + a^2)) n_k (eq. 5).

    Two draws of the whole clip: e_0 is the first frame of the first one, n_k the frames of the second.
    """

    def __call__(self, draw: Draw, shape: Sequence[int]) -> torch.Tensor:
        common, own = _weights(self.alpha)
        frames = [draw(shape)[:, :, :1]]
        for fresh in draw(shape).split(1, dim=2)[1:]:
            frames.append(common * frames[-1] + own * fresh)
        return torch.cat(frames, dim=2)


STRATEGIES = {"vanilla": Vanilla, "pyoco_mixed": PyocoMixed, "pyoco_progressive": PyocoProgressive}


def noise_strategy(name: str, alpha: float = 1.0) -> Vanilla:
    """The strategy called `name`.

    Args:
        name: `vanilla`, `pyoco_mixed` or `pyoco_progressive`.
        alpha: weight of what frames share against what is each one's own, not negative.

    Raises:
        UserError: unknown name, negative alpha.
    """
    if name not in STRATEGIES:
        raise UserError(f"noise_sampling_method '{name}' is unknown{nearest(name, STRATEGIES)}; "
                        f"there are {', '.join(STRATEGIES)}")
    if alpha < 0:
        raise UserError(f"noise_alpha must not be negative, as {alpha} is")
    return STRATEGIES[name](alpha)


def _weights(alpha: float) -> tuple[float, float]:
    return math.sqrt(alpha ** 2 / (1 + alpha ** 2)), math.sqrt(1 / (1 + alpha ** 2))
