"""How much generated videos differ from each other; a reward that is over-optimised makes them all alike."""
import itertools

import torch
from torch import Tensor


def diversity(videos: Tensor) -> Tensor:
    """Root mean square difference of two videos, the mean over all pairs; 0 for a single one.

    Args:
        videos: [N, ...] in 0..1, all made from one caption.
    """
    pairs = itertools.combinations(videos, 2)
    differences = [(a - b).square().mean().sqrt() for a, b in pairs]
    return torch.stack(differences).mean() if differences else videos.new_zeros(())
