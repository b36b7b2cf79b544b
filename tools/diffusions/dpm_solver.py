"""DPM-Solver++(2M) SDE (Lu et al. 2022, algorithm 2, in its stochastic form) in k-sigmas, and its Brownian noise."""
import importlib.util
import logging
import math
import warnings
from collections.abc import Callable
from itertools import pairwise

import torch

from tools import noise as random
from tools.diffusions.options import check_choice
from tools.diffusions.samplers import Progress, randn_like

log = logging.getLogger(__name__)

SOLVER_TYPES = ("midpoint", "heun")


def dpmpp_2m_sde(denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], noise: torch.Tensor,
                 k_sigmas: torch.Tensor, *, brownian: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
                 eta: float = 1.0, s_noise: float = 1.0, solver_type: str = "midpoint",
                 progress: Progress | None = None) -> torch.Tensor:
    """Solve the reverse SDE with a second-order multi-step method.

    Args:
        denoise: `(x, k_sigma) -> x_0`, x = x_0 + k_sigma n; at infinite k_sigma x is the variance-preserving noise.
        noise: the start divided by the first k_sigma.
        k_sigmas: [N + 1] on the CPU, descending, ending with 0; the first may be infinite (zero terminal SNR).
        brownian: `(k_sigma, next k_sigma) -> unit-variance noise` of that interval, shaped as `noise`.
        eta: 0 solves the probability-flow ODE and draws nothing.
        s_noise: factor of the drawn noise.
        solver_type: `midpoint` or `heun`, how the second-order term is weighted.

    Raises:
        UserError: unknown solver type.
    """
    check_choice("solver_type", solver_type, SOLVER_TYPES)
    x = noise if k_sigmas[0].isinf() else noise * k_sigmas[0]
    old, h_last = None, None
    for i, (k, k_next) in enumerate(pairwise(k_sigmas)):
        x0 = denoise(x, k)
        if k.isinf():
            x = x0 + k_next * noise
        elif k_next == 0:
            x = x0
        else:
            h = math.log(k) - math.log(k_next)
            gain = -math.expm1(-h - eta * h)
            x = k_next / k * math.exp(-eta * h) * x + gain * x0
            if old is not None:
                x = x + _second_order(gain, h + eta * h, solver_type) * (x0 - old) * (h / h_last)
            if eta > 0:
                x = x + brownian(k, k_next) * (k_next * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)
            old, h_last = x0, h
        if progress is not None:
            progress(i + 1, len(k_sigmas) - 1)
    return x


def _second_order(gain: float, exponent: float, solver_type: str) -> float:
    """Weight of the extrapolated change of x_0; gain = 1 - e^(-exponent)."""
    return 0.5 * gain if solver_type == "midpoint" else 1 - gain / exponent


def brownian_noise(x: torch.Tensor, k_sigmas: torch.Tensor, generator: torch.Generator | None = None):
    """The noise source of a run: torchsde's Brownian tree as in the reference, or independent draws without torchsde.

    Both are exact; they are different streams, so that only the first gives the reference's samples.
    """
    finite = k_sigmas[k_sigmas.isfinite() & (k_sigmas > 0)]
    if len(finite) < 2:  # no interval between two noisy levels: nothing will be drawn
        return BrownianIncrements(x, generator)
    if importlib.util.find_spec("torchsde") is None:
        log.warning("torchsde is not installed: the solver's noise differs from the reference's for the same seed "
                    "(pip install torchsde)")
        return BrownianIncrements(x, generator)
    return BrownianTree(x, finite.min(), finite.max(), generator)


class BrownianIncrements:
    """Increments of a Brownian motion over intervals that do not overlap: independent normal draws."""

    def __init__(self, x: torch.Tensor, generator: torch.Generator | None = None):
        self.x, self.generator = x, generator

    def __call__(self, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Unit-variance noise shaped as x."""
        return randn_like(self.x, self.generator)


class BrownianTree:
    """Increments of one Brownian path that a seed fixes over [low, high], whatever the intervals asked for.

    Args:
        x: shape, dtype and device of the noise.
        low, high: scalar tensors.
        generator: CPU generator from which the path's seed is drawn.
    """

    def __init__(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor,
                 generator: torch.Generator | None = None):
        import torchsde  # optional, and slow to import

        device = "cpu" if generator is None else generator.device
        entropy = random.device_randint(0, 2**63 - 1, [], device=device, generator=generator).item()
        self.tree = torchsde.BrownianTree(low, torch.zeros_like(x), high, entropy=entropy)

    def __call__(self, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """(W(end) - W(start)) / sqrt(|end - start|), shaped as x."""
        low, high = (start, end) if start < end else (end, start)
        with warnings.catch_warnings():
            # torchsde rounds the ends of its path and complains of a query at the unrounded ones, which it clips.
            warnings.filterwarnings("ignore", message="Should have t[ab]")
            increment = self.tree(low, high) * (1 if start < end else -1)
        return increment / torch.sqrt(high - low).item()
