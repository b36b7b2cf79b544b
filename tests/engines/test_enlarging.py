"""Sizes and pixels on the way to a larger video."""
import pytest
import torch

from tools.engines.enlarging import degraded, enlarged, padded, pieces, refined_size


@pytest.mark.parametrize(("size", "expected"), [
    ((448, 256), (1280, 720)), ((1280, 704), (1280, 720)), ((256, 256), (960, 960)), ((256, 448), (728, 1272)),
    ((64, 48), (1112, 832)), ((64, 36), (1280, 720))])
def test_videos_of_another_shape_keep_theirs_at_as_many_pixels(size, expected):
    result = refined_size(*size, (1280, 720), 8)
    assert result == expected
    assert result[0] * result[1] == pytest.approx(1280 * 720, rel=0.02)


def test_even_the_narrowest_video_has_a_size():
    assert min(refined_size(4000, 8, (64, 64), 8)) == 8


def test_padding_repeats_the_edge_on_the_right_and_below():
    frames = torch.arange(6.0).view(1, 1, 2, 3)
    assert padded(frames, 4, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert padded(frames, 3, 2) is frames


def test_degrading_keeps_flat_pictures_and_blurs_colours_more_than_light():
    flat = torch.full((1, 2, 3, 16, 16), 0.3)
    torch.testing.assert_close(degraded(flat), flat)
    light = torch.zeros(1, 1, 3, 16, 16)
    light[..., 8:] = 1
    colour = light * torch.tensor([1.0, -0.509, 0.0]).view(3, 1, 1)  # as bright on both sides
    lost_light, lost_colour = ((clip - degraded(clip)).abs().sum(-1).max() for clip in (light, colour))
    assert 0 < lost_light < lost_colour


@pytest.mark.parametrize("size", [(16, 16), (10, 14), (6, 8)])
def test_degrading_keeps_the_size(size):
    assert degraded(torch.rand(2, 3, 3, *size)).shape == (2, 3, 3, *size)


@pytest.mark.parametrize(("frames", "lengths"), [(32, [32]), (33, [17, 16]), (70, [24, 23, 23]), (1, [1])])
def test_long_videos_are_cut_into_about_equal_pieces(frames, lengths):
    parts = pieces(torch.arange(frames), 32)
    assert [len(part) for part in parts] == lengths
    assert torch.equal(torch.cat(parts), torch.arange(frames))


def test_enlarging_is_bilinear():
    assert enlarged(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), 4, 1).flatten().tolist() == [0, 0.25, 0.75, 1]
