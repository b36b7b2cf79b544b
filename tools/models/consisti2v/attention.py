"""Attention that looks at the first frame, over positions and over frames (arXiv 2402.04324, section 3.2)."""
import torch
from torch import Tensor

from tools.models.attention import attention
from tools.models.blocks import Attention
from tools.models.consisti2v.positions import PositionalEncoding, RelativePositionBias, RotaryEmbedding

# Rows and columns from a position to the 8 around it, in row-major order.
AROUND = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


class FirstFrameAttention(Attention):
    """Attention over the positions of a frame, whose self-attention may also look at the clip's first frame."""

    def forward(self, x: Tensor, context: Tensor | None = None, frames: int | None = None) -> Tensor:
        """Attend to the context, or to own tokens and, where `frames` is given, to those of the first frame.

        Args:
            x: [(b f), tokens, query_dim].
            context: as in `Attention.forward`.
            frames: f. Every frame, the first one included, then has twice as many keys as tokens.

        Returns:
            [(b f), tokens, query_dim].
        """
        if frames is None:
            return super().forward(x, context)
        k, v = (with_first_frame(part, frames) for part in self.key_value(x))
        return attend(self, self.query(x), k, v)


class TemporalAttention(Attention):
    """Attention over the frames of each position.

    Args:
        query_dim, context_dim, heads, dim_head, dropout: as in `Attention`.
        rotary: positions are rotations of queries and keys, over the first half of the channels and thereby of the
            heads; otherwise sinusoidal codes added to the tokens.
    """

    def __init__(self, query_dim: int, context_dim: int | None = None, heads: int = 8, dim_head: int = 64,
                 dropout: float = 0.0, rotary: bool = True):
        super().__init__(query_dim, context_dim, heads, dim_head, dropout)
        self.rotary = rotary
        if rotary:
            self.rotary_bias = RelativePositionBias(heads)
            self.rotary_emb = RotaryEmbedding(heads * dim_head // 2)
        else:
            self.pos_enc = PositionalEncoding(query_dim)

    def forward(self, x: Tensor, context: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Attend to the context, or to own tokens and, where `size` is given, to the first frame around the position.

        Args:
            x: [(b h w), f, query_dim].
            context: [b, L, context_dim].
            size: (h, w).

        Returns:
            [(b h w), f, query_dim].
        """
        if not self.rotary:
            x = x + self.pos_enc(x.shape[1]).to(x.dtype)
        q = self.query(x)
        if context is None:
            k, v = self.key_value(x)
        else:
            k, v = self.remember("key_value", (context,), lambda: self.key_value(context))
        if self.rotary:
            q = self.rotary_emb(q)
            # The original gave positions to any keys that are as many as the queries, a text of f tokens included.
            k = self.rotary_emb(k) if k.shape[1] == q.shape[1] else k
        if size is not None:
            k, v = self.with_surroundings(k, v, size)
        return attend(self, q, k, v)

    def with_surroundings(self, k: Tensor, v: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Keys and values [(b h w), f + 8, inner] of the frames and of the first frame at the 8 positions around.

        All of the first frame have position 0, so that these are keys and values which other positions have already.
        """
        return with_neighbours(k, size), with_neighbours(v, size)


def attend(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over the heads of `layer` and its output projection.

    Args:
        q: [n, tokens, inner].
        k, v: [m, keys, inner] where m divides n: each run of n / m rows of q shares one row.

    Returns:
        [n, tokens, query_dim].
    """
    rows = q.reshape(k.shape[0], -1, q.shape[-1])
    heads = [part.unflatten(-1, (layer.heads, -1)) for part in (rows, k, v)]
    return layer.output(attention(*heads).reshape(q.shape))


def with_first_frame(x: Tensor, frames: int) -> Tensor:
    """[(b f), n, d] -> [(b f), 2 n, d]: own tokens, then those of the clip's first frame."""
    x = x.unflatten(0, (-1, frames))
    return torch.cat([x, x[:, :1].expand_as(x)], dim=2).flatten(0, 1)


def with_neighbours(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[(b h w), f, d] -> [(b h w), f + 8, d]: own frames, then the first frame at the 8 positions around.

    Beyond the border stand copies of the border.
    """
    first = x[:, 0].unflatten(0, (-1, size[0] * size[1]))
    return torch.cat([x, first[:, neighbour_index(size, x.device)].flatten(0, 1)], dim=1)


def neighbour_index(size: tuple[int, int], device: torch.device) -> Tensor:
    """[h w, 8] numbers, in row-major order, of the positions around each position, clamped to the picture."""
    height, width = size
    offsets = torch.tensor(AROUND, device=device)
    rows = (torch.arange(height, device=device)[:, None] + offsets[:, 0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device)[:, None] + offsets[:, 1]).clamp(0, width - 1)
    return (rows[:, None] * width + columns).flatten(0, 1)
