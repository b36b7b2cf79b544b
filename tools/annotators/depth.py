"""Depth after MiDaS (DPT-Large, arXiv 2103.13413), VideoComposer's condition `depth`."""
import numpy as np
from torch import Tensor

from tools.annotators.base import NetworkAnnotator, in_grey
from tools.annotators.networks.midas import load_midas
from tools.registry import ANNOTATOR

WEIGHTS = "models/midas_v3_dpt_large.pth"


@ANNOTATOR.register("depth", aliases=["depthmap"])
class Depth(NetworkAnnotator):
    """Inverse depth, larger is nearer, [F, 1, H, W] in 0..clamp: the network's output / std.

    Args:
        weights: VGen's `midas_v3_dpt_large.pth`, or transformers' `hf://Intel/dpt-large/model.safetensors`.
        std: divides the network's output.
        clamp: largest value.
        device: where the network runs.
        chunk: frames at a time.
        network: arguments of `MiDaS`, for weights that are not DPT-Large's.

    Raises:
        UserError: the weights are missing or another network's.
    """

    def __init__(self, weights: str = WEIGHTS, std: float = 20.0, clamp: float = 10.0, device: str = "cpu",
                 chunk: int = 4, network: dict | None = None):
        self.network = load_midas(weights, **network or {}).to(device)
        super().__init__(device, chunk, self.network.multiple)
        self.std, self.clamp = std, clamp

    def predict(self, frames: Tensor) -> Tensor:
        return (self.network(frames * 2 - 1) / self.std).clamp(0, self.clamp)

    def draw(self, maps: Tensor) -> np.ndarray:
        return by_nearness(maps)


def by_nearness(maps: Tensor) -> np.ndarray:
    """Inverse depths [F, 1, H, W] in grey, each frame between its own farthest and nearest; uint8 [F, H, W, 3]."""
    least, most = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return in_grey((maps - least) / (most - least).clamp_min(1e-6))
