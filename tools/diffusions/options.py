"""Checks of what a YAML section may say to a diffusion process."""
import inspect
from collections.abc import Callable, Collection

import torch

from tools.errors import UserError, nearest


def check_choice(key: str, value: str | None, known: Collection) -> None:
    """UserError with the nearest valid value when `value` is not among `known`."""
    if value not in known:
        raise UserError(f"Diffusion: unknown {key} '{value}'{nearest(value, known)}; "
                        f"known: {', '.join(map(str, known))}")


def check_keys(section: str, given: Collection[str], known: Collection[str]) -> None:
    """UserError with the nearest valid key when one of `given` is not among `known`."""
    for key in given:
        if key not in known:
            raise UserError(f"Diffusion: {section} has an unknown key '{key}'{nearest(key, known)}; "
                            f"it takes: {', '.join(known)}")


def schedule_table(function: Callable[..., torch.Tensor], schedule: str, parameters: dict | None) -> torch.Tensor:
    """Call a schedule function with a section's `schedule` and `schedule_param`.

    Raises:
        UserError: a key that the function does not take, or what the function refuses.
    """
    known = [key for key in inspect.signature(function).parameters if key != "schedule"]
    check_keys("schedule_param", parameters or {}, known)
    return function(schedule, **(parameters or {}))
