"""JSON-lines datasets: which frames an item holds, what it says of them, and that bad lines and files cost only
themselves."""
import itertools
import json
import logging
import random

import pytest
import torch
from torch.utils.data import DataLoader

from tests.numbered import numbered_frames, numbers_of
from tools import media
from tools.datasets.jsonl import JsonLines
from tools.engines.batches import SeededItems
from tools.errors import UserError
from tools.registry import DATASETS, load_components

LENGTHS = {"a": 100, "b": 30, "c": 5}


def write_lines(path, records) -> str:
    """Records as JSON lines; texts are written as they are."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder with numbered clips of 100, 30 and 5 frames, and their lists."""
    load_components()
    folder = tmp_path_factory.mktemp("webvid")
    for name, frames in LENGTHS.items():
        media.write_video(folder / f"{name}.mp4", numbered_frames(range(frames)), 8)
    records = [{"text": f"caption of {name}", "file": f"/elsewhere/{name}.mp4", "fps": 8.0} for name in LENGTHS]
    write_lines(folder / "good.jsonl", records)
    write_lines(folder / "mixed.jsonl", [records[0], "{broken", {"file": "b.mp4"}, "[1]", "",
                                         {"text": "absent", "file": "absent.mp4"}, records[1]])
    return folder


def dataset(clips, name: str = "good", kind: str = "WebVid10M", **options):
    built = DATASETS.build({"type": kind, "json_path": str(clips / f"{name}.jsonl"), "video_folder": str(clips),
                            "sample_size": [48, 80], **options})
    built.transform.flip = 0.0
    return built


def shown(item: dict) -> list[int]:
    return numbers_of(media.to_uint8(item["video"], [0.5] * 3, [0.5] * 3))


def test_an_item_shows_frames_at_the_stride_that_it_tells(clips):
    random.seed(0)
    item = dataset(clips, sample_stride=[2, 5], max_frames=6)[0]
    numbers = shown(item)
    assert {b - a for a, b in itertools.pairwise(numbers)} == {item["stride"]} <= {2, 3, 4, 5}
    assert (item["caption"], item["key"], item["video"].shape) == ("caption of a", "/elsewhere/a.mp4", (6, 3, 48, 80))
    assert torch.equal(item["ref_frame"], item["video"][0])


def test_every_stride_and_start_occurs(clips):
    random.seed(0)
    data = dataset(clips, sample_stride=[1, 3], max_frames=4)
    items = [data[0] for _ in range(60)]
    assert {item["stride"] for item in items} == {1, 2, 3}
    starts = [shown(item)[0] for item in items]
    assert min(starts) < 15 and max(starts) > 75


@pytest.mark.parametrize(("rule", "numbers", "stride"), [("nominal", [0, 1, 2, 4], 3), ("fitted", [0, 1, 2, 3], 1)])
def test_short_videos_by_either_rule(clips, caplog, rule, numbers, stride):
    random.seed(1)
    data = dataset(clips, sample_stride=3, max_frames=4, short_clips=rule)
    with caplog.at_level(logging.WARNING):
        item = data[2]
    assert item["stride"] == stride
    assert [n - shown(item)[0] for n in shown(item)] == numbers
    assert "has 5 frames, too few for 4 at stride 3" in caplog.text


def test_short_videos_can_be_left_out_and_serve_for_a_smaller_stride(clips):
    data = dataset(clips, sample_stride=[1, 3], max_frames=4, short_clips="skip")
    random.seed(0)
    items = [data[2] for _ in range(30)]
    assert {item["stride"] for item in items if item["key"].endswith("c.mp4")} == {1}
    assert len({item["key"] for item in items}) == 3
    assert data.short > 0 and not data.failures


def test_broken_lines_and_absent_videos_are_named_counted_and_skipped(clips, caplog):
    with caplog.at_level(logging.WARNING):
        data = dataset(clips, "mixed", max_frames=3, sample_stride=1)
        keys = {data[index]["key"] for index in range(len(data))}
    assert keys == {"/elsewhere/a.mp4", "/elsewhere/b.mp4"}
    assert [f"line {number} skipped" in caplog.text for number in (2, 3, 4)] == [True] * 3
    assert "no 'text' in it" in caplog.text and "3 broken lines skipped, 3 records" in caplog.text
    assert "no video file" in caplog.text and "(1 of 3 files unreadable so far)" in caplog.text
    assert data.failures == [str(clips / "absent.mp4")]


def test_items_depend_on_seed_and_position_alone(clips):
    """Neither on the number of workers nor on what is known to be unreadable already."""
    def keys(workers: int, warm: bool) -> list:
        data = dataset(clips, "mixed", sample_stride=[1, 4], max_frames=4)
        if warm:
            data[1]
        loader = DataLoader(SeededItems(data, seed=3, shuffle=True), batch_size=2, num_workers=workers,
                            sampler=range(8))
        return [(batch["key"], batch["stride"].tolist(), batch["video"].sum().item()) for batch in loader]

    assert keys(0, warm=False) == keys(0, warm=True) == keys(2, warm=False)


def test_durations_give_the_frames_of_that_time(clips):
    random.seed(0)
    item = dataset(clips, sample_duration=2, sample_fps=4)[0]
    numbers = shown(item)
    assert len(numbers) == 8 and numbers[-1] - numbers[0] == 15  # two seconds of 8 frames
    assert item["stride"] == 2


def test_pexels_are_wide_and_have_captions(clips):
    records = [{"id": 1, "file": "a.mp4", "fps": 8, "height": 9, "width": 16},
               {"id": 2, "file": "b.mp4", "fps": 8, "height": 10, "width": 16},
               {"id": 3, "file": "c.mp4", "fps": 8, "height": 9, "width": 16}]
    write_lines(clips / "pexels.jsonl", records)
    captions = write_lines(clips / "captions.jsonl", [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    data = dataset(clips, "pexels", "Pexels", caption_json_path=captions, max_frames=3)
    assert [clip.caption for clip in data.clips] == ["one"]
    joint = DATASETS.build({"type": "JointDataset", "pexels_config": {
        "enable": True, "json_path": str(clips / "pexels.jsonl"), "caption_json_path": captions,
        "video_folder": str(clips)}, "webvid_config": {"enable": True, "json_path": str(clips / "good.jsonl"),
                                                       "video_folder": str(clips)}})
    assert [clip.caption for clip in joint.clips] == ["one", "caption of a", "caption of b", "caption of c"]


def test_pairs_of_frames_for_image_training(clips):
    random.seed(2)
    data = dataset(clips, sample_stride=2, max_frames=5, is_image=True)
    gaps = {shown(item)[1] - shown(item)[0] for item in (data[0] for _ in range(40))}
    assert gaps == {2, 4, 6, 8}


@pytest.mark.parametrize(("options", "words"), [
    ({"sample_stride": 0}, "sample_stride 0 is none"),
    ({"sample_stride": [3, 2]}, r"sample_stride \[3, 2\] is none"),
    ({"max_frames": 1}, "clips need 2 frames or more"),
    ({"sample_duration": 2}, "needs sample_fps"),
    ({"short_clips": "skipped"}, "'skipped' is unknown .did you mean 'skip'"),
    ({"video_folder": "/nowhere"}, "none of the first 3 videos can be read, '/nowhere/a.mp4'"),
    ({"json_path": "/nowhere.jsonl"}, "no annotation file '/nowhere.jsonl'"),
    ({"json_path": None}, "json_path is not set"),
    ({"sample_strid": 3}, "unknown key 'sample_strid'"),
])
def test_wrong_settings_are_named(clips, options, words):
    with pytest.raises(UserError, match=words):
        dataset(clips, **options)


def test_neither_list_enabled_is_refused():
    with pytest.raises(UserError, match="neither webvid_config nor pexels_config is enabled"):
        DATASETS.build({"type": "JointDataset", "webvid_config": {"enable": False, "json_path": "x"}})


def test_records_are_found_by_their_place(tmp_path):
    records = [{"text": "ä" * n, "file": str(n)} for n in range(200)]
    lines = JsonLines(write_lines(tmp_path / "x.jsonl", records), ("text",))
    assert [lines[n] for n in (150, 3, 199)] == [records[n] for n in (150, 3, 199)]
    with pytest.raises(UserError, match="holds no record with speech"):
        JsonLines(tmp_path / "x.jsonl", ("speech",))
