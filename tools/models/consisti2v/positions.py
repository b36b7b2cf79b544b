"""Where a frame stands in the clip: rotations (arXiv 2104.09864) or sinusoids."""
import torch
from torch import Tensor, nn

from tools.errors import UserError

BASE = 10000
BIAS_BUCKETS = 32
MAX_POSITIONS = 512


class RotaryEmbedding(nn.Module):
    """Turns pairs of neighbouring channels by an angle that grows with the position.

    The frequencies are parameters and were trained with the published weights, so that the formula gives no more than
    their initial values.

    Args:
        dim: the first `dim` channels turn, further ones stay as they are.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.freqs = nn.Parameter(BASE ** (-torch.arange(0, dim, 2).float() / dim), requires_grad=False)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """x [..., n, c] turned by its positions [n], 0..n-1 where none are given; angles are float32 throughout."""
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        angles = positions.float()[:, None] * self.freqs.float()
        cos, sin = angles.cos(), angles.sin()
        turning, still = x.split([2 * len(self.freqs), x.shape[-1] - 2 * len(self.freqs)], dim=-1)
        even, odd = turning.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
        return torch.cat([turned.to(x.dtype), still], dim=-1)


class RelativePositionBias(nn.Module):
    """A table of the published checkpoints that no computation reads; it is not trained."""

    def __init__(self, heads: int):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BIAS_BUCKETS, heads).requires_grad_(False)


class PositionalEncoding(nn.Module):
    """[sin(p / w_0), cos(p / w_0), sin(p / w_1), ...] with w_i = 10000^(i / dim).

    `dummy` has no function and is not trained; the published layout holds it.

    Args:
        dim: width, even.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.dummy = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, length: int) -> Tensor:
        """Codes [length, dim] of positions 0..length-1, float32.

        Raises:
            UserError: more than 512 positions.
        """
        if length > MAX_POSITIONS:
            raise UserError(f"{length} frames: sinusoidal temporal positions end at {MAX_POSITIONS}")
        device = self.dummy.device
        wavelengths = BASE ** (torch.arange(self.dim // 2, device=device).float() / self.dim)
        angles = torch.arange(length, device=device).float()[:, None] / wavelengths
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
