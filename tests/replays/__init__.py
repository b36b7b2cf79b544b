"""Handlers that replay golden cases, one module per subject.

A module of this folder offers `HANDLERS: {(topic, kind): handler}`. A handler is called as `handler(case, expected,
path)` with the parsed JSON, the arrays of the NPZ and the JSON's path, and yields `(name, out, expected)` for every
array of the NPZ: `name` is the array's name, or `<array>/<part>` for one part of it; `out` is a tensor, an array, any
comparable value, or a `LeftOut` that says why this output is not replayed. It raises `LeftOut` for a whole case.
"""
import importlib
import pkgutil
from collections.abc import Callable

METHODS = {
    "TF-T2V": ["inference_tft2v_entrance"],
    "VideoComposer": ["inference_tft2v_vcomposer_entrance", "inference_videolcm_vcomposer_entrance"],
    "DreamVideo": ["inference_dreamvideo_entrance", "train_dreamvideo_entrance", "pretrain_dreamvideo",
                   "VideoCustomDataset", "ImageCustomDataset", "metrics", "dino"],
    "InstructVideo": ["DiffusionDDIMReward", "inference_instructvideo_entrance", "t2v_instructvideo_entrance",
                      "pretrain_instructvideo", "reward", "hps", "lora", "tracker", "adafactor"],
}
METHOD_OF = {name: method for method, names in METHODS.items() for name in names}


class LeftOut(Exception):
    """The reason why a case (raised) or one of its outputs (yielded in its place) is not replayed."""


def not_built(name: str) -> LeftOut:
    """The reason for a component, function or kind of case that this project does not have (yet)."""
    method = METHOD_OF.get(name)
    return LeftOut(f"belongs to {method}, not built yet" if method else f"no counterpart of '{name}' here")


def handlers() -> dict[tuple[str, str], Callable]:
    """All handlers of this folder by topic and kind."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        offered = getattr(importlib.import_module(f"{__name__}.{module.name}"), "HANDLERS", {})
        for key in offered.keys() & found.keys():
            raise ValueError(f"two handlers for {key}")
        found |= offered
    return found
