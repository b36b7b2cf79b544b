"""Conditions drawn from a clip's truth agree with its pixels and with its motion."""
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from tools.datasets.procedural import ProceduralVideoDataset
from tools.metrics.geometry import border_rows, find_object
from tools.world import conditions
from tools.world.scene import Track, sample_truth, track
from tools.world.vocabulary import MOTIONS, World

SIZE = (40, 32)


def path_of(motion: str, frames: int = 5) -> tuple[str, Track]:
    """A shape with corners that does the motion, and its path."""
    truth = sample_truth(3, 0, World(shapes=("star",), motions=(motion,)))
    return truth.shape, track(truth, frames, SIZE)


def test_packed_truth_draws_the_datasets_pixels():
    dataset = ProceduralVideoDataset(resolution=SIZE, max_frames=4, seed=2)
    items = [dataset[i] for i in range(6)]
    kept = conditions.pack(default_collate([item["truth"] for item in items]))
    scenes = conditions.unpack(kept["words"], kept["path"], SIZE)
    for item, scene in zip(items, scenes, strict=True):
        pixels = torch.from_numpy(scene.pixels).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(item["video"] * 127.5 + 127.5, pixels, atol=1e-3, rtol=0)


def test_the_hole_is_where_the_object_is_seen():
    dataset = ProceduralVideoDataset(resolution=(64, 64), max_frames=3, seed=4)
    for index in range(4):
        kept = conditions.pack(default_collate([dataset[index]["truth"]]))
        scene, = conditions.unpack(kept["words"], kept["path"], (64, 64))
        rows = border_rows(scene.pixels)
        for frame, hole in zip(scene.pixels, conditions.hole(scene.distances), strict=True):
            blob = find_object(frame, rows)
            seen = np.zeros_like(hole)
            seen[blob.top:blob.top + blob.cover.shape[0], blob.left:blob.left + blob.cover.shape[1]] = blob.cover > 0.5
            assert (seen * hole).sum() / np.maximum(seen, hole).sum() > 0.95


def test_depth_and_sketch_follow_the_outline():
    shape, path = path_of("growing")
    distance = conditions.distances(shape, path, SIZE)
    depth, sketch = conditions.depth(distance), conditions.sketch(distance)
    assert depth[distance < -1].min() == conditions.NEAR and depth[distance > 1].max() == conditions.FAR
    assert sketch[np.abs(distance) > 1].max() == 0 and sketch[np.abs(distance) < 0.25].min() > 0.7


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_leads_back_to_the_same_point_of_the_object(motion):
    shape, path = path_of(motion)
    distance = conditions.distances(shape, path, SIZE)
    field = conditions.motion(distance, path)
    assert not field[0].any()
    assert np.all(field.transpose(0, 2, 3, 1)[distance >= 0] == 0)
    for frame in range(1, len(path.radii)):
        rows, columns = np.nonzero(distance[frame] < 0)
        x, y = columns + 0.5 - field[frame, 0, rows, columns], rows + 0.5 - field[frame, 1, rows, columns]
        center, radius, angle = path.centers[frame - 1], path.radii[frame - 1], path.angles[frame - 1]
        before = conditions.signed_distance(shape, x - center[0], y - center[1], radius, angle)
        now = distance[frame, rows, columns]
        np.testing.assert_allclose(before / radius, now / path.radii[frame], atol=1e-4)
