"""Blocks of the inflated Stable Diffusion UNets: residual, spatial and temporal layers.

Spatial layers see `[(b f), c, h, w]` with row b_index * f + frame, temporal layers see `[b, c, f, h, w]`. All are
fastest on tensors in channels-last memory, where the changes between the two layouts are views. Module and parameter
names are those of the published checkpoints, the misspelt `temopral_conv` included.

Sources: ModelScopeT2V (arXiv 2308.06571), Latent Diffusion (arXiv 2112.10752).
"""
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, interpolate, linear, pad

from tools.models.attention import attention
from tools.models.conditions import Remembers

GROUPS = 32
RES_EPS = 1e-5
TRANSFORMER_EPS = 1e-6
TEMPORAL_CONV_DROPOUT = 0.1


def sinusoidal_embedding(values: Tensor, dim: int) -> Tensor:
    """[cos(v w_i), sin(v w_i)] with w_i = 10000^(-i / half), half = dim // 2; cosines first.

    Args:
        values: [n] timesteps, frame rates or motion magnitudes, integer or fractional.
        dim: width of the result; an odd width gets a zero column at the end.

    Returns:
        [n, dim] float32, whatever the precision of the network.
    """
    half = dim // 2
    steps = torch.arange(half, device=values.device, dtype=torch.float32)
    angles = torch.outer(values.float(), torch.pow(10000, -steps / half))
    return pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def zero_init(module: nn.Module) -> nn.Module:
    """Set weight and bias to zero: a new branch starts silent."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def silu_mlp(dim_in: int, dim_hidden: int, dim_out: int) -> nn.Sequential:
    """Linear, SiLU, Linear: the embedding network of timesteps, frame rates and image vectors."""
    return nn.Sequential(nn.Linear(dim_in, dim_hidden), nn.SiLU(), nn.Linear(dim_hidden, dim_out))


def to_channels_last(module: nn.Module) -> nn.Module:
    """Lay out the module's convolution weights channels last, in place; returns the module."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
    return module


def to_video(x: Tensor, batch: int) -> Tensor:
    """[(b f), c, h, w] -> [b, c, f, h, w] without a copy."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def to_frames(x: Tensor) -> Tensor:
    """[b, c, f, h, w] -> [(b f), c, h, w]; a view where the memory allows."""
    return x.transpose(1, 2).flatten(0, 1)


def per_frame(x: Tensor, rows: int) -> Tensor:
    """Repeat each row of x [n, ...] in place (sample-major) up to `rows` = n * frames rows."""
    return x if x.shape[0] == rows else x.repeat_interleave(rows // x.shape[0], dim=0)


def add_branch(x: Tensor, layer: nn.Module, silent: bool, *told) -> Tensor:
    """x + layer.branch(x, *told), or x where the branch is switched off.

    With gradients a silent branch adds nothing but its parameters to the graph: distributed training waits for the
    gradient of every one of them.
    """
    if not silent:
        return x + layer.branch(x, *told)
    if not torch.is_grad_enabled():
        return x
    return x + 0 * sum(p.sum() for p in layer.parameters() if p.requires_grad)


class Attention(Remembers):
    """Multi-head attention without bias on q, k, v; self-attention where no context is given.

    Args:
        query_dim: width of the tokens. context_dim: width of the context (None: query_dim).
        heads, dim_head: contiguous slices of the inner width heads * dim_head.
    """

    def __init__(self, query_dim: int, context_dim: int | None = None, heads: int = 8, dim_head: int = 64,
                 dropout: float = 0.0):
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, query_dim), nn.Dropout(dropout))

    def query(self, x: Tensor) -> Tensor:
        """Project tokens to queries, [n, tokens, inner]."""
        return self.to_q(x)

    def key_value(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Project a context to keys and values, each [n, tokens, inner]."""
        return self.to_k(context), self.to_v(context)

    def output(self, x: Tensor) -> Tensor:
        """Project attended values back, [n, tokens, query_dim]."""
        return self.to_out(x)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from x to the context, or to x itself.

        Args:
            x: [n, tokens, query_dim].
            context: [m, L, context_dim] where m divides n: each run of n / m rows shares one row, so that a text
                is projected once per sample and not once per frame.

        Returns:
            [n, tokens, query_dim].
        """
        if context is None:
            k, v = self.key_value(x)
        else:
            k, v = self.remember("key_value", (context,), lambda: self.key_value(context))
        q = self.query(x).reshape(k.shape[0], -1, k.shape[2])
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        return self.output(attention(q, k, v).reshape(*x.shape[:2], -1))


class GEGLU(nn.Module):
    """value * GELU(gate), both from one projection (arXiv 2002.05202)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    """Two layers of width mult * dim, gated (glu) or with plain GELU."""

    def __init__(self, dim: int, dim_out: int | None = None, mult: int = 4, glu: bool = False, dropout: float = 0.0):
        super().__init__()
        hidden = dim * mult
        first = GEGLU(dim, hidden) if glu else nn.Sequential(nn.Linear(dim, hidden), nn.GELU())
        self.net = nn.Sequential(first, nn.Dropout(dropout), nn.Linear(hidden, dim_out or dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Attention over own tokens, attention to the context, gated feed-forward; each pre-normalised and residual.

    Args:
        disable_self_attn: the first attention looks at the context as well.
        attention: class or factory of the two attentions.
    """

    def __init__(self, dim: int, n_heads: int, d_head: int, context_dim: int | None = None,
                 disable_self_attn: bool = False, dropout: float = 0.0, attention=Attention):
        super().__init__()
        self.disable_self_attn = disable_self_attn
        first_dim = context_dim if disable_self_attn else None
        self.attn1 = attention(dim, first_dim, heads=n_heads, dim_head=d_head, dropout=dropout)
        self.ff = FeedForward(dim, glu=True, dropout=dropout)
        self.attn2 = attention(dim, context_dim, heads=n_heads, dim_head=d_head, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [n, tokens, dim]; context as in `Attention.forward`, None for own tokens."""
        x = x + self.attn1(self.norm1(x), context if self.disable_self_attn else None)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer over the positions of each frame, with cross-attention to the text.

    Args:
        block: class or factory of the inner transformer blocks.
    """

    def __init__(self, in_channels: int, n_heads: int, d_head: int, depth: int = 1, context_dim: int | None = None,
                 disable_self_attn: bool = False, block=BasicTransformerBlock):
        super().__init__()
        inner = n_heads * d_head
        self.norm = nn.GroupNorm(GROUPS, in_channels, eps=TRANSFORMER_EPS)
        self.proj_in = nn.Linear(in_channels, inner)
        self.transformer_blocks = nn.ModuleList(
            block(inner, n_heads, d_head, context_dim=context_dim, disable_self_attn=disable_self_attn)
            for _ in range(depth))
        self.proj_out = zero_init(nn.Linear(inner, in_channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [(b f), c, h, w]; context [b or (b f), L, context_dim]."""
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        tokens = self.proj_out(tokens)
        return tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2) + x


class TokenConv1d(nn.Conv1d):
    """A kernel-1 Conv1d (its weight is what checkpoints hold) applied to [n, tokens, channels] as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.squeeze(-1), self.bias)


class TemporalTransformer(nn.Module):
    """Transformer over the frames of each position; both attentions are self-attention, without positions.

    The group norm pools its statistics over all frames, so results depend on the number of frames.

    Args:
        use_image_dataset: the branch contributes nothing (training on pictures).
        still_identity: the branch contributes nothing where there is a single frame (HiGen).
        block: class or factory of the inner transformer blocks.
    """

    def __init__(self, in_channels: int, n_heads: int, d_head: int, depth: int = 1, use_image_dataset: bool = False,
                 still_identity: bool = False, block=BasicTransformerBlock):
        super().__init__()
        inner = n_heads * d_head
        self.use_image_dataset = use_image_dataset
        self.still_identity = still_identity
        self.norm = nn.GroupNorm(GROUPS, in_channels, eps=TRANSFORMER_EPS)
        self.proj_in = TokenConv1d(in_channels, inner)
        self.transformer_blocks = nn.ModuleList(block(inner, n_heads, d_head) for _ in range(depth))
        self.proj_out = zero_init(TokenConv1d(inner, in_channels))

    def run_blocks(self, tokens: Tensor, *told) -> Tensor:
        """tokens [(b h w), f, inner]; told: what `forward` was given besides, for blocks that override this."""
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return tokens

    def branch(self, x: Tensor, *told) -> Tensor:
        """What is added to x [b, c, f, h, w]."""
        b, _, _, h, w = x.shape
        tokens = self.norm(x).permute(0, 3, 4, 2, 1).flatten(0, 2)
        tokens = self.proj_out(self.run_blocks(self.proj_in(tokens), *told))
        return tokens.unflatten(0, (b, h, w)).permute(0, 4, 3, 1, 2)

    def forward(self, x: Tensor, *told) -> Tensor:
        """x [b, c, f, h, w]; told: further inputs of the blocks, where a method's blocks have some."""
        return add_branch(x, self, self.use_image_dataset or (self.still_identity and x.shape[2] == 1), *told)


class FrameConv3d(nn.Conv3d):
    """A (3, 1, 1) Conv3d (its weight is what checkpoints hold) applied to [b, c, f, positions] as a faster Conv2d."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight.squeeze(-1), self.bias, padding=(1, 0))


class TemporalConv(nn.Module):
    """Four normalised convolutions over three frames each, added to the input (zero padding in time).

    Args: see `TemporalTransformer` for the two switches.
    """

    def __init__(self, channels: int, dropout: float = TEMPORAL_CONV_DROPOUT, use_image_dataset: bool = False,
                 still_identity: bool = False):
        super().__init__()
        self.use_image_dataset = use_image_dataset
        self.still_identity = still_identity
        self.conv1 = self._stage(channels)
        self.conv2 = self._stage(channels, dropout)
        self.conv3 = self._stage(channels, dropout)
        self.conv4 = self._stage(channels, dropout)
        zero_init(self.conv4[-1])

    @staticmethod
    def _stage(channels: int, dropout: float | None = None) -> nn.Sequential:
        drop = [] if dropout is None else [nn.Dropout(dropout)]
        return nn.Sequential(nn.GroupNorm(GROUPS, channels, eps=RES_EPS), nn.SiLU(), *drop, FrameConv3d(channels))

    def branch(self, x: Tensor) -> Tensor:
        """What is added to x [b, c, f, h, w]."""
        y = self.conv4(self.conv3(self.conv2(self.conv1(x.flatten(3)))))
        return y.unflatten(3, x.shape[3:])

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, f, h, w]."""
        return add_branch(x, self, self.use_image_dataset or (self.still_identity and x.shape[2] == 1))


class ResBlock(nn.Module):
    """Two convolutions with the embedding added between them, then the temporal convolution.

    Args:
        emb_channels: width of the timestep embedding.
        use_image_dataset, still_identity: as in `TemporalTransformer`, for the temporal convolution.
    """

    def __init__(self, channels: int, emb_channels: int, dropout: float, out_channels: int | None = None,
                 use_image_dataset: bool = False, still_identity: bool = False):
        super().__init__()
        out_channels = out_channels or channels
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, channels, eps=RES_EPS), nn.SiLU(),
                                       nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, out_channels, eps=RES_EPS), nn.SiLU(), nn.Dropout(dropout),
                                        zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        self.skip_connection = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)
        self.temopral_conv = TemporalConv(out_channels, use_image_dataset=use_image_dataset,
                                          still_identity=still_identity)

    def forward(self, x: Tensor, emb: Tensor, batch_size: int) -> Tensor:
        """x [(b f), c, h, w]; emb [b or (b f), emb_channels]; batch_size b."""
        h = self.in_layers(x)
        shift = per_frame(self.emb_layers(emb), h.shape[0]).to(h.dtype)
        h = self.out_layers(h + shift[:, :, None, None])
        return to_frames(self.temopral_conv(to_video(self.skip_connection(x) + h, batch_size)))


class Downsample(nn.Module):
    """Halve height and width. padding: rows and columns (SR600: (2, 1))."""

    def __init__(self, channels: int, padding: int | tuple[int, int] = 1):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width (nearest), then convolve. crop: rows dropped at top and bottom first (SR600: 1).

    An odd side, halved on the way down, comes back one too large; `size` says which size to enlarge to instead.
    """

    def __init__(self, channels: int, crop: int = 0):
        super().__init__()
        self.crop = crop
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        doubled = size is None or self.crop
        x = interpolate(x, **({"scale_factor": 2} if doubled else {"size": tuple(size)}), mode="nearest")
        return self.conv(x[:, :, self.crop:x.shape[2] - self.crop])
