"""How near two sets of samples are as distributions, from features or class probabilities that networks gave."""
import itertools

import numpy as np

SHUFFLE_SEED = 42


def fid_from_features(real: np.ndarray, fake: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017, eq. 6).

    ||m1 - m2||^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), in float64, covariances with n - 1.

    Args:
        real, fake: [N, D] and [M, D], at least two rows each.

    Raises:
        ValueError: other shapes.
    """
    real, fake = (np.asarray(features, np.float64) for features in (real, fake))
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(f"features are two matrices [N, D] of one width and at least two rows, not {real.shape} and "
                         f"{fake.shape}")
    first, second = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (real, fake))
    # S1 S2 has the eigenvalues of the symmetric S1^(1/2) S2 S1^(1/2), whose roots are safe to take.
    root = _root(first)
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    distance = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross
    return float(distance)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0)) @ vectors.T


def inception_score(probabilities: np.ndarray, num_splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over parts of exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016, section 4).

    Args:
        probabilities: [N, classes], rows sum to 1; left as they are. They are shuffled by a fixed seed first.
        num_splits: contiguous parts, at most N.

    Raises:
        ValueError: fewer rows than parts.
    """
    rows = np.array(probabilities, np.float64)
    if not 1 <= num_splits <= len(rows):
        raise ValueError(f"{len(rows)} rows do not make {num_splits} parts")
    np.random.RandomState(SHUFFLE_SEED).shuffle(rows)
    bounds = [len(rows) * part // num_splits for part in range(num_splits + 1)]
    scores = [_exp_divergence(rows[low:high]) for low, high in itertools.pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _exp_divergence(rows: np.ndarray) -> float:
    marginal = rows.mean(axis=0, keepdims=True)
    logs = np.log(np.where(rows > 0, rows, 1.0)) - np.log(np.where(marginal > 0, marginal, 1.0))
    return float(np.exp((rows * logs).sum(axis=1).mean()))
