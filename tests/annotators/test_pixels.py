"""Canny edges, palettes and masks: what they must hold for any picture."""
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import gaussian_blur

from tools.annotators import masks
from tools.annotators.base import as_frames, as_pictures
from tools.annotators.canny import Canny, thresholds
from tools.annotators.masks import Masks, mask_out
from tools.annotators.palette import Palette, to_lab
from tools.errors import UserError
from tools.media import write_png

PALETTE = Palette()
PLAIN = Palette(sigma=0)


def disc(radius: int = 14, size: int = 64) -> np.ndarray:
    return cv2.circle(np.full((size, size, 3), 230, np.uint8), (size // 2, size // 2), radius, (40, 60, 200), -1)


def noise_frames(count: int = 2, height: int = 20, width: int = 28) -> torch.Tensor:
    return as_frames(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


def test_frames_and_pictures_are_the_same_numbers():
    pictures = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3), np.uint8)
    assert np.array_equal(as_pictures(as_frames(pictures)), pictures)
    with pytest.raises(ValueError, match=r"float \[F, 3, H, W\]"):
        as_pictures(torch.zeros(2, 5, 7, 3))


def test_canny_finds_the_outline_and_nothing_else():
    edges = Canny()(as_frames(disc()[None]))
    assert edges.shape == (1, 1, 64, 64) and set(edges.unique().tolist()) == {0.0, 1.0}
    y, x = np.nonzero(edges[0, 0].numpy())
    assert np.abs(np.hypot(x - 32, y - 32) - 14).max() < 2
    sectors = np.degrees(np.arctan2(y - 32, x - 32)) % 360 // 15
    assert len(set(sectors)) == 24  # closed: something in every one of them
    assert Canny()(torch.full((2, 3, 16, 16), 0.5)).sum() == 0


def test_canny_draws_its_random_threshold_once_and_again_from_the_same_seed():
    frames, canny = gaussian_blur(noise_frames(2, 64, 64), [7, 7]), Canny(random_threshold=True)
    first, same, other = (canny(frames, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_canny_keeps_fewer_edges_above_higher_thresholds():
    counts = [Canny(low, 2 * low)(noise_frames()).sum() for low in (20, 200, 600)]
    assert counts[0] > counts[1] > counts[2]
    with pytest.raises(UserError, match="give low_threshold and high_threshold"):
        Canny(low_threshold=10)


@given(median=st.integers(0, 255), looseness=st.one_of(st.none(), st.floats(0.1, 0.4)))
def test_canny_thresholds_are_ordered(median, looseness):
    low, high = thresholds(median, looseness)
    assert 0 <= low <= high


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(PALETTE.rgb) - 1))
def test_a_palette_colour_is_counted_as_itself(number):
    picture = np.broadcast_to(PALETTE.rgb[number], (3, 4, 3))
    plain = PLAIN.histogram(picture)
    assert np.allclose(PALETTE.rgb[plain.argmax()], PALETTE.rgb[number]) and plain.max() == 1 == plain.sum()
    weights = PALETTE.smoothing[:, plain.argmax()]
    np.testing.assert_allclose(PALETTE.histogram(picture), np.where(weights < 1e-5, 0, weights))
    np.testing.assert_allclose(PALETTE.smoothing.sum(1), 1)


def test_palette_of_frames_is_the_nearest_colour_by_brute_force():
    frames = noise_frames()
    lab = to_lab(frames.double().permute(0, 2, 3, 1).numpy())
    nearest = ((lab[..., None, :] - PLAIN.lab) ** 2).sum(-1).argmin(-1)
    expected = np.stack([np.bincount(each.ravel(), minlength=156) / each.size for each in nearest])
    shares = PLAIN(frames)
    assert shares.shape == (2, 156) and shares.dtype == torch.float32
    np.testing.assert_allclose(shares.numpy(), expected, atol=1e-6)


def test_lab_is_opencvs():
    rgb = np.random.default_rng(2).random((9, 9, 3), np.float32)
    np.testing.assert_allclose(to_lab(rgb.astype(np.float64)), cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), atol=0.3)


def test_palettes_of_other_sizes_have_as_many_colours():
    for hues in (8, 9, 10, 5):
        palette = Palette(num_hues=hues, num_sat=3, num_light=2)
        assert len(palette.rgb) == (hues + 1) * 7 == palette.channels == len(set(palette.hex)) + _repeated(palette)
        assert palette.table.shape == (7, hues + 1, 3)


def _repeated(palette: Palette) -> int:
    return len(palette.rgb) - len(set(palette.hex))


def test_palette_bars_are_wide_in_proportion():
    picture = np.zeros((10, 10, 3))
    picture[:7], picture[7:] = PALETTE.rgb[5], PALETTE.rgb[40]
    row = PLAIN.bars(PLAIN.histogram(picture))
    assert (row[:140] == PALETTE.rgb[5]).all() and (row[140:] == PALETTE.rgb[40]).all()
    drawn = PLAIN.draw(PLAIN(as_frames((picture[None] * 255).round().astype(np.uint8))))
    assert drawn.shape == (1, 50, 200, 3) and drawn.dtype == np.uint8


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(["random", *masks.SHAPES]), seed=st.integers(0, 10_000),
       size=st.tuples(st.integers(8, 70), st.integers(8, 70)))
def test_masks_take_out_what_they_cover_and_nothing_else(kind, seed, size):
    frames = noise_frames(2, *size)
    annotator = Masks(kind, seed)
    out = annotator(frames)
    kept = out[:, 3:]
    assert out.shape == (2, 4, *size) and set(kept.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(kept[0], kept[1]) and torch.equal(out, annotator(frames))
    assert torch.equal(out[:, :3], (frames * 2 - 1) * kept)
    assert annotator.draw(out).shape == (2, *size, 3)


def test_uncropping_takes_a_half():
    assert all(Masks("uncrop", seed).mask(32, 16).mean() == 0.5 for seed in range(8))
    assert len({Masks("uncrop", seed).mask(32, 16).tobytes() for seed in range(30)}) == 4


def test_a_mask_can_be_a_picture(tmp_path):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = 255
    mask = Masks(picture=str(write_png(tmp_path / "mask.png", picture))).mask(12, 8)
    assert mask[:, :6].sum() == 0 and mask[:, 6:].min() == 1
    with pytest.raises(UserError, match="no image file"):
        Masks(picture=str(tmp_path / "none.png"))
    with pytest.raises(UserError, match="kind 'round' must be one of random, irregular"):
        Masks("round")


def test_mask_out_takes_batches_of_videos():
    video, mask = torch.rand(2, 3, 3, 4, 5), torch.ones(2, 3, 1, 4, 5)
    assert mask_out(video, mask).abs().sum() == 0
    assert torch.equal(mask_out(video, 1 - mask)[..., 3, :, :], torch.ones(2, 3, 4, 5))
