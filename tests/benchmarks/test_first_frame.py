"""What the benchmark of first-frame consistency makes of clips whose answer is known."""
import numpy as np
import pytest

from tools.benchmarks import first_frame as benchmark
from tools.benchmarks.first_frame import Clip, compare, figures, matched, measure_clip, measure_long, parse_variant
from tools.datasets.procedural import ProceduralVideoDataset
from tools.media import to_uint8

DATASET = ProceduralVideoDataset(seed=91, max_frames=8, motions=["moving left"], backgrounds=["white"])


def world_clip(index: int = 0) -> tuple[np.ndarray, str]:
    item = DATASET[index]
    return to_uint8(item["video"], [0.5] * 3, [0.5] * 3), item["caption"]


def test_a_still_clip_keeps_to_its_picture_and_a_moving_one_keeps_its_object():
    video, caption = world_clip()
    still = measure_clip(np.repeat(video[:1], 8, axis=0), video[0], caption)
    moving = measure_clip(video, video[0], caption)
    assert still.psnr.tolist() == [99.0] * 8 and still.kept.all() and not still.dynamic and still.motion == 0
    assert moving.kept.all() and moving.dynamic and moving.motion > 0.5
    assert moving.psnr[0] == 99.0 and moving.psnr[-1] < 25
    lost = measure_clip(np.where(np.arange(8)[:, None, None, None] < 4, video, 255), video[0], caption)
    assert lost.kept.tolist() == [True] * 4 + [False] * 4
    assert still.overlap == pytest.approx(1) and moving.overlap.min() > 0.9
    assert lost.overlap[:4].min() > 0.9 and not lost.overlap[4:].any()


def test_an_object_of_another_shape_or_size_overlaps_less():
    def shown(shape: str, radius: float) -> np.ndarray:
        world = ProceduralVideoDataset(seed=3, max_frames=1, shapes=[shape], colors=["red"], radius=[radius, radius],
                                       backgrounds=["white"])
        return to_uint8(world[0]["video"], [0.5] * 3, [0.5] * 3)

    circle = shown("circle", 0.25)
    alike, square, small = (benchmark.overlaps(other, circle[0]).item()
                            for other in (circle, shown("square", 0.25), shown("circle", 0.2)))
    assert alike == pytest.approx(1, abs=0.01)
    assert 0.4 < square < 0.9 and small == pytest.approx(0.64, abs=0.05)


def clip(psnr: float, motion: float, kept: bool = True) -> Clip:
    return Clip(np.full(4, psnr), np.full(4, kept), np.full(4, 0.5 + kept / 4), motion, motion > 1)


def test_pairs_are_compared_where_both_move_as_much():
    ours = [clip(30, 2.0), clip(40, 0.01), clip(20, 3.0)]
    theirs = [clip(25, 2.2, kept=False), clip(41, 0.05), clip(10, 5.0)]
    found = matched(ours, theirs)
    assert found["first"]["clips"] == 2
    assert found["first"]["dynamic_degree"] == found["second"]["dynamic_degree"] == 0.5
    assert (found["psnr_gain"], found["kept_gain"], found["share_of_pairs_nearer"]) == (2.0, 0.5, 0.5)
    assert (found["overlap_gain"], found["share_of_pairs_more_alike"]) == (0.125, 0.75)
    assert matched([clip(30, 1.0)], [clip(30, 9.0)]) == {}
    assert figures(ours)["psnr_by_frame"] == [30.0] * 4


def test_every_pair_of_variants_is_compared(monkeypatch):
    video, caption = world_clip()
    item = type("Item", (), {"caption": caption})
    still = np.repeat(video[:1], 8, axis=0)
    monkeypatch.setattr(benchmark, "made", lambda cfg, *_: [(item, video[0], cfg)])
    found = compare({"still": still, "moving": video, "again": video}, clips=1, batch=1, seed=0)
    assert set(found["at_equal_motion"]) == {"still | moving", "still | again", "moving | again"}
    assert found["at_equal_motion"]["still | moving"] == {}
    assert found["at_equal_motion"]["moving | again"]["psnr_gain"] == 0
    assert found["variants"]["still"]["psnr"] > found["variants"]["moving"]["psnr"]


@pytest.mark.parametrize("jump", [0, 20])
def test_drift_and_seams_of_chained_clips(jump):
    frames, chunks = 4, 3
    levels = np.arange(chunks * (frames - 1) + 1.0)
    levels += jump * np.repeat([0, 0, 1, 2], [1, 3, 3, 3])
    found = measure_long(np.broadcast_to(levels[:, None, None, None], (len(levels), 6, 6, 3)).astype(np.uint8), frames)
    assert found["seam"].tolist() == [1 + jump] * 2
    assert found["drift"] == pytest.approx(np.sqrt(3) * np.array([2, 5 + jump, 8 + 2 * jump]))


def test_variants_are_configurations_with_overrides(tmp_path):
    (tmp_path / "x.yaml").write_text("TASK_TYPE: inference_i2vgen_entrance\n")
    name, cfg = parse_variant(f"a, b={tmp_path / 'x.yaml'} noise_init '{{type: FrameInit}}' seed 9")
    assert (name, cfg.noise_init["type"], cfg.seed) == ("a, b", "FrameInit", 9)
