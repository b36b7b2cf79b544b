"""Motion, flicker and SSIM: known motion is measured, motion is no flicker, and flicker is no motion."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.metrics.fidelity import ssim
from tools.metrics.steadiness import measure

SIDE = 64


def texture(side: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 20, 230, cv2.NORM_MINMAX).astype(np.uint8)


def sliding(step: int, frames: int = 5) -> np.ndarray:
    canvas = texture(SIDE + step * frames + 1)
    return np.stack([canvas[:SIDE, step * i:step * i + SIDE] for i in range(frames)])


def test_a_still_clip_is_still():
    found = measure(np.repeat(texture(SIDE)[None], 3, axis=0))
    assert found.change == found.flicker == 0 and found.motion < 0.01 and not found.dynamic


@pytest.mark.parametrize("step", [1, 3])
def test_known_motion_is_measured_and_is_no_flicker(step):
    found = measure(sliding(step))
    assert found.motion == pytest.approx(100 * step / SIDE, rel=0.15)
    assert found.flicker < 0.25 * found.change
    assert found.dynamic == (step > 6 / 256 * SIDE)


def test_flicker_is_no_motion():
    dark, bright = texture(SIDE) // 2, texture(SIDE) // 2 + 25
    found = measure(np.stack([dark, bright] * 3))
    assert found.change == pytest.approx(25 / 255, abs=0.002)
    assert found.flicker > 0.6 * found.change and not found.dynamic


def test_more_flicker_is_measured_as_more():
    rng = np.random.default_rng(0)
    levels = [measure((sliding(2) + rng.normal(0, noise, (5, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)).flicker
              for noise in (0, 8, 20)]
    assert levels[0] < levels[1] < levels[2]


def test_a_cut_has_no_place_seen_twice_and_counts_whole():
    flat = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    flat[1] = 255
    assert measure(flat).change == 1 and measure(flat).flicker == pytest.approx(1)
    with pytest.raises(ValueError, match="one frame neither moves nor flickers"):
        measure(flat[:1])


def test_ssim_is_the_papers_formula():
    x, y = texture(11), texture(11)[::-1].copy()
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5 ** 2))
    weights /= weights.sum()
    a, b = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(float) for each in (x, y))
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 2.55 ** 2, 7.65 ** 2
    expected = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / (
        (mean_a ** 2 + mean_b ** 2 + c1) * (var_a + var_b + c2))
    assert ssim(x, y) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.integers(0, 60))
def test_ssim_is_symmetric_at_most_1_and_1_for_equal_pixels(seed, noise):
    rng = np.random.default_rng(seed)
    x = texture(24)
    y = (x + rng.normal(0, noise, x.shape)).clip(0, 255).astype(np.uint8)
    assert ssim(x, x) == pytest.approx(1) and ssim(x, y) == pytest.approx(ssim(y, x)) and ssim(x, y) <= 1 + 1e-9


def test_ssim_falls_with_noise_and_averages_over_frames():
    x, rng = texture(32), np.random.default_rng(0)
    noisy = [(x + rng.normal(0, noise, x.shape)).clip(0, 255).astype(np.uint8) for noise in (0, 10, 40)]
    figures = [ssim(each, x) for each in noisy]
    assert figures[0] > figures[1] > figures[2]
    assert ssim(np.stack(noisy), np.stack([x] * 3)) == pytest.approx(np.mean(figures))
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x[:10], x[:10])
    with pytest.raises(ValueError, match="one shape"):
        ssim(x, x[:20])
