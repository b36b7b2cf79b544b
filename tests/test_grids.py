"""Previews hold every clip and its caption."""
import numpy as np
import pytest

from tools.grids import FONT_SIZE, GAP, contact_sheet, plain_grid, video_grid


def plain(level: int, frames: int, size=(64, 64)) -> np.ndarray:
    return np.stack([np.full((size[1], size[0], 3), level + i, np.uint8) for i in range(frames)])


def test_grid_shows_every_clip_and_holds_its_last_frame():
    grid = video_grid([plain(10, 4), plain(60, 2), plain(110, 3)], ["a", "b", ""], columns=2)
    shown = [set(np.unique(frame)) for frame in grid]
    assert len(grid) == 4
    assert {10, 60, 110} <= shown[0]
    assert {13, 61, 112} <= shown[3]


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (320, 180)])
def test_grid_has_even_sides(size):
    grid = video_grid([plain(10, 1, size)] * 3, ["caption"] * 3)
    assert grid.shape[1] % 2 == 0
    assert grid.shape[2] % 2 == 0


def test_caption_is_written_and_cut_to_its_place():
    def ink(caption):
        return int((video_grid([plain(100, 1)], [caption])[0][-60:] < 50).sum())

    assert ink("") == 0
    assert 0 < ink("a red star") < ink("a red star moving left on a white background")
    assert video_grid([plain(100, 1)], ["word " * 500]).shape == video_grid([plain(100, 1)], [""]).shape


def test_contact_sheet_has_a_row_per_clip_with_first_and_last_frame():
    sheet = contact_sheet([plain(10, 16), plain(60, 3)], ["a", "b"], columns=4)
    first, second = np.split(sheet, 2)
    assert set(np.unique(first)) >= {10, 15, 20, 25}
    assert set(np.unique(second)) >= {60, 61, 62, GAP}
    assert (first[:FONT_SIZE] < 100).any()


def test_captions_and_clips_must_be_as_many():
    with pytest.raises(ValueError, match="zip"):
        video_grid([plain(10, 1)], [])


def test_plain_grid_has_black_borders_and_leaves_one_clip_alone():
    clips = [plain(level, 2) for level in (10, 20, 30)]
    height, width = clips[0].shape[1:3]
    grid = plain_grid(clips, columns=2)
    assert grid.shape == (2, 2 * height + 6, 2 * width + 6, 3)
    assert grid[0, 2, 2, 0] > 0 and not grid[:, :2].any() and not grid[:, :, width + 2:width + 4].any()
    assert np.array_equal(plain_grid(clips[:1]), clips[0])
