"""ConsistI2V's datasets: which frames of which file make an item, and its pixels."""
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tests.goldens.reader import uniform
from tests.replays import LeftOut
from tools import media
from tools.datasets import webvid  # noqa: F401 - registers the datasets
from tools.errors import UserError
from tools.registry import DATASETS

TOPIC = "consisti2v"
RECORDS = ("json_path", "caption_json_path")
NO_STRIDE = LeftOut("the original tells no stride here; ours has one for the network's condition")


class Videos:
    """Stands for the media reader: serves the videos that a case describes by rule, notes what is opened and read.

    Args:
        entries: name -> {frames, height, width, key}; a path is served by the entry whose name it ends with.
    """

    def __init__(self, entries: dict):
        self.entries = entries
        self.opened: list[str] = []
        self.read: list[int] = []

    def entry(self, path: str) -> dict:
        for name, entry in self.entries.items():
            if path.endswith(name):
                return entry
        raise UserError(f"no video file '{path}'")

    def probe_video(self, path: str) -> media.VideoInfo:
        self.opened.append(path)
        entry = self.entry(path)
        return media.VideoInfo(0.0, entry["frames"], entry["width"], entry["height"])

    def read_frames(self, path: str, numbers: list[int]) -> np.ndarray:
        self.read = list(numbers)
        entry = self.entry(path)
        values = uniform(entry["key"], (entry["frames"], entry["height"], entry["width"], 3), 0.5, 0.5)
        return np.floor(values[self.read] * 256).clip(0, 255).astype(np.uint8)


def replay_dataset(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Length, and of every item the frames read, the stride, and the pixels where the case has them."""
    videos, config = Videos(case["config"]["videos"]), case["config"]
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(
            media, probe_video=videos.probe_video, read_frames=videos.read_frames):
        dataset = DATASETS.build({"type": case["component"], "picture_fit": "pad",
                                  **arguments(config["kwargs"], Path(folder))})
        yield "length", len(dataset), int(expected["length"])
        items, videos.opened = [], []
        for number, wanted in enumerate(config["items"]):
            random.seed(wanted["python_seed"])
            torch.manual_seed(wanted["torch_seed"])
            items.append(dataset[wanted["idx"]])
            yield f"indices_{number}", np.array(videos.read), expected[f"indices_{number}"]
            if wanted["record"]:
                yield f"pixels_{number}", items[-1]["video"], expected[f"pixels_{number}"]
    strides = np.array([item["stride"] for item in items])
    yield "strides", NO_STRIDE if (expected["strides"] < 0).all() else strides, expected["strides"]
    yield "observed/texts", [item["caption"] for item in items], case["observed"]["texts"]
    yield "observed/paths", videos.opened, case["observed"]["paths_opened"]


def arguments(kwargs: dict, folder: Path) -> dict:
    """A case's arguments with its records written to files, `sample_n_frames` under our name."""
    written = {}
    for key, value in kwargs.items():
        if isinstance(value, dict):
            (folder / key).mkdir()
            value = arguments(value, folder / key)
        elif key in RECORDS and value is not None:
            file = folder / f"{key}.jsonl"
            file.write_text("".join(json.dumps(record) + "\n" for record in value))
            value = str(file)
        written["max_frames" if key == "sample_n_frames" else key] = value
    return written


HANDLERS = {(TOPIC, component): replay_dataset for component in ("WebVid10M", "Pexels", "JointDataset")}
