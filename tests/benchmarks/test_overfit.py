"""The loss curves of the over-fitting benchmark."""
import json

import numpy as np
import pytest
from PIL import Image

from tools.benchmarks.overfit import draw_curves, losses, smoothed


def test_losses_are_read_in_order(tmp_path):
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate([3.0, 2.0, 1.0])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert losses(tmp_path / "metrics.jsonl") == [3.0, 2.0, 1.0]


def test_smoothing_is_a_running_mean():
    assert smoothed([1.0, 2.0, 3.0, 6.0], window=2) == [1.0, 1.5, 2.5, 4.5]


@pytest.mark.parametrize("count", [1, 50])
def test_falling_losses_are_drawn_falling(tmp_path, count):
    draw_curves({"a": [0.9 * 0.95 ** step for step in range(count)], "b": [0.5] * count}, tmp_path / "new" / "loss.png")
    with Image.open(tmp_path / "new" / "loss.png") as image:
        pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero((abs(pixels - [0x1F, 0x5F, 0xBF]).sum(axis=2) < 10)[60:, :800])
    if count > 1:
        assert rows[columns.argmax()] > rows[columns.argmin()] + 50
