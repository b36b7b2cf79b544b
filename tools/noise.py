"""Every random draw of training and sampling goes through here.

Two sources, as in the reference: draws that must not depend on the device (initial latents, the autoencoder's
posterior) come from a CPU generator; draws made where the computation runs (training noise, sampler noise) come from
the device's. Call the functions through this module (`noise.device_randn(...)`), so that tests can replace them.
"""
from collections.abc import Sequence

import torch


def cpu_randn(shape, *, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> torch.Tensor:
    """Standard normal float32 tensor from the CPU generator, or one sample of the batch from each of several."""
    if isinstance(generator, Sequence):
        return torch.cat([cpu_randn((1, *shape[1:]), generator=g) for g in generator])
    return torch.randn(tuple(shape), generator=generator)


def device_randn(shape, *, device, dtype=torch.float32,
                 generator: torch.Generator | Sequence[torch.Generator] | None = None) -> torch.Tensor:
    """Standard normal tensor from `generator` (a CPU generator may serve any device) or the device's own stream.

    Several generators draw one sample of the batch each, so that a sample does not depend on what is drawn beside it.
    """
    if isinstance(generator, Sequence):
        rows = [device_randn((1, *shape[1:]), device=device, dtype=dtype, generator=g) for g in generator]
        return torch.cat(rows)
    if generator is not None and generator.device.type != torch.device(device).type:
        return torch.randn(tuple(shape), generator=generator, dtype=dtype).to(device)
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=dtype)


def device_randint(low: int, high: int, shape, *, device, generator: torch.Generator | None = None) -> torch.Tensor:
    """int64 tensor uniform over low..high-1."""
    if generator is not None and generator.device.type != torch.device(device).type:
        return torch.randint(low, high, tuple(shape), generator=generator).to(device)
    return torch.randint(low, high, tuple(shape), generator=generator, device=device)
