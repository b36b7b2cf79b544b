"""FrameInit: initial noise that holds the low frequencies of a still clip (ConsistI2V, arXiv:2402.04324, section 3.3).

The still clip repeats the first frame (or lets a crop of it move, for camera motion), is noised to a step tau, and
gives its low frequencies over time, height and width; noise gives the high ones (after FreeInit, arXiv:2312.07537).
It serves every method whose clip starts from a picture: `noise_init: {type: FrameInit, ...}` in the YAML.
"""
from collections.abc import Callable, Sequence

import torch

from tools.errors import UserError, nearest
from tools.registry import NOISE_INIT

SPACE_TIME = (-3, -2, -1)
FILTER_KEYS = ("method", "d_s", "d_t", "n")


@NOISE_INIT.register()
class FrameInit:
    """Initial noise from noise and clean reference latents.

    Args:
        noise_level: step tau to which the reference is noised, of the process's training steps.
        filter_params: `method` (`gaussian`, `butterworth`, `ideal`, `box`), cut-off frequencies `d_s` (height, width)
            and `d_t` (time) as shares of the highest frequency, 0 for no low frequencies at all; `n`, the order, for
            `butterworth` alone.
        independent_noise: take the high frequencies from the given noise and noise the reference with a draw of its
            own, as FreeInit does. The published model uses one and the same noise for both.

    Raises:
        UserError: an unknown filter or key, a filter without its parameters.
    """

    def __init__(self, noise_level: int = 850, filter_params: dict | None = None, independent_noise: bool = False):
        self.noise_level, self.independent_noise = noise_level, independent_noise
        self.filter = _checked({"method": "gaussian", "d_s": 0.25, "d_t": 0.25} | (filter_params or {}))

    def check(self, num_timesteps: int) -> None:
        """UserError where the process has no step `noise_level`."""
        if not 0 <= self.noise_level < num_timesteps:
            raise UserError(f"FrameInit: noise_level {self.noise_level} is no step of the process; "
                            f"there are 0 to {num_timesteps - 1}")

    def __call__(self, noise: torch.Tensor, reference: torch.Tensor, process,
                 draw: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:
        """Noise to start denoising from.

        Args:
            noise: [B, c, F, h, w].
            reference: clean latents of the still (or moving) clip, shaped as `noise`.
            process: a `DiffusionDDIM`.
            draw: gives further noise shaped as `noise`; called for `independent_noise` alone.
        """
        self.check(process.num_timesteps)
        other = draw() if self.independent_noise else noise
        t = torch.full((len(noise),), self.noise_level, device=noise.device)
        noised = process.q_sample(reference, t, other)
        mask = low_pass(noise.shape[2:], **self.filter).to(noise.device)
        return mix_frequencies(noised, noise, mask).to(noise.dtype)


def mix_frequencies(low: torch.Tensor, high: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Low frequencies of one clip with the high ones of another: high + lowpass(low - high), by linearity.

    Args:
        low, high: [..., F, h, w].
        mask: share [F, h, w] of each frequency that comes from `low`, zero frequency at index N // 2 of every axis.

    Returns:
        float32, shaped as `high`.
    """
    spectrum = torch.fft.fftn(low.float() - high.float(), dim=SPACE_TIME)
    return high.float() + torch.fft.ifftn(spectrum * torch.fft.ifftshift(mask), dim=SPACE_TIME).real


def low_pass(shape: Sequence[int], method: str, d_s: float, d_t: float, n: int | None = None) -> torch.Tensor:
    """Mask [F, h, w] of a low-pass filter, zero frequency at index N // 2 of every axis.

    Index i of an axis of length N stands for the frequency u = 2 i / N - 1. For odd N the filter's centre lies half a
    bin beside the zero frequency, as for the published model.

    Args:
        shape: F, h, w.
        method, d_s, d_t, n: see `FrameInit`.
    """
    if d_s == 0 or d_t == 0:
        return torch.zeros(*shape)
    if method == "box":
        return _box(shape, d_s, d_t)
    time, height, width = (2 * torch.arange(size, dtype=torch.float64) / size - 1 for size in shape)
    squared = ((d_s / d_t * time[:, None, None]) ** 2 + height[:, None] ** 2 + width ** 2)
    return FILTERS[method](squared, d_s, n).float()


def _gaussian(squared: torch.Tensor, d_s: float, n: int | None) -> torch.Tensor:
    return torch.exp(-squared / (2 * d_s ** 2))


def _butterworth(squared: torch.Tensor, d_s: float, n: int) -> torch.Tensor:
    return 1 / (1 + (squared / d_s ** 2) ** n)


def _ideal(squared: torch.Tensor, d_s: float, n: int | None) -> torch.Tensor:
    """The threshold is 2 d_s, not d_s^2: users of the published code have tuned d_s to it."""
    return (squared <= 2 * d_s).double()


def _box(shape: Sequence[int], d_s: float, d_t: float) -> torch.Tensor:
    """The width's threshold is the height's, as in the published code."""
    mask = torch.zeros(*shape)
    spread = round(shape[1] // 2 * d_s)
    spreads = (round(shape[0] // 2 * d_t), spread, spread)
    mask[tuple(slice(max(size // 2 - reach, 0), size // 2 + reach)
               for size, reach in zip(shape, spreads, strict=True))] = 1
    return mask


FILTERS = {"gaussian": _gaussian, "butterworth": _butterworth, "ideal": _ideal, "box": _box}


def _checked(params: dict) -> dict:
    for key in params:
        if key not in FILTER_KEYS:
            raise UserError(f"FrameInit: filter_params has an unknown key '{key}'{nearest(key, FILTER_KEYS)}; "
                            f"it takes {', '.join(FILTER_KEYS)}")
    if params["method"] not in FILTERS:
        raise UserError(f"FrameInit: filter '{params['method']}' is unknown{nearest(params['method'], FILTERS)}; "
                        f"there are {', '.join(FILTERS)}")
    if params["method"] == "butterworth" and params.get("n") is None:
        raise UserError("FrameInit: the butterworth filter needs its order n in filter_params (4 is usual)")
    if params["d_s"] < 0 or params["d_t"] < 0:
        raise UserError(f"FrameInit: d_s {params['d_s']} and d_t {params['d_t']} must not be negative")
    return params
