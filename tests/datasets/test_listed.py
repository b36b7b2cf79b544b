"""Datasets over list files: what an item holds, and that one bad file costs no more than itself."""
import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.numbered import numbered_frames, numbers_of
from tools import media
from tools.datasets.image import ImageDataset
from tools.datasets.video import VideoDataset
from tools.errors import UserError
from tools.registry import DATASETS

SIZE = {"resolution": [80, 48], "vit_resolution": [32, 32]}


def write_list(path, names) -> str:
    path.write_text("".join(f"{name}|||caption of {name} \n" for name in names))
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder with numbered clips a (100 frames), b (30) and c (5) at 8 frames per second, and a broken one."""
    folder = tmp_path_factory.mktemp("clips")
    for name, frames in (("a", 100), ("b", 30), ("c", 5)):
        media.write_video(folder / f"{name}.mp4", numbered_frames(range(frames)), 8)
    (folder / "broken.mp4").write_bytes(b"broken")
    write_list(folder / "good.txt", ["a.mp4", "b.mp4", "c.mp4"])
    write_list(folder / "mixed.txt", ["absent.mp4", "a.mp4", "broken.mp4", "b.mp4", "absent.mp4"])
    write_list(folder / "bad.txt", ["absent.mp4", "broken.mp4"])
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        media.write_png(folder / f"{number}.png", numbered_frames([number])[0])
    (folder / "text.png").write_text("no picture")
    write_list(folder / "list.txt", ["0.png", "text.png", "1.png", "2.png"])
    return folder


def video_dataset(folder, name: str, **options) -> VideoDataset:
    return VideoDataset([str(folder / name)], [str(folder)], **SIZE, **options)


def shown(video: torch.Tensor) -> list[int]:
    return numbers_of(media.to_uint8(video, [0.5] * 3, [0.5] * 3))


def test_item_of_a_video(clips):
    item = video_dataset(clips, "good.txt", max_frames=8, sample_fps=4)[0]
    assert {key: tuple(value.shape) for key, value in item.items() if isinstance(value, torch.Tensor)} == {
        "ref_frame": (3, 48, 80), "vit_frame": (3, 32, 32), "video": (8, 3, 48, 80)}
    assert (item["caption"], item["key"], item["fps"]) == ("caption of a.mp4", "a.mp4", 4)
    numbers = shown(item["video"])
    assert np.diff(numbers).tolist() == [2] * 7
    assert shown(item["ref_frame"][None]) == [numbers[4]]


def test_first_frame_as_reference(clips):
    item = video_dataset(clips, "good.txt", max_frames=8, get_first_frame=True)[0]
    assert torch.equal(item["ref_frame"], item["video"][0])


def test_short_videos_fill_every_slot_and_state_their_rate(clips):
    dataset = video_dataset(clips, "good.txt", max_frames=16, sample_fps=2)
    narrowed, repeated = dataset[1], dataset[2]
    assert np.diff(shown(narrowed["video"])).tolist() == [1] * 15
    assert narrowed["fps"] == 8
    assert shown(repeated["video"]) == [0, 1, 2, 3, 4] + [4] * 11


def test_reference_sampling_leaves_grey_slots(clips):
    item = video_dataset(clips, "good.txt", max_frames=8, frame_sampling="reference")[2]
    assert shown(item["video"][:3]) == [0, 1, 2]
    assert (item["video"][3:] == 0).all()


def test_an_item_follows_from_the_random_state(clips):
    dataset = video_dataset(clips, "good.txt", max_frames=8)

    def starts(seed):
        torch.manual_seed(seed)
        return [shown(dataset[0]["video"])[0] for _ in range(6)]

    assert starts(1) == starts(1)
    assert len(set(starts(1))) > 1


def test_bad_files_are_reported_once_counted_and_replaced(clips, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = video_dataset(clips, "mixed.txt", max_frames=4)
        keys = [dataset[i]["key"] for i in (*range(5), *range(5))]
    assert set(keys) == {"a.mp4", "b.mp4"}
    assert [keys[1], keys[3]] == ["a.mp4", "b.mp4"]
    assert sorted(name.rsplit("/", 1)[1] for name in dataset.failures) == ["absent.mp4", "broken.mp4"]
    assert len(caplog.records) == 2
    assert "no video file" in caplog.records[0].message
    assert "(2 of 4 files unreadable so far)" in caplog.records[1].message


def test_the_replacement_does_not_depend_on_what_was_read_before(clips):
    fresh, used = (video_dataset(clips, "mixed.txt", max_frames=4) for _ in range(2))
    for index in range(5):
        used[index]
    for dataset in (fresh, used):
        torch.manual_seed(5)
        dataset.chosen = [(item["key"], shown(item["video"])) for item in (dataset[i] for i in (2, 0, 4, 2))]
    assert fresh.chosen == used.chosen


def test_failures_of_worker_processes_are_counted(clips):
    dataset = video_dataset(clips, "mixed.txt", max_frames=4)
    for _ in DataLoader(dataset, batch_size=1, num_workers=1):
        pass
    assert len(dataset.failures) == 2


def test_nothing_readable_is_an_error(clips):
    with pytest.raises(UserError, match=r"none of the 2 files of .*bad\.txt can be read, '.*absent\.mp4'"):
        video_dataset(clips, "bad.txt")


def test_lists_are_zipped_with_folders(clips, pictures, tmp_path):
    other = write_list(tmp_path / "other.txt", ["b.mp4"])
    dataset = VideoDataset([str(clips / "good.txt"), other], [str(clips), str(clips)], max_frames=2, **SIZE)
    assert len(dataset) == 4
    with pytest.raises(UserError, match="names 2 lists and data_dir_list 1 folders"):
        VideoDataset([other, other], [str(clips)])


@pytest.mark.parametrize(("options", "message"), [
    ({"max_frames": 0}, "max_frames"), ({"sample_fps": 0}, "sample_fps"),
    ({"frame_sampling": "exakt"}, "did you mean 'exact'")])
def test_wrong_options_are_named(clips, options, message):
    with pytest.raises(UserError, match=message):
        video_dataset(clips, "good.txt", **options)


def test_item_of_a_picture(pictures):
    dataset = ImageDataset([str(pictures / "list.txt")], [str(pictures)], **SIZE)
    item = dataset[3]
    assert item["video"].shape == (1, 3, 48, 80)
    assert item["vit_frame"].shape == (3, 32, 32)
    assert (item["key"], item["fps"], shown(item["video"])) == ("2.png", 1, [2])
    assert torch.equal(item["ref_frame"], item["video"][0])
    assert dataset[1]["key"] != "text.png"
    assert len(dataset.failures) == 1


def test_sections_of_published_files_are_accepted(clips, pictures):
    for name, folder, file in (("VideoDataset", clips, "good.txt"), ("ImageDataset", pictures, "list.txt")):
        section = {"type": name, "data_list": [str(folder / file)], "data_dir_list": [str(folder)], "vit_frames": 1,
                   "max_words": 1000, "get_first_frame": True, **SIZE}
        assert len(DATASETS.build(section)) >= 3
    with pytest.raises(UserError, match="did you mean 'data_list'"):
        DATASETS.build(section | {"data_lists": []})
