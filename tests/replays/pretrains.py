"""How a checkpoint is put into a model: topic vgen-engine, kind `pretrain`."""
import inspect
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.goldens.reader import fill_module, uniform
from tests.replays import LeftOut, not_built
from tools.registry import PRETRAIN, load_components


class ToyModule(nn.Module):
    """Four layers whose names say what they are: spatial, temporal, an adapter, something else."""

    def __init__(self):
        super().__init__()
        self.spatial = nn.Linear(3, 2)
        self.temporal = nn.Linear(3, 2)
        self.temporal_adapter = nn.Linear(3, 2)
        self.other = nn.Linear(2, 2)


def replay_pretrain(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Parameters, what is trained, and scaled gradients after each entry's strategy."""
    load_components()
    for entry in case["entries"]:
        prefix = f"{entry['name']}."
        wanted = {key: value for key, value in expected.items() if key.startswith(prefix)}
        try:
            figures = {prefix + key: value for key, value in apply_strategy(entry).items()}
        except LeftOut as reason:
            figures = dict.fromkeys(wanted, reason)
        for key in figures | wanted:
            yield key, figures.get(key, np.nan), wanted.get(key, np.nan)


def apply_strategy(entry: dict) -> dict:
    """Figures of one entry by name; a gradient is absent where there is none."""
    if entry["function"] not in PRETRAIN.names():
        raise not_built(entry["function"])
    strategy = PRETRAIN.get(entry["function"])
    model = fill_module(ToyModule())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in entry.get("frozen_before", ()))
    with tempfile.TemporaryDirectory() as folder:
        arguments = write_files(entry, Path(folder))
        if missing := sorted(set(arguments) - set(inspect.signature(strategy).parameters)):
            raise LeftOut(f"{entry['function']} takes no {missing[0]} here")
        model, step = strategy(model, **arguments)
    return {"step": np.asarray(step)} | parameter_figures(model)


def write_files(entry: dict, folder: Path) -> dict:
    """Write the checkpoint and the list of spatial keys; the strategy's arguments with their paths."""
    weights = {key: torch.from_numpy(uniform(f"ckpt/{key}", shape)) for key, shape in entry["checkpoint"].items()}
    checkpoint = folder / entry["file"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    wrapped = {"state_dict": weights, "step": entry.get("step", 0)}
    torch.save(wrapped if entry.get("wrapped", True) else weights, checkpoint)
    keys = folder / "keys.json"
    keys.write_text(json.dumps(entry["sd_keys"]))
    arguments = dict(entry["kwargs"], resume_checkpoint=str(checkpoint))
    for name in {"sd_keys_path", "pretrained_image_keys"} & arguments.keys():
        arguments[name] = str(keys)
    return arguments


def parameter_figures(model: nn.Module) -> dict:
    """Value, trained or not, and gradient of sum(p * w) for every parameter p with the rule's w."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if trained:
        sum((p * torch.from_numpy(uniform(f"w/{name}", p.shape))).sum() for name, p in trained).backward()
    figures = {}
    for name, p in model.named_parameters():
        figures |= {f"param.{name}": p.detach(), f"requires_grad.{name}": np.asarray(p.requires_grad)}
        figures |= {} if p.grad is None else {f"grad.{name}": p.grad}
    return figures


HANDLERS = {("vgen-engine", "pretrain"): replay_pretrain}
