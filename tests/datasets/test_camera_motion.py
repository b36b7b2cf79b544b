"""Crops that move over a picture, and pictures fitted to a frame."""
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tools.datasets.camera_motion import MOTIONS, moving_frames
from tools.datasets.tensor_transforms import ClipTransform, first_frame
from tools.errors import UserError

SIZES = [(64, 64), (90, 60), (60, 90), (40, 120), (120, 40)]


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def middle(frames: torch.Tensor, channel: int) -> list[float]:
    return frames[:, channel].mean(dim=(1, 2)).tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_fills_every_frame_of_every_picture(motion, size):
    for height, width in ((32, 32), (24, 40), (40, 24)):
        frames = moving_frames(ramp(*size), motion, 6, height, width)
        assert frames.shape == (6, 3, height, width)
        assert frames[:, :2].amin() > -1.01 and frames.amax() < 1.01


@pytest.mark.parametrize("size", SIZES)
def test_pans_move_even_over_square_pictures(size):
    right, left = (middle(moving_frames(ramp(*size), motion, 6, 32, 32), 0) for motion in ("pan_right", "pan_left"))
    assert all(a < b for a, b in itertools.pairwise(right))
    assert all(a > b for a, b in itertools.pairwise(left))


def test_zooms_change_the_contrast_about_a_fixed_middle():
    inward, outward = (moving_frames(ramp(64, 64), motion, 6, 32, 32) for motion in ("zoom_in", "zoom_out"))
    spread = [frame[0].amax() - frame[0].amin() for frame in inward]
    assert all(a > b for a, b in itertools.pairwise(spread))
    assert outward[0, 0].amax() < outward[5, 0].amax()
    assert middle(inward, 0) == pytest.approx([middle(inward, 0)[0]] * 6, abs=0.03)


def test_unknown_motions_are_refused():
    with pytest.raises(UserError, match=r"'pan_rigth' is unknown .did you mean 'pan_right'"):
        moving_frames(ramp(8, 8), "pan_rigth", 2, 8, 8)


def test_a_narrow_picture_is_cut_padded_or_stretched():
    white = Image.new("RGB", (30, 60), "white")
    cover, pad, stretch = (first_frame(white, 32, 64, fit) for fit in ("cover", "pad", "stretch"))
    assert cover.shape == pad.shape == stretch.shape == (3, 32, 64)
    assert (cover == 1).all() and (stretch == 1).all()
    assert (pad[:, :, 0] == -1).all() and (pad[:, :, 32] == 1).all()
    with pytest.raises(UserError, match="picture_fit 'crop' is unknown"):
        first_frame(white, 32, 64, "crop")


def test_a_clip_is_mirrored_as_a_whole():
    clip = torch.from_numpy(np.stack([np.asarray(ramp(40, 30))] * 3))
    torch.manual_seed(0)
    ways = {tuple(np.sign([frame[0, 0, -1] - frame[0, 0, 0] for frame in ClipTransform(16, 16)(clip)]))
            for _ in range(12)}
    assert ways == {(1.0,) * 3, (-1.0,) * 3}
