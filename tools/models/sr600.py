"""SR600: the text-to-video UNet that refines videos to 1280x720, with a step of FreeU (arXiv 2309.11497) inside."""
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tools.models.blocks import Downsample, Upsample
from tools.models.unet import COMMON_IGNORED, UNetSD, takes_options_of
from tools.registry import MODEL

ROW_PADDING = 2  # rows of zeros above and below every down-sampling; 90 rows become 46, 24 and 13


@dataclass(frozen=True)
class FreeU:
    """What one decoder block does to its two inputs.

    Args:
        backbone: factor on the first half of the current features' channels.
        skip: factor on the lowest frequencies of the encoder's features.
    """

    backbone: float
    skip: float

    def __call__(self, x: Tensor, skip: Tensor) -> Tensor:
        """x, skip [n, c, h, w] -> concatenated on the channels."""
        half = x.shape[1] // 2
        return torch.cat([x[:, :half] * self.backbone, x[:, half:], fourier_filter(skip, 1, self.skip)], dim=1)


# By decoder block, both on the lowest level, as the weights were trained; the paper counts resolution stages instead.
FREEU_BLOCKS = (FreeU(backbone=1.1, skip=0.6), FreeU(backbone=1.2, skip=0.4))


def fourier_filter(x: Tensor, threshold: int, scale: float) -> Tensor:
    """Scale the frequencies -threshold .. threshold - 1 of both axes.

    The rectangle is not symmetric, so that the result of the inverse transform is complex; its real part is taken.

    Args:
        x: [..., h, w]; computed in float32.

    Returns:
        As x, in its type.
    """
    rows, columns = (_lowest(n, threshold, x.device) for n in x.shape[-2:])
    spectrum = torch.fft.fft2(x.float())
    return torch.fft.ifft2(torch.where(rows[:, None] & columns, spectrum * scale, spectrum)).real.to(x.dtype)


def _lowest(size: int, threshold: int, device: torch.device) -> Tensor:
    """Which entries of a discrete transform of `size` values are of frequency -threshold .. threshold - 1."""
    index = torch.arange(size, device=device)
    return (index < threshold) | (index >= size - threshold)


@MODEL.register(ignored=(*COMMON_IGNORED, "y_dim", "concat_dim", "num_tokens", "use_fps_condition"))
class UNetSD_SR600(UNetSD):
    """Video refinement UNet; arguments as `UNetSD`, parameters as `UNetSD_T2VBase`."""

    @takes_options_of(UNetSD)
    def __init__(self, in_dim: int = 7, **options):
        super().__init__(in_dim=in_dim, **options)
        self.build_blocks(in_dim)

    def downsample(self, channels: int) -> nn.Module:
        return Downsample(channels, padding=(ROW_PADDING, 1))

    def upsample(self, channels: int) -> nn.Module:
        return Upsample(channels, crop=ROW_PADDING - 1)

    def merge_skip(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        if index < len(FREEU_BLOCKS):
            return FREEU_BLOCKS[index](x, skip)
        return super().merge_skip(index, x, skip)

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """The least latent size, not below the given one, that comes back through the levels unchanged.

        With L levels a height must be 2 more than a multiple of 2^(L - 1), a width such a multiple: 90x160 of the
        published network is one.
        """
        step = 2 ** (len(self.dim_mult) - 1)
        rest = 2 % step
        return math.ceil((height - rest) / step) * step + rest, math.ceil(width / step) * step

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, x_lr: Tensor | None = None,
                fps: Tensor | None = None) -> Tensor:
        """Predict noise or velocity.

        Args:
            x: [b, in_dim, f, h, w] noisy latents; sizes that do not fit are extended by their last rows and columns
                for the computation.
            t: [b] timesteps. y: [b, L, context_dim] text tokens.
            x_lr, fps: without effect, as in the original.

        Returns:
            [b, out_dim, f, h, w].

        Raises:
            UserError: y is None.
        """
        self.require(y=y)
        height, width = x.shape[-2:]
        rows, columns = self.fitting_size(height, width)
        if (rows, columns) != (height, width):
            x = pad(x, (0, columns - width, 0, rows - height, 0, 0), mode="replicate")
        return self.backbone(x, self.embed_time(t), y)[..., :height, :width]
