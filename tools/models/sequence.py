"""The small encoder that mixes condition features along the frames (I2VGen-XL, VideoComposer)."""
from torch import Tensor, nn

from tools.models.attention import attention
from tools.models.blocks import FeedForward

DROPOUT = 0.05


class _FusedAttention(nn.Module):
    """Self-attention with one projection for q, k and v (rows in this order, no bias)."""

    def __init__(self, dim: int, heads: int, dim_head: int):
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        single = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if single else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(DROPOUT))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, dim=-1))
        return self.to_out(attention(q, k, v).flatten(2))


class _PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class SequenceEncoder(nn.Module):
    """`depth` times: x + attention(norm(x)), then x + feed_forward(x) without a norm.

    Args:
        dim: width of the tokens. heads, dim_head: of the attention. depth: number of layers.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([_PreNorm(dim, _FusedAttention(dim, heads, dim_head)), FeedForward(dim, dropout=DROPOUT)])
            for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """x [n, tokens, dim]."""
        for attend, feed_forward in self.layers:
            x = x + attend(x)
            x = x + feed_forward(x)
        return x
