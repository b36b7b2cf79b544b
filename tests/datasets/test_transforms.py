"""What the golden case of the transforms (tests/test_replay.py) does not show."""
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tools.datasets import transforms as T

SIDES = st.integers(1, 90)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@given(width=SIDES, height=SIDES, to_width=SIDES, to_height=SIDES)
def test_any_picture_fits_any_size(width, height, to_width, to_height):
    assert T.CenterCropWide((to_width, to_height))(picture(width, height)).size == (to_width, to_height)


def test_train_pipeline_spans_minus_one_to_one():
    pipeline = T.train_transforms([32, 16], [0.5] * 3, [0.5] * 3)
    black, white = (Image.new("RGB", (64, 32), color) for color in ("black", "white"))
    out = pipeline([black, white])
    assert out.shape == (2, 3, 16, 32)
    assert out.dtype == torch.float32
    assert (out[0].unique().item(), out[1].unique().item()) == (-1, 1)


@pytest.mark.parametrize(("always_square", "visible"), [(False, 224), (True, 64)])
def test_vit_pipeline_of_a_video_smaller_than_the_encoder(always_square, visible):
    wide = Image.new("RGB", (448, 224), "black")
    wide.paste("white", (112, 0, 336, 224))
    pipeline = T.vit_transforms([64, 32], [224, 224], [0] * 3, [1] * 3, always_square=always_square)
    assert pipeline.transforms[0].size == (visible, visible)
    assert pipeline(wide).shape == (3, 224, 224)


def test_vit_pipeline_of_a_larger_video_crops_the_square_of_its_width():
    assert T.vit_transforms([448, 256], [224, 224], T.CLIP_MEAN, T.CLIP_STD).transforms[0].size == (448, 448)


def test_center_crop_refuses_smaller_pictures():
    with pytest.raises(ValueError, match="cannot crop 32"):
        T.CenterCrop(32)(picture(40, 20))


@pytest.mark.parametrize("transform", [
    T.ResizeRandomCrop(12, 16), T.RandomCrop(16), T.RandomCropV2(16), T.RandomHFlip(), T.GaussianBlur(), T.RandomGray(),
    T.ColorJitter(p=1)], ids=lambda transform: type(transform).__name__)
def test_random_transforms_treat_all_frames_alike(transform):
    for seed in range(6):
        random.seed(seed)
        first, second = transform([picture(40, 30), picture(40, 30)])
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


@given(width=SIDES, height=SIDES, seed=st.integers(0, 1000))
def test_random_crop_v2_stays_inside(width, height, seed):
    random.seed(seed)
    left, top, w, h = T.RandomCropV2(16)._box(width, height)
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height


def test_random_crop_v2_falls_back_to_the_central_part():
    crop = T.RandomCropV2(16, min_area=1.0)
    left, top, w, h = crop._box(400, 30)
    assert (left, top, w, h) == (180, 0, 40, 30)
