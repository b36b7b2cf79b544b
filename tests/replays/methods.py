"""Networks of single methods: topic vgen-unets-methods, kinds `unet` and `drop_path`."""
from collections.abc import Iterator

import torch
from torch import nn

from tests.goldens.reader import fill_module, tensor
from tests.replays.modules import component
from tests.replays.stages import record_stages
from tools.models.composer import ConditionDropout

# Options with which a network does what the original did, where ours refuses by default.
AS_ORIGINAL = {"UNetSD_DreamVideo": {"unplaced_adapter": "skip"}}


def replay_unet(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Build the network, fill it by the rule, run every call; compare keys, outputs and stages."""
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    config = case["config"] | AS_ORIGINAL.get(case["component"], {})
    if "zero_y" in case:
        config["zero_y"] = inputs[case["zero_y"]]
    network = component("MODEL", case["component"], config)
    if "state_dict" in case:
        yield "state_dict", [[key, list(value.shape)] for key, value in network.state_dict().items()], \
            [[key, shape] for key, shape in case["state_dict"].items()]
    fill_module(network).to(getattr(torch, case["dtype"]))
    for call in case["calls"]:
        outputs = run_call(network, call, inputs)
        yield from ((f"{call['name']}/{part}", out, expected.get(f"{call['name']}/{part}"))
                    for part, out in outputs.items())


def run_call(network: nn.Module, call: dict, inputs: dict) -> dict:
    """Output and stages of one call; of a stage the first entry of its leading axis is kept."""
    set_mode(network, call.get("mode"))
    for name, value in call.get("set", {}).items():
        setattr(network, name, value)
    if "seed" in call:
        torch.manual_seed(call["seed"])
    arguments = {name: argument(value, inputs) for name, value in call["args"].items()}
    with torch.no_grad(), record_stages(network, call.get("stages", ())) as seen:
        out = network(**arguments)
    return {"out": out} | {stage: value[:1] for stage, value in seen.items()}


def set_mode(network: nn.Module, mode: str | None) -> None:
    """Evaluation, or training of nothing but the dropout of conditions (`train_drop_only`)."""
    network.eval()
    if mode == "train_drop_only":
        for module in network.modules():
            if module is network or isinstance(module, ConditionDropout):
                module.training = True


def argument(value, inputs: dict):
    """What a call's argument means: an input by name, zeros like one, or the constant itself."""
    if isinstance(value, dict):
        return torch.zeros_like(inputs[value["zeros_like"]])
    return inputs.get(value, value) if isinstance(value, str) else value


def replay_drop_path(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The factor of every sample of each call."""
    for call in case["calls"]:
        dropout = ConditionDropout(call["p"]).train(call.get("training", True))
        masks = [None if call[name] is None else torch.tensor(call[name]) for name in ("zero", "keep")]
        torch.manual_seed(call["seed"])
        yield call["name"], dropout(torch.ones(call["batch"]), *masks), expected.get(call["name"])


HANDLERS = {
    ("vgen-unets-methods", "unet"): replay_unet,
    ("vgen-unets-methods", "drop_path"): replay_drop_path,
}
