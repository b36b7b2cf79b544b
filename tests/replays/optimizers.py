"""Optimisers: topic vgen-engine, kind `adafactor`."""
from collections.abc import Iterator

import torch

from tests.goldens.reader import uniform
from tools.engines.adafactor import Adafactor


def replay_adafactor(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Parameters after every entry's number of updates with gradients by rule."""
    for entry in case["entries"]:
        parameters = [torch.nn.Parameter(torch.from_numpy(uniform(f"ada/p{i}", shape)))
                      for i, shape in enumerate(case["shapes"])]
        kwargs = dict(entry["kwargs"])
        kwargs.setdefault("relative_step", "lr" not in kwargs)
        optimizer = Adafactor(parameters, **kwargs)
        for step in range(entry["steps"]):
            for i, parameter in enumerate(parameters):
                parameter.grad = torch.from_numpy(uniform(f"ada/g{i}/{step}", parameter.shape))
            optimizer.step()
        for i, parameter in enumerate(parameters):
            yield f"{entry['name']}.{i}", parameter.detach(), expected[f"{entry['name']}.{i}"]


HANDLERS = {("vgen-engine", "adafactor"): replay_adafactor}
