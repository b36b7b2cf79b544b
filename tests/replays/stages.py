"""Intermediate results of a network: recorded by module path, brought into the layout in which a case holds them."""
import contextlib
from collections.abc import Iterable, Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def record_stages(network: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the first output of each module named in `paths`; a path that the network lacks stays absent."""
    modules = dict(network.named_modules())
    seen: dict[str, Tensor] = {}

    def keep(path):
        def hook(module, _inputs, output):
            output = first_tensor(output).detach()
            # A Conv1d over tokens is recorded channels first; here it is a matrix product on [n, tokens, channels].
            seen.setdefault(path, output.transpose(1, 2) if isinstance(module, nn.Conv1d) else output)
        return hook

    handles = [modules[path].register_forward_hook(keep(path)) for path in paths if path in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output) -> Tensor:
    """`output` itself, or the first tensor of a tuple or list."""
    return output if isinstance(output, Tensor) else next(value for value in output if isinstance(value, Tensor))


def as_layout(activation: Tensor, shape: Iterable[int]) -> Tensor:
    """Bring a video activation into the layout that `shape` has; as it is where it fits already or cannot fit.

    Spatial layers are recorded as [(b f), c, h, w] and temporal ones as [b, c, f, h, w]; both hold the same numbers.
    """
    shape = tuple(shape)
    if activation.dim() == 5 and len(shape) == 4:
        frames_first = activation.transpose(1, 2).flatten(0, 1)
        return frames_first if frames_first.shape == shape else activation
    if activation.dim() == 4 and len(shape) == 5 and activation.shape[0] == shape[0] * shape[2]:
        return activation.unflatten(0, (shape[0], shape[2])).transpose(1, 2)
    return activation


@contextlib.contextmanager
def record_inputs(module: nn.Module) -> Iterator[list[tuple[tuple, dict]]]:
    """Collect the (positional, keyword) arguments of every call of `module`."""
    calls: list[tuple[tuple, dict]] = []

    def hook(_module, args, kwargs):
        calls.append((args, kwargs))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
