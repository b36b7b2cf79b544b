"""A subject's photos with masks and a motion's clips, good and bad ones."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.datasets.custom import ImageCustomDataset, VideoCustomDataset
from tools.errors import UserError
from tools.media import write_png, write_video

SIDE = 32


def photo(folder: Path, name: str, size: tuple[int, int] = (SIDE, SIDE), mask: tuple[int, int] | None = None) -> None:
    """A grey photo; with a mask of that size, white on its left half."""
    write_png(folder / name, np.full((size[1], size[0], 3), 90, np.uint8))
    if mask:
        pixels = np.zeros((mask[1], mask[0], 3), np.uint8)
        pixels[:, :mask[0] // 2] = 255
        write_png(folder / "masks" / name, pixels)


def images(folder: Path, lines: list[str], **options) -> ImageCustomDataset:
    (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    options = {"resolution": [SIDE, SIDE], "vit_resolution": [16, 16], **options}
    return ImageCustomDataset([str(folder / "list.txt")], [str(folder)], **options)


def videos(folder: Path, frames: dict[str, int], **options) -> VideoCustomDataset:
    for name, count in frames.items():
        clip = np.repeat(np.linspace(0, 250, count).astype(np.uint8)[:, None, None, None], SIDE, 1)
        write_video(folder / name, np.tile(clip, (1, 1, SIDE, 3)), 8)
    (folder / "list.txt").write_text("".join(f"{name}|||a clip\n" for name in frames))
    options = {"resolution": [SIDE, SIDE], "vit_resolution": [16, 16], "max_frames": 4, "sample_fps": 8, **options}
    return VideoCustomDataset([str(folder / "list.txt")], [str(folder)], **options)


def test_photos_come_with_masks_of_the_latents_size(tmp_path):
    photo(tmp_path, "0.png", mask=(SIDE, SIDE))
    item = images(tmp_path, ["0.png|||a {}"], use_mask_diffusion=True, placeholder_strings=["sks"])[0]
    assert item["caption"] == "a sks" and item["video"].shape == (1, 3, SIDE, SIDE)
    expected = torch.zeros(1, 3, 4, 4)
    expected[..., :2] = 1
    assert torch.equal(item["mask"], expected)


def test_masks_are_not_looked_at_unless_asked_for(tmp_path):
    photo(tmp_path, "0.png")
    assert "mask" not in images(tmp_path, ["0.png|||a *"])[0]


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "1.png").write_text("no picture"), "not an image: .*1.png"),
    (lambda folder: photo(folder, "1.png", mask=(16, 16)), "mask .*1.png.* is 16x16 pixels and its photo 32x32"),
    (lambda folder: photo(folder, "1.png"), "no image file .*masks/1.png"),
    (lambda folder: (photo(folder, "1.png"), write_png(folder / "masks/1.png", np.zeros((SIDE, SIDE, 3), np.uint8))),
     "black all over"),
], ids=["unreadable", "mask of another size", "no mask", "black mask"])
def test_one_bad_photo_is_reported_and_another_takes_its_place(tmp_path, caplog, spoil, words):
    photo(tmp_path, "0.png", mask=(SIDE, SIDE))
    spoil(tmp_path)
    dataset = images(tmp_path, ["0.png|||a *", "1.png|||a *"], use_mask_diffusion=True)
    torch.manual_seed(0)
    assert dataset[1]["key"] == "0.png"
    assert dataset.failures == [str(tmp_path / "1.png")]
    assert len(caplog.records) == 1
    assert re.search(words, caplog.text)


def test_captions_with_other_braces_are_refused(tmp_path):
    photo(tmp_path, "0.png")
    with pytest.raises(UserError, match=r"caption 'a \{\} and a \{\}' of '0.png'"):
        images(tmp_path, ["0.png|||a {} and a {}"])


def test_clips_have_every_slot_filled_and_a_reference_frame_at_random(tmp_path):
    dataset = videos(tmp_path, {"long.mp4": 12}, get_random_frame=True)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        item = dataset[0]
        frames = item["video"].mean(dim=(1, 2, 3))
        assert (frames.diff() > 0).all()
        seen.add(int((frames - item["ref_frame"].mean()).abs().argmin()))
    assert seen == {0, 1, 2, 3}


def test_a_clip_that_is_too_short_is_left_out_and_named(tmp_path, caplog):
    dataset = videos(tmp_path, {"long.mp4": 12, "short.mp4": 3})
    assert dataset[1]["key"] == "long.mp4"
    assert "short.mp4' is too short: 3 frames for clips of 4" in caplog.text


def test_a_list_of_clips_that_are_all_too_short_is_refused(tmp_path):
    with pytest.raises(UserError, match="none of the 1 files"):
        videos(tmp_path, {"short.mp4": 3})


def test_short_clips_are_filled_with_grey_as_in_the_original_where_asked(tmp_path):
    item = videos(tmp_path, {"short.mp4": 3}, frame_sampling="reference_custom")[0]
    assert not item["video"][-1].any() and item["video"][0].any()
