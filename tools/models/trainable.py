"""Which parameters of a network are trained, by parts of their names."""
from collections.abc import Iterable

from torch import nn

from tools.errors import UserError, nearest


def choose_trainable(model: nn.Module, names: Iterable[str] | None) -> None:
    """Train the parameters whose name contains one of `names` (`all`: all of them) and fix the others.

    Parameters without function, which the network names in `idle_parameters`, are fixed: they never get a gradient, for
    which distributed training would wait.

    Args:
        model: its parameters are changed.
        names: parts of names; None leaves everything as it is.

    Raises:
        UserError: one of them is in no parameter's name.
    """
    if names is None:
        return
    parameters = dict(model.named_parameters())
    for part in names:
        if part != "all" and not any(part in name for name in parameters):
            raise UserError(f"trainable_modules: no parameter's name contains '{part}'{nearest(part, parameters)}; "
                            "'all' trains everything")
    idle = getattr(model, "idle_parameters", frozenset())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in idle and any(part == "all" or part in name for part in names))
