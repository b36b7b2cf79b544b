"""Sketches: edges after PiDiNet (arXiv 2108.07009), cleaned by sketch simplification (arXiv 1703.08966)."""
from collections.abc import Sequence

import torch
from torch import Tensor

from tools.annotators.base import NetworkAnnotator, one_of
from tools.annotators.networks.pidinet import load_pidinet
from tools.annotators.networks.simplification import PUBLISHED, SketchSimplification, load_simplification
from tools.registry import ANNOTATOR

WEIGHTS = "models/table5_pidinet.pth"
SIMPLIFICATION = "models/sketch_simplification_gan.pth"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@ANNOTATOR.register("sketch")
class Sketch(NetworkAnnotator):
    """Strokes bright on black, [F, 1, H, W] in 0..1.

    Args:
        weights: of PiDiNet, `table5_pidinet.pth` of its authors.
        simplification: weights of the cleaning network; None or '' leaves PiDiNet's edges as they are.
        training: which of the published cleaning networks it is, 'gan', 'mse', 'pencil1' or 'pencil2'.
        mean, std: of the pixels that PiDiNet was trained on.
        device: where the networks run.
        chunk: frames at a time.

    Raises:
        UserError: unknown training; weights are missing or another network's.
    """

    def __init__(self, weights: str = WEIGHTS, simplification: str | None = SIMPLIFICATION, training: str = "gan",
                 mean: Sequence[float] = MEAN, std: Sequence[float] = STD, device: str = "cpu", chunk: int = 4):
        super().__init__(device, chunk, SketchSimplification.multiple)
        one_of(training, tuple(PUBLISHED), "sketch: training")
        self.edges = load_pidinet(weights).to(device)
        self.cleaner = load_simplification(simplification, training).to(device) if simplification else None
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))

    def predict(self, frames: Tensor) -> Tensor:
        edges = self.edges((frames - self.mean) / self.std)
        return edges if self.cleaner is None else 1 - self.cleaner(1 - edges)
