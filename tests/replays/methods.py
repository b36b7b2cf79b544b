"""Networks of single methods: topic vgen-unets-methods, kinds `unet`, `drop_path` and `frame_picking`."""
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tests.goldens.reader import fill_module, tensor
from tests.replays.modules import component
from tests.replays.stages import record_stages
from tools.datasets.frames import BLANK, reference_clip, reference_custom_clip
from tools.datasets.steered_clips import RandomDraws
from tools.models.composer import ConditionDropout

LOADERS = {"videocomposer_loader": reference_clip, "custom_dataset": reference_custom_clip}
MASK_SIZE = (2, 2)

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


def replay_frame_picking(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Frames that a loader keeps, what its slots hold (black: 0), and its reference frame."""
    for call in case["calls"]:
        random.seed(call["seed"])
        np.random.seed(call["seed"])
        draws, name = RandomDraws(None), call["name"]
        slots = LOADERS[case["reference"]](call["fps"], call["total"], call["sample_fps"], call["max_frames"],
                                           draws.whole)
        kept = [frame for frame in slots if frame != BLANK]
        reference = float(kept[reference_position(call, len(kept), case["reference"])])
        figures = {"frames": np.array(kept), "filled": np.array([max(frame, 0.0) for frame in slots]),
                   "vit_frame": reference, "ref_frame": reference,
                   "mask_shape": np.array([call["max_frames"], 1, *draws.mask(*MASK_SIZE).shape])}
        yield from ((f"{name}/{part}", value, expected[f"{name}/{part}"]) for part, value in figures.items()
                    if f"{name}/{part}" in expected)


def reference_position(call: dict, kept: int, loader: str) -> int:
    """Which of the kept frames is the reference: the first, the middle one, or one that NumPy's stream draws."""
    if loader == "videocomposer_loader" or call.get("get_first_frame"):
        return 0
    return np.random.randint(0, kept) if call.get("get_random_frame") else kept // 2


HANDLERS = {
    ("vgen-unets-methods", "frame_picking"): replay_frame_picking,
    ("vgen-unets-methods", "unet"): replay_unet,
    ("vgen-unets-methods", "drop_path"): replay_drop_path,
}
