"""Metrics of videos and their networks: topic vgen-engine, kinds `metrics` and `dino`."""
from collections.abc import Iterator

import numpy as np
import torch

from tests.goldens.reader import fill_module, tensor, uniform
from tests.replays.annotators import compared_keys
from tests.replays.pictures import engine_picture
from tools.metrics.dino import DinoViT
from tools.metrics.similarity import dreamvideo_scores

SIDE, WIDTH = 4, 5  # pixels of the cases' pictures, and elements of their features


def replay_metrics(case: dict, expected: dict, path) -> Iterator[tuple]:
    """[CLIP-T, CLIP-I, DINO-I, temporal consistency] of each clip of pictures by rule, with features by formula."""
    for entry in case["entries"]:
        name = entry["name"]
        frames = [f"{name}/f{i}" for i in range(entry["frames"])]
        references = [f"{name}/r{i}" for i in range(entry["references"])]
        text = torch.from_numpy(uniform(f"text/{entry['prompt']}", [1, WIDTH])).double()[0]
        scores = dreamvideo_scores(features("clip", frames), text, features("clip", references),
                                   features("dino", frames), features("dino", references))
        yield name, np.array(list(scores.values())), expected.get(name)


def features(network: str, keys: list[str]) -> torch.Tensor:
    """The cases' features, float64 [n, WIDTH]: products of the pictures with tensors by rule."""
    pictures = [np.asarray(engine_picture(key, SIDE, SIDE)).transpose(2, 0, 1) / 255 for key in keys]
    rules = np.stack([uniform(f"feat/{network}/{c}", [3, SIDE, SIDE]) for c in range(WIDTH)])
    return torch.tensor(np.array([[(picture * rule).sum() for rule in rules] for picture in pictures]))


def replay_dino(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Keys, then class tokens and what the first block sees, for each picture."""
    network = fill_module(DinoViT(**case["config"])).eval()
    yield from compared_keys(network.state_dict(), case)
    for name, spec in case["inputs"].items():
        with torch.no_grad():
            pictures = tensor(spec)
            yield f"{name}.cls", network(pictures), expected.get(f"{name}.cls")
            yield f"{name}.tokens", network.tokens(pictures), expected.get(f"{name}.tokens")


HANDLERS = {
    ("vgen-engine", "metrics"): replay_metrics,
    ("vgen-engine", "dino"): replay_dino,
}
