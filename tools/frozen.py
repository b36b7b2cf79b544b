"""Weights into networks that only look on: built without drawing any first, frozen."""
import torch
from torch import Tensor, nn

from tools.checkpoint import describe_mismatch
from tools.errors import UserError


def on_meta(build, **options) -> nn.Module:
    """`build(**options)` without memory for its parameters, which nothing then draws."""
    with torch.device("meta"):
        return build(**options)


def check_fit(own: dict[str, Tensor], state: dict[str, Tensor], what: str) -> None:
    """Compare names and shapes of weights with what a network has.

    Raises:
        UserError: they differ; names the first missing, unexpected and mis-shaped keys after `what`, file and network.
    """
    problems = describe_mismatch(own, state)
    if problems:
        raise UserError(f"{what}: weights of another network: {problems}")


def load_frozen(network: nn.Module, state: dict[str, Tensor], what: str) -> nn.Module:
    """Give a network that was built `on_meta` its weights in float32, set to evaluation and without gradients.

    Raises:
        UserError: see `check_fit`.
    """
    check_fit(network.state_dict(), state, what)
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)
