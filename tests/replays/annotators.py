"""Annotators: topic vgen-unets-methods, kinds `canny`, `palette`, `masks`, `motion_vectors`, `midas`, `pidinet`
and `sketch`."""
from collections.abc import Iterator

import numpy as np
import torch

from tests.goldens.reader import fill_module, tensor, uniform, weight_rule
from tests.replays.stages import record_stages
from tools.annotators import masks
from tools.annotators.canny import LOOSENESS, find_edges, thresholds
from tools.annotators.motion_vectors import vector_map
from tools.annotators.networks.midas import MiDaS, published_names
from tools.annotators.networks.pidinet import PiDiNet, convert_state
from tools.annotators.networks.simplification import SketchSimplification
from tools.annotators.palette import Palette
from tools.annotators.sketch import MEAN, STD

CORNER = 4  # pixels of a quantised picture that a case holds, each way
COLOR, FIRST_HEX = 3, 8  # the row of the distances and the number of hexadecimal names that a case holds


def scene(spec: dict) -> np.ndarray:
    """The cases' picture, float32 [H, W, 3] in [0, 1]: waves, and a disc whose channels are 0.1, 0.3 and 0.5."""
    y, x, channel = np.ogrid[:spec["height"], :spec["width"], :3]
    period, (center_x, center_y, radius) = spec["period"], spec["disc"]
    waves = 0.5 + 0.35 * np.sin((x * (channel + 1) + 2 * y) / period) * np.cos(y / period)
    inside = (x - center_x) ** 2 + (y - center_y) ** 2 < radius ** 2
    return np.where(inside, 0.1 + 0.2 * channel, waves).astype(np.float32)


def replay_canny(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Edges and median of each call's picture."""
    for call in case["calls"]:
        picture = np.rint(scene(case["inputs"][call["image"]]) * 255).clip(0, 255).astype(np.uint8)
        median, given = np.median(picture), call.get("args", {})
        pair = given.get("low_threshold"), given.get("high_threshold")
        if pair == (None, None):
            pair = thresholds(median, looseness(call) if given.get("random_threshold", True) else None)
        name = call["name"]
        yield f"{name}/edges", find_edges(picture, *pair)[..., None], expected.get(f"{name}/edges")
        yield f"{name}/median", median, expected.get(f"{name}/median")


def looseness(call: dict) -> float:
    """The original's draw from NumPy's global generator."""
    return np.random.RandomState(call["seed"]).uniform(*LOOSENESS)


def replay_palette(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The palette itself, then what each call counts and draws."""
    palette = Palette(**case["config"], sigma=case["hist_sigma"])
    figures = {"rgb": palette.rgb, "lab": palette.lab, "thumbnail_shape": np.array(palette.table.shape),
               f"lab_dists_row{COLOR}": palette.distances[COLOR],
               f"torch_filter_row{COLOR}": palette.smoothing[COLOR],
               "hex_first": np.frombuffer("".join(palette.hex[:FIRST_HEX]).encode(), np.uint8)}
    for call in case["calls"]:
        picture, name = scene(case["inputs"][call["image"]]), call["name"]
        shares = Palette(**case["config"], sigma=call["sigma"]).histogram(picture)
        figures[f"{name}/histogram"] = shares
        if call.get("draw"):
            figures[f"{name}/palette_image_row"] = palette.bars(shares)
            figures[f"{name}/quantized_corner"] = palette.quantize(picture)[:CORNER, :CORNER]
    yield from ((name, out, expected.get(name)) for name, out in figures.items())


DRAWN = {"make_irregular_mask": masks.irregular_mask, "make_rectangle_mask": masks.rectangle_mask,
         "make_uncrop": masks.uncrop_mask}


def replay_masks(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Each drawn mask as bits in row-major order, its mean, and a video without what a mask covers."""
    for call in case["calls"]:
        options, name = dict(call["args"]), call["name"]
        mask = DRAWN[call["function"]](options.pop("w"), options.pop("h"), masks.Draws(call["seed"]), **options)
        yield f"{name}/mask_bits", np.packbits(mask > 0), expected.get(f"{name}/mask_bits")
        yield f"{name}/mean", mask.mean(), expected.get(f"{name}/mean")
    if "masked" in case:
        video, mask = (tensor(case["inputs"][case["masked"][part]]) for part in ("video", "mask"))
        yield "masked_images", masks.mask_out(video, (mask > 0).float()), expected.get("masked_images")


def replay_motion_vectors(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The map of each call's vectors."""
    for call in case["calls"]:
        out = vector_map(np.array(call["rows"], np.float64), call["height"], call["width"])
        yield call["name"], torch.from_numpy(out), expected.get(call["name"])


def replay_midas(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Keys, then output, condition and stages of each call."""
    network = MiDaS(**case["config"]).eval()
    state = rule_state(network.published_state(), case)
    yield from compared_keys(state, case)
    network.network.load_state_dict(network.from_published(state))
    own = {published: f"network.{name}" for published, name in published_names(network.num_layers).items()}
    for call in case["calls"]:
        stages = {stage: midas_module(stage, own) for stage in call.get("stages", ())}
        with torch.no_grad(), record_stages(network, stages.values()) as seen:
            raw = network(tensor(case["inputs"][call["image"]]) * 2 - 1)
        condition = (raw / case["depth_std"]).clamp(0, case["depth_clamp"])
        outputs = {"raw": raw, "depth_condition": condition} | {stage: seen[name][:1] for stage, name in stages.items()}
        yield from named(call["name"], outputs, expected)


def midas_module(stage: str, own: dict[str, str]) -> str:
    """Our module that stands where the original's does: what holds, or ends in, that module's layers."""
    parts = {published: name for published, name in own.items() if published.startswith(f"{stage}.")}
    if stage.startswith("conv"):
        return list(parts.values())[-1]
    name = next(iter(parts.values()))
    return name.rsplit(".", 2 if stage.startswith("fusion") else 1)[0]


def replay_pidinet(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Edges with the original kernels and with converted ones, and those kernels."""
    options, kinds = dict(case["config"]), case["config"].get("config", "carv4")
    options.pop("convert", None)
    original, plain = (fill_module(PiDiNet(**options, convert=convert)).eval() for convert in (False, True))
    yield from compared_keys(original.state_dict(), case)
    converted = convert_state(original.state_dict(), kinds)
    plain.load_state_dict(converted)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for call in case["calls"]:
        pictures = (tensor(case["inputs"][call["image"]]) - mean) / std
        with torch.no_grad():
            yield from named(call["name"], {"pixel_difference": original(pictures), "converted": plain(pictures)},
                             expected)
    yield from named("converted", {key: converted[key] for key in case.get("converted_weights", ())}, expected)


def replay_sketch(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Keys, then each drawing cleaned, and its negative cleaned and turned back."""
    network = SketchSimplification(**case["config"]).eval()
    state = rule_state(network.state_dict(), case)
    yield from compared_keys(state, case)
    network.load_state_dict(state)
    for call in case["calls"]:
        drawing = tensor(case["inputs"][call["image"]])
        with torch.no_grad():
            yield from named(call["name"], {"out": network(drawing), "inverted": 1 - network(1 - drawing)}, expected)


def rule_state(state: dict[str, torch.Tensor], case: dict) -> dict[str, torch.Tensor]:
    """Weights by the rule for these keys, those of two or more dimensions times the case's gain."""
    gain = case.get("weight_gain", 1.0)
    filled = {key: torch.from_numpy(uniform(key, value.shape, *weight_rule(key, value.shape)))
              for key, value in state.items()}
    return {key: value * gain if value.ndim > 1 else value for key, value in filled.items()}


def compared_keys(state: dict[str, torch.Tensor], case: dict) -> Iterator[tuple]:
    """Names and shapes in their order, where the case lists them."""
    if "state_dict" in case:
        yield "state_dict", [[key, list(value.shape)] for key, value in state.items()], \
            [[key, shape] for key, shape in case["state_dict"].items()]


def named(call: str, outputs: dict, expected: dict) -> Iterator[tuple]:
    """Outputs of one call beside what is expected."""
    yield from ((f"{call}/{part}", out, expected.get(f"{call}/{part}")) for part, out in outputs.items())


HANDLERS = {
    ("vgen-unets-methods", "midas"): replay_midas,
    ("vgen-unets-methods", "pidinet"): replay_pidinet,
    ("vgen-unets-methods", "sketch"): replay_sketch,
    ("vgen-unets-methods", "canny"): replay_canny,
    ("vgen-unets-methods", "palette"): replay_palette,
    ("vgen-unets-methods", "masks"): replay_masks,
    ("vgen-unets-methods", "motion_vectors"): replay_motion_vectors,
}
