"""The comparison of refinement with bicubic enlarging, on networks that refine nothing and on perfect ones."""
import numpy as np
import pytest
import torch

from tests.engines import tiny as tasks
from tools.benchmarks.refinement import bicubic, clip_pairs, compare

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def engine(tiny, tmp_path):
    return tasks.engine(tiny.sampling(tmp_path, "sr", ["x"], sr_resolution=[64, 64], vid_dataset={
        "type": "ProceduralVideoDataset"}))


def test_bicubic_keeps_flat_colours_and_makes_the_size():
    flat = np.full((2, 8, 8, 3), (200, 30, 90), np.uint8)
    assert np.array_equal(bicubic(flat, 16, 24), np.broadcast_to(flat[:, :1, :1], (2, 24, 16, 3)))


def test_pairs_show_the_same_clip_at_two_sizes(engine):
    (caption, small, large), = clip_pairs(engine.cfg, 1, 5)
    assert (small.shape, large.shape) == ((tasks.FRAMES, 32, 32, 3), (tasks.FRAMES, 64, 64, 3))
    assert caption.startswith("a")
    assert np.abs(bicubic(small, 64, 64).astype(float) - large).mean() < 4


def test_what_gives_the_large_clips_gains_and_what_gives_grey_loses(engine, tmp_path):
    truths = {caption: large for caption, _, large in clip_pairs(engine.cfg, 2, 5)}
    engine.generate = lambda items, generators: [
        torch.from_numpy(truths[item.caption]).permute(0, 3, 1, 2) / 127.5 - 1 for item in items]
    perfect = compare(engine, 2, 5, str(tmp_path / "sheet.png"))
    assert perfect["gain"] > 10 and perfect["clips"] == 2 and (tmp_path / "sheet.png").exists()
    engine.generate = lambda items, generators: [torch.zeros(tasks.FRAMES, 3, 64, 64)]
    assert compare(engine, 2, 5)["least_gain"] < -5
