"""FID and Inception Score from what networks gave."""
import numpy as np
import pytest

from tools.metrics.distributions import fid_from_features, inception_score

RNG = np.random.default_rng(0)


def test_fid_is_the_closed_form_of_two_gaussians():
    features = RNG.normal(size=(4000, 3))
    assert fid_from_features(features, features) == pytest.approx(0, abs=1e-9)
    moved = features * 2 + 1  # means differ by 1 + mean, covariances by a factor of 4
    covariance = np.cov(features, rowvar=False)
    expected = ((features.mean(0) - moved.mean(0)) ** 2).sum() + np.trace(covariance)
    assert fid_from_features(features, moved) == pytest.approx(expected, rel=1e-9)


def test_fid_of_fewer_samples_than_features_is_finite():
    assert fid_from_features(RNG.normal(size=(3, 8)), RNG.normal(size=(4, 8))) > 0


def test_inception_score_is_1_for_one_answer_and_the_number_of_classes_for_sure_even_ones():
    assert inception_score(np.full((20, 5), 0.2), 2) == pytest.approx((1, 0))
    assert inception_score(np.eye(5)[np.arange(1000) % 5], 1)[0] == pytest.approx(5)


def test_rows_are_left_as_they_are():
    rows = RNG.dirichlet(np.ones(4), size=12)
    before = rows.copy()
    inception_score(rows, 3)
    assert np.array_equal(rows, before)


@pytest.mark.parametrize(("real", "fake"), [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_other_shapes_are_refused(real, fake):
    with pytest.raises(ValueError, match="features are two matrices"):
        fid_from_features(np.zeros(real), np.zeros(fake))
    with pytest.raises(ValueError, match="4 rows do not make 5 parts"):
        inception_score(np.ones((4, 2)) / 2, 5)
