"""The measurement of customised models counts what clips show."""
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from tools.benchmarks.customisation import PROMPTS, fresh_prompts, measure
from tools.registry import ENGINE, load_components
from tools.world.draw import render
from tools.world.scene import sample_truth
from tools.world.vocabulary import NEW_COLORS, NEW_MOTIONS, NEW_SHAPES, World

CFG = SimpleNamespace(TASK_TYPE="x", resolution=[32, 32], mean=[0.5] * 3, std=[0.5] * 3, test_data_dir="",
                      vid_dataset={"type": "ProceduralVideoDataset", "radius": [0.22, 0.28],
                                   "shapes": ["circle", "star"]})


class Painter:
    """Stands for an engine: paints what it is told to, whatever is asked for."""

    def __init__(self, worlds: list[World]):
        self.worlds, self.asked = worlds, []

    def build(self) -> None:
        """Nothing to build."""

    def generate(self, items, generators) -> list[torch.Tensor]:
        videos = []
        for item in items:
            truth = sample_truth(3, item.line, self.worlds[len(self.asked) % len(self.worlds)])
            pixels = render(truth, 8, (32, 32)).astype(np.float32) / 127.5 - 1
            videos.append(torch.from_numpy(pixels).permute(0, 3, 1, 2))
            self.asked.append(item.caption)
        return videos


def test_shares_are_those_of_what_is_shown_and_prompts_are_the_claims():
    subject = World(shapes=tuple(NEW_SHAPES), colors=tuple(NEW_COLORS))
    both = World(shapes=tuple(NEW_SHAPES), colors=tuple(NEW_COLORS), motions=tuple(NEW_MOTIONS))
    painter = Painter([subject, both, World(), World()])
    with mock.patch.object(ENGINE, "build", return_value=painter):
        load_components()
        shares, shown = measure(CFG, "both", clips=8, seed=1, batch=3)
    assert shares == {"subject": 0.5, "motion": 0.25, "both": 0.25}
    assert len(shown) == 8 and painter.asked == [prompt for prompt, _ in fresh_prompts("both", 8, 1, World())]


@pytest.mark.parametrize("claim", PROMPTS)
def test_prompts_are_fresh_and_filled_in(claim):
    prompts = [prompt for prompt, _ in fresh_prompts(claim, 20, 1, World())]
    assert len(set(prompts)) > 3 and not any("{" in prompt for prompt in prompts)
    assert prompts == [prompt for prompt, _ in fresh_prompts(claim, 20, 1, World())]
    assert prompts != [prompt for prompt, _ in fresh_prompts(claim, 20, 2, World())]
