"""Transformers over positions and over frames, under diffusers' names."""
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tools.models.blocks import TRANSFORMER_EPS, Attention, FeedForward
from tools.models.consisti2v.attention import FirstFrameAttention, TemporalAttention


def clamped(alpha: nn.Parameter) -> Tensor:
    """The mixing weight alpha, brought back into [0, 1].

    The parameter itself is changed: an optimiser that pushes it beyond a border must not leave it there, where a
    clamped copy would have no gradient.
    """
    with torch.no_grad():
        alpha.clamp_(0, 1)
    return alpha


class PointwiseConv(nn.Conv2d):
    """A 1x1 Conv2d (its weight is what checkpoints hold) applied to [n, tokens, channels] as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.flatten(1), self.bias)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, gated feed-forward; each pre-normalised and residual.

    Args:
        dim: width of the tokens.
        context_dim: width of the text.
        attention: `(query_dim, context_dim) -> Attention`.
    """

    def __init__(self, dim: int, context_dim: int, attention: Callable[[int, int | None], Attention]):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = attention(dim, None)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = attention(dim, context_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, glu=True)

    def forward(self, x: Tensor, context: Tensor, **first_frame) -> Tensor:
        """x [n, tokens, dim]; context as in `Attention.forward`; first_frame: what self-attention is told about it."""
        x = x + self.attn1(self.norm1(x), **first_frame)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class _Transformer(nn.Module):
    """Group norm, projection, transformer blocks, projection.

    Args:
        channels: width. context_dim: width of the text tokens.
        groups: of the norm, whose statistics are those of one frame.
        use_linear: the projections are linear layers; otherwise 1x1 convolutions.
        depth: number of transformer blocks.
        attention: as in `TransformerBlock`.
    """

    def __init__(self, channels: int, context_dim: int, groups: int, use_linear: bool, depth: int,
                 attention: Callable[[int, int | None], Attention]):
        super().__init__()
        projection = nn.Linear if use_linear else PointwiseConv
        self.norm = nn.GroupNorm(groups, channels, eps=TRANSFORMER_EPS)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, context_dim, attention)
                                                for _ in range(depth))
        self.proj_out = projection(channels, channels)

    def run(self, tokens: Tensor, context: Tensor, **first_frame) -> Tensor:
        """Normalised tokens [n, tokens, channels] through projections and blocks."""
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, **first_frame)
        return self.proj_out(tokens)


class SpatialTransformer(_Transformer):
    """Transformer over the positions of each frame.

    Args:
        heads: of both attentions.
        first_frame: self-attention also looks at the clip's first frame.
        channels, context_dim, groups, use_linear, depth: see `_Transformer`.
    """

    def __init__(self, channels: int, context_dim: int, heads: int, groups: int = 32, use_linear: bool = False,
                 depth: int = 1, first_frame: bool = False):
        def attention(query_dim: int, width: int | None) -> Attention:
            return FirstFrameAttention(query_dim, width, heads, channels // heads)

        super().__init__(channels, context_dim, groups, use_linear, depth, attention)
        self.first_frame = first_frame

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w]; context [b or (b f), L, context_dim]; frames f."""
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        tokens = self.run(tokens, context, frames=frames if self.first_frame else None)
        return x + tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class TemporalTransformer(_Transformer):
    """Transformer over the frames of each position, mixed in with weight 1 - alpha (at first nothing).

    Args:
        heads, rotary: see `TemporalAttention`.
        neighbours: self-attention also looks at the first frame around the position.
        channels, context_dim, groups, use_linear, depth: see `_Transformer`.
    """

    def __init__(self, channels: int, context_dim: int, heads: int, groups: int = 32, use_linear: bool = False,
                 depth: int = 1, rotary: bool = True, neighbours: bool = False):
        def attention(query_dim: int, width: int | None) -> Attention:
            return TemporalAttention(query_dim, width, heads, channels // heads, rotary=rotary)

        super().__init__(channels, context_dim, groups, use_linear, depth, attention)
        self.neighbours = neighbours
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w]; context [b or (b f), L, context_dim], of each clip the first row; frames f."""
        batch, size = x.shape[0] // frames, x.shape[2:]
        if context.shape[0] != batch:
            context = context[::context.shape[0] // batch]
        tokens = self.norm(x).unflatten(0, (batch, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tokens = self.run(tokens, context, size=tuple(size) if self.neighbours else None)
        branch = tokens.unflatten(0, (batch, *size)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return x + (1 - clamped(self.alpha)) * branch
