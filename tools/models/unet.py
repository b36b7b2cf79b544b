"""The one topology of the VGen family: a Stable Diffusion UNet with temporal layers behind every spatial one.

A method's class builds its own embeddings, calls `build_blocks`, and in `forward` says what is embedded, what is
concatenated and what the context is; `backbone` does the rest. Where a method varies a block it overrides one of the
factory methods (`res_block`, `spatial_transformer`, ...), where it varies the decoder `merge_skip`.

Sources: ModelScopeT2V (arXiv 2308.06571); I2VGen-XL (arXiv 2311.04145).
"""
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tools.errors import UserError
from tools.models.blocks import (
    GROUPS,
    RES_EPS,
    Downsample,
    ResBlock,
    SpatialTransformer,
    TemporalTransformer,
    Upsample,
    per_frame,
    silu_mlp,
    sinusoidal_embedding,
    to_channels_last,
    to_frames,
    to_video,
    zero_init,
)
from tools.models.conditions import Remembers

# Keys of published YAML files, and defaults that the original's global UNet section leaks into every network, which
# never had an effect on any of the family.
COMMON_IGNORED = ("config", "hist_dim", "dim_condition", "use_scale_shift_norm", "temporal_attn_times", "use_sim_mask",
                  "inpainting", "p_all_zero", "p_all_keep", "training", "upper_len", "default_fps", "misc_dropout")

GUIDANCE_WIDTH = 320  # of the embedded guidance scale that a distilled network is told


def takes_options_of(parent: type):
    """Decorate an `__init__(self, own, **options)` so that its signature also lists the parent's arguments.

    The registry checks YAML sections against signatures, and a method's file need only state what it adds.
    """

    def decorate(init):
        own = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in own}
        inherited = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(parent.__init__).parameters.values()
                     if p.name not in names]
        init.__signature__ = inspect.Signature([*own, *inherited])
        return init

    return decorate


@dataclass(frozen=True)
class Signals:
    """What the blocks of one forward pass may look at.

    emb [b or (b f), E]: embedding of time and scalar conditions. context [b or (b f), L, context_dim]: cross-attention
    tokens. guide: for methods whose temporal blocks are conditioned.
    """

    batch: int
    emb: Tensor
    context: Tensor
    guide: object = None


class UNetSD(Remembers):
    """Base class of the VGen UNets.

    Args:
        in_dim: latent channels. out_dim: channels predicted.
        dim: base width, a multiple of 32; level i is dim * dim_mult[i] wide.
        context_dim: width of the text tokens.
        num_heads: heads of the first temporal transformer (None: dim // 32); elsewhere channels // head_dim.
        head_dim: width of every head.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_scales: the levels i with 2^-i listed here have transformers.
        dropout: of the residual blocks.
        temporal_attention: build the temporal transformers.
        use_checkpoint: recompute blocks in the backward pass instead of keeping their activations (training mode).
        use_image_dataset: switch the temporal branches off (training on pictures).
        zero_y: [1, L, context_dim] text tokens that stand in where a call gives no text.
        guidance_embedding: be told the guidance to reproduce (`t_w`), as consistency models are (LCM, arXiv
            2310.04378, section 4.2); starts without effect. Published weights have none.

    Attributes:
        null_text_tokens: how many tokens of `zero_y` stand in for a missing text; None: all of them.
    """

    null_text_tokens: int | None = 1

    def __init__(self, in_dim: int = 4, dim: int = 512, context_dim: int = 512, out_dim: int = 6,
                 dim_mult: Sequence[int] = (1, 2, 3, 4), num_heads: int | None = None, head_dim: int = 64,
                 num_res_blocks: int = 3, attn_scales: Sequence[float] = (1 / 2, 1 / 4, 1 / 8), dropout: float = 0.1,
                 temporal_attention: bool = True, use_checkpoint: bool = False, use_image_dataset: bool = False,
                 zero_y: Tensor | None = None, guidance_embedding: bool = False):
        super().__init__()
        self.in_dim, self.dim, self.out_dim, self.context_dim = in_dim, dim, out_dim, context_dim
        self.embed_dim = 4 * dim
        self.dim_mult, self.num_res_blocks, self.attn_scales = tuple(dim_mult), num_res_blocks, tuple(attn_scales)
        self.num_heads, self.head_dim, self.dropout = num_heads or dim // 32, head_dim, dropout
        self.temporal_attention = temporal_attention
        self.use_checkpoint, self.use_image_dataset = use_checkpoint, use_image_dataset
        self.zero_y = zero_y
        self.time_embed = silu_mlp(dim, self.embed_dim, self.embed_dim)
        self.guidance_embed = None
        if guidance_embedding:
            self.guidance_embed = zero_init(nn.Linear(GUIDANCE_WIDTH, dim, bias=False))

    # ---- factories that a method may override

    def res_block(self, dim_in: int, dim_out: int, use_image_dataset: bool) -> nn.Module:
        """A residual block with its temporal convolution."""
        return ResBlock(dim_in, self.embed_dim, self.dropout, dim_out, use_image_dataset=use_image_dataset)

    def spatial_transformer(self, channels: int) -> nn.Module:
        """Attention over positions and to the context."""
        return SpatialTransformer(channels, channels // self.head_dim, self.head_dim, context_dim=self.context_dim)

    def temporal_transformer(self, channels: int, heads: int) -> nn.Module:
        """Attention over frames."""
        return TemporalTransformer(channels, heads, self.head_dim, use_image_dataset=self.use_image_dataset)

    def downsample(self, channels: int) -> nn.Module:
        """Between two levels of the encoder."""
        return Downsample(channels)

    def upsample(self, channels: int) -> nn.Module:
        """Between two levels of the decoder."""
        return Upsample(channels)

    # ---- topology

    def build_blocks(self, in_channels: int) -> None:
        """Build encoder, middle, decoder and output; `in_channels` counts what the method concatenates."""
        widths = [self.dim * m for m in self.dim_mult]
        skips = self._build_encoder(in_channels, widths)
        self.middle_block = nn.ModuleList([self.res_block(widths[-1], widths[-1], self.use_image_dataset),
                                           self.spatial_transformer(widths[-1]), *self._temporal(widths[-1]),
                                           self.res_block(widths[-1], widths[-1], False)])
        self._build_decoder(widths, skips)
        last = nn.Conv2d(widths[0], self.out_dim, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, widths[0], eps=RES_EPS), nn.SiLU(), last)
        to_channels_last(self)

    def _build_encoder(self, in_channels: int, widths: list[int]) -> list[int]:
        """Build `input_blocks`; returns the width of every skip connection."""
        stem = nn.Conv2d(in_channels, self.dim, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([stem, *self._temporal(self.dim, self.num_heads)])])
        skips = [self.dim]
        for level, width in enumerate(widths):
            for _ in range(self.num_res_blocks):
                self.input_blocks.append(self._stage(skips[-1], width, level))
                skips.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(self.downsample(width))
                skips.append(width)
        return skips

    def _build_decoder(self, widths: list[int], skips: list[int]) -> None:
        self.output_blocks = nn.ModuleList()
        current = widths[-1]
        for level in reversed(range(len(widths))):
            for index in range(self.num_res_blocks + 1):
                stage = self._stage(current + skips.pop(), widths[level], level)
                if level > 0 and index == self.num_res_blocks:
                    stage.append(self.upsample(widths[level]))
                self.output_blocks.append(stage)
                current = widths[level]

    def _stage(self, dim_in: int, dim_out: int, level: int) -> nn.ModuleList:
        stage = nn.ModuleList([self.res_block(dim_in, dim_out, self.use_image_dataset)])
        if 2.0 ** -level in self.attn_scales:
            stage.extend([self.spatial_transformer(dim_out), *self._temporal(dim_out)])
        return stage

    def _temporal(self, channels: int, heads: int | None = None) -> list[nn.Module]:
        if not self.temporal_attention:
            return []
        return [self.temporal_transformer(channels, heads or channels // self.head_dim)]

    # ---- what forward passes are made of

    def embed_time(self, t: Tensor, t_w: Tensor | None = None) -> Tensor:
        """Timesteps [b] and the embedded guidance t_w [b, GUIDANCE_WIDTH] -> [b, E].

        Without `guidance_embedding` t_w has no effect.
        """
        waves = sinusoidal_embedding(t, self.dim).to(self.time_embed[0].weight.dtype)
        if self.guidance_embed is not None and t_w is not None:
            waves = waves + self.guidance_embed(t_w.to(waves.dtype))
        return self.time_embed(waves)

    def embed_scalar(self, network: nn.Sequential, values: Tensor) -> Tensor:
        """Scalars [n] (time, fps, motion) -> [n, E] through sinusoids of width dim and a small network."""
        return network(sinusoidal_embedding(values, self.dim).to(network[0].weight.dtype))

    def text_or_null(self, y: Tensor | None, batch: int) -> Tensor:
        """The text tokens y [b, L, d], or the tokens of `zero_y` (by default the first) for every sample.

        Raises:
            UserError: neither y nor zero_y is there.
        """
        if y is not None:
            return y
        if self.zero_y is None:
            raise UserError(f"{type(self).__name__}: a call without text 'y' needs 'zero_y' at construction")
        like = self.time_embed[0].weight
        return self.remember(("zero_y", batch), (self.zero_y,),
                             lambda: self.zero_y[:, :self.null_text_tokens].to(like).expand(batch, -1, -1))

    def require(self, **inputs) -> None:
        """Raise a UserError that names the first input that is None."""
        for name, value in inputs.items():
            if value is None:
                raise UserError(f"{type(self).__name__} needs the input '{name}', which this call did not give")

    def check_size(self, height: int, width: int) -> None:
        """Raise a UserError where the network cannot work at a latent size; the base class works at all of them."""

    def merge_skip(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        """What enters decoder block `index`: the current features and the encoder's, each [(b f), c, h, w]."""
        return torch.cat([x, skip], dim=1)

    def backbone(self, x: Tensor, emb: Tensor, context: Tensor, stem_shift: Tensor | None = None,
                 guide=None) -> Tensor:
        """Run the topology.

        Args:
            x: [b, in_channels, f, h, w]. emb, context, guide: see `Signals`.
            stem_shift: [b, dim, h, w], added to every frame after the first convolution.

        Returns:
            [b, out_dim, f, h, w].
        """
        batch = x.shape[0]
        signals = Signals(batch, emb, context, guide)
        stem, *rest = self.input_blocks[0]
        x = stem(to_frames(x).contiguous(memory_format=torch.channels_last))
        if stem_shift is not None:
            x = x + per_frame(stem_shift, x.shape[0])
        x = self._run(rest, x, signals)
        skips = [x]
        for block in self.input_blocks[1:]:
            x = self._run(block, x, signals)
            skips.append(x)
        x = self._run(self.middle_block, x, signals)
        for index, block in enumerate(self.output_blocks):
            x = self.merge_skip(index, x, skips.pop())
            x = self._run(block, x, signals, size=skips[-1].shape[-2:] if skips else None)
        return to_video(self.out(x), batch).contiguous()

    def _run(self, block, x: Tensor, signals: Signals, size: tuple[int, int] | None = None) -> Tensor:
        """Run one entry of the block lists, recomputing its layers in the backward pass if asked to.

        size: height and width of the skip connection that comes next.
        """
        layers = block if isinstance(block, (nn.ModuleList, list)) else [block]
        recompute = self.use_checkpoint and self.training and torch.is_grad_enabled()
        for layer in layers:
            x = (checkpoint(self.run_layer, layer, x, signals, size, use_reentrant=False) if recompute
                 else self.run_layer(layer, x, signals, size))
        return x

    def run_layer(self, layer: nn.Module, x: Tensor, signals: Signals, size: tuple[int, int] | None = None) -> Tensor:
        """Give a layer what its kind looks at; x is [(b f), c, h, w] before and after."""
        if isinstance(layer, ResBlock):
            return layer(x, signals.emb, signals.batch)
        if isinstance(layer, SpatialTransformer):
            return layer(x, signals.context)
        if isinstance(layer, TemporalTransformer):
            return to_frames(layer(to_video(x, signals.batch)))
        if isinstance(layer, Upsample):
            return layer(x, size)
        return layer(x)
