"""The data pipeline: picture transforms (kinds `transforms`, `transform`) and frame sampling (kind `frames`)."""
import random
from collections.abc import Iterator

import numpy as np
from PIL import ImageOps

from tests.replays import LeftOut, not_built
from tests.replays.pictures import engine_picture, network_picture
from tools.datasets import transforms
from tools.datasets.frames import BLANK, reference_clip, reference_custom_clip

FRAME_RULES = {"VideoDataset": reference_clip, "VideoCustomDataset": reference_custom_clip}
FAILURES = {1: "the original gives a zero sample without caption here", 2: "the original gives an all-zero video here",
            3: "the original raises here"}


def replay_transforms(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Each entry's chain of operations on pictures by rule; `.box` is the crop box that a chain gives beside them."""
    for entry in case["entries"]:
        images, box = run_chain(entry)
        yield entry["name"], as_array(images), expected.get(entry["name"])
        if box is not None:
            yield f"{entry['name']}.box", np.asarray(box), expected.get(f"{entry['name']}.box")


def run_chain(entry: dict) -> tuple:
    """Images or tensor that the entry's operations give, and the box of the last one that gives one."""
    width, height = entry["size"]
    images = [engine_picture(f"{entry['key']}/{i}", height, width) for i in range(entry.get("frames", 1))]
    value, box = images if entry.get("as_list", True) else images[0], None
    if "seed" in entry:
        random.seed(entry["seed"])
    for operation in entry["ops"]:
        result = build(operation["name"], operation.get("kwargs", {}))(value, *operation.get("call_args", ()))
        value, box = result if isinstance(result, tuple) else (result, box)
    return value, box


def replay_pipelines(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Each pipeline on the case's picture; those called `list...` get the picture and its mirror image."""
    image = network_picture(case["image"]["key"], *case["image"]["shape"][:2])
    for name, operations in case["pipelines"].items():
        value = [image, ImageOps.mirror(image)] if name.startswith("list") else image
        for operation, kwargs in operations:
            value = build(operation, kwargs)(value)
        yield name, as_array(value), expected.get(name)


def replay_frames(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Frame numbers of each entry: those kept, those in the slots, and [status, bound of the draw, reference frame].

    Raises:
        LeftOut: the component has no rule here.
    """
    if case["component"] not in FRAME_RULES:
        raise not_built(case["component"])
    for number, entry in enumerate(case["entries"]):
        out = sampled_frames(FRAME_RULES[case["component"]], entry)
        status = int(expected[f"{number}.info"][0])
        for part, value in out.items():
            name = f"{number}.{part}"
            yield name, LeftOut(FAILURES[status]) if status else value, expected.get(name)


def sampled_frames(rule, entry: dict) -> dict[str, np.ndarray]:
    """What `rule` chooses where the draw gives the entry's `start`."""
    bound = -1

    def draw(high: int) -> int:
        nonlocal bound
        bound = high
        return entry["start"]

    slots = rule(entry["fps"], entry["total"], entry["sample_fps"], entry["max_frames"], draw)
    kept = [frame for frame in slots if frame != BLANK]
    first = entry.get("kwargs", {}).get("get_first_frame", False)
    reference = kept[0 if first else len(kept) // 2] if kept else -1
    return {"kept": np.array(kept), "slots": np.array(slots), "info": np.array([0, bound, reference])}


def build(name: str, kwargs: dict):
    """The transform of that name.

    Raises:
        LeftOut: there is none.
    """
    if not hasattr(transforms, name):
        raise not_built(name)
    return getattr(transforms, name)(**kwargs)


def as_array(value) -> np.ndarray:
    """Array of an image, a stack of images or a tensor."""
    return np.stack([np.asarray(image) for image in value]) if isinstance(value, list) else np.asarray(value)


HANDLERS = {
    ("vgen-engine", "transforms"): replay_transforms,
    ("vgen-engine", "frames"): replay_frames,
    ("vgen-unets-core", "transform"): replay_pipelines,
}
