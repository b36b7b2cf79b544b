"""A guard against a fault of older PyTorch versions, which can go when their last one is dropped."""
import torch
from torch import nn

# Seen with 2.10 and 2.11; 2.15 is sound. The versions between have not been tried.
SOUND_SINCE = (2, 15)


def guard_group_norms(model: nn.Module) -> None:
    """Keep trained group norms from ending the process when what comes before them is frozen.

    The CPU kernel of the channels-last backward pass writes to the input's gradient also where none is wanted, through
    a null pointer. Asking for that gradient, and leaving it, costs little and avoids the fault. PyTorch versions
    without it, and models on other devices, are left as they are.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version >= SOUND_SINCE:
        return
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_want_input_gradient)


def _want_input_gradient(norm: nn.GroupNorm, inputs: tuple) -> tuple | None:
    (x,) = inputs
    trained = norm.weight is not None and norm.weight.requires_grad
    if x.device.type != "cpu" or x.requires_grad or not trained or not torch.is_grad_enabled():
        return None
    return (x.detach().requires_grad_(),)
