"""Annotators: topic vgen-unets-methods, kinds `canny`, `palette`, `masks` and `motion_vectors`."""
from collections.abc import Iterator

import numpy as np
import torch

from tests.goldens.reader import tensor
from tools.annotators import masks
from tools.annotators.canny import LOOSENESS, find_edges, thresholds
from tools.annotators.motion_vectors import vector_map
from tools.annotators.palette import Palette

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


HANDLERS = {
    ("vgen-unets-methods", "canny"): replay_canny,
    ("vgen-unets-methods", "palette"): replay_palette,
    ("vgen-unets-methods", "masks"): replay_masks,
    ("vgen-unets-methods", "motion_vectors"): replay_motion_vectors,
}
