"""Sketch simplification (Simo-Serra et al., SIGGRAPH 2016; arXiv 1703.08966): rough drawings to clean lines."""
from typing import NamedTuple

from torch import Tensor, nn

from tools.checkpoint import load_state
from tools.frozen import load_frozen, on_meta


class Pixels(NamedTuple):
    """Mean and standard deviation of the drawings that a published network was trained on, paper at 1."""

    mean: float
    std: float


PUBLISHED = {
    "gan": Pixels(0.9664114577640158, 0.0858381272736797),
    "mse": Pixels(0.9664423107454593, 0.08583666033640507),
    "pencil1": Pixels(0.9817833515894078, 0.0925009022585048),
    "pencil2": Pixels(0.9851298627337799, 0.07418377454883571),
}
DOWN, KEEP, UP = 2, 1, -2  # of the size, by a layer
# (channels, change of size) of the layers; the first has kernels of 5 pixels, those that double the size of 4.
LAYERS = ((48, DOWN), (128, KEEP), (128, KEEP), (128, DOWN), (256, KEEP), (256, KEEP), (256, DOWN), (512, KEEP),
          (1024, KEEP), (1024, KEEP), (1024, KEEP), (1024, KEEP), (512, KEEP), (256, KEEP), (256, UP), (256, KEEP),
          (128, KEEP), (128, UP), (128, KEEP), (48, KEEP), (48, UP), (24, KEEP), (1, KEEP))


class SketchSimplification(nn.Module):
    """Line drawings, cleaned.

    Args:
        mean, std: of the drawings in training, see PUBLISHED.

    Attributes:
        multiple: sides of pictures must be multiples of this.
    """

    multiple = 8

    def __init__(self, mean: float = PUBLISHED["gan"].mean, std: float = PUBLISHED["gan"].std):
        super().__init__()
        self.mean, self.std = mean, std
        layers, last = [], 1
        for channels, change in LAYERS:
            layers += [_layer(last, channels, change, 5 if last == 1 else 3), nn.ReLU(inplace=True)]
            last = channels
        self.layers = nn.Sequential(*layers[:-1], nn.Sigmoid())

    def forward(self, drawings: Tensor) -> Tensor:
        """[n, 1, H, W] in 0..1, dark strokes on light paper, H and W multiples of 8, to the same."""
        return self.layers((drawings - self.mean) / self.std)


def _layer(in_channels: int, out_channels: int, change: int, kernel: int) -> nn.Module:
    if change == UP:
        return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
    return nn.Conv2d(in_channels, out_channels, kernel, stride=change, padding=kernel // 2)


def load_simplification(path: str, training: str = "gan") -> SketchSimplification:
    """The network with the weights of a file, frozen.

    Args:
        path: a local file or hub name.
        training: which of PUBLISHED the file is.

    Raises:
        UserError: the file is missing or holds another network.
    """
    network = on_meta(SketchSimplification, **PUBLISHED[training]._asdict())
    return load_frozen(network, load_state(path), f"sketch simplification: '{path}'")
