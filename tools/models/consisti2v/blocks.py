"""Levels of the ConsistI2V UNet: Stable Diffusion's layers, each followed by a temporal one."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu
from torch.utils.checkpoint import checkpoint

from tools.models.blocks import TRANSFORMER_EPS, FrameConv3d, Upsample, to_frames, to_video
from tools.models.consisti2v.options import TEMPORAL_GROUPS, UNetOptions
from tools.models.consisti2v.transformers import SpatialTransformer, TemporalTransformer, clamped

IDLE_EMBEDDING = 512


@dataclass(frozen=True)
class Signals:
    """What the blocks of one forward pass may look at.

    frames: f. emb: [(b f), E] embedding of time and stride. context: [b, L, d] text. first_frame: its latent
    [b, 4, 1, h, w], or None. recompute: layers in the backward pass instead of keeping their activations.
    """

    frames: int
    emb: Tensor
    context: Tensor
    first_frame: Tensor | None = None
    recompute: bool = False


class TemporalResnetBlock(nn.Module):
    """Two convolutions over three frames each, mixed in with weight 1 - alpha (at first nothing).

    The statistics of the norms are those of one frame. `time_emb_proj` has no function and is not trained; the
    published layout holds it.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.norm1 = nn.GroupNorm(TEMPORAL_GROUPS, channels, eps=TRANSFORMER_EPS)
        self.conv1 = FrameConv3d(channels)
        self.time_emb_proj = nn.Linear(IDLE_EMBEDDING, channels).requires_grad_(False)
        self.norm2 = nn.GroupNorm(TEMPORAL_GROUPS, channels, eps=TRANSFORMER_EPS)
        self.conv2 = FrameConv3d(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w]; frames f."""
        h = x
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            video = to_video(silu(norm(h)), x.shape[0] // frames)
            h = to_frames(conv(video.flatten(3)).unflatten(3, x.shape[2:]))
        return x + (1 - clamped(self.alpha)) * h


class Level(nn.Module):
    """Layers of one width: each a residual block, its temporal convolution and, where there are, two transformers.

    Args:
        options: of the whole network.
        inputs: width that enters each residual block.
        width: that leaves them.
        heads: of the spatial attentions; None for a level without transformers.
        entry: width that enters the level.
        transformers: how many layers have them (None: all).
        temporal_attention: whether they include the temporal one.
        samplers: further modules by name.
        emb_width: width of the embedding (None: as the options say).
    """

    def __init__(self, options: UNetOptions, inputs: list[int], width: int, heads: int | None, entry: int,
                 transformers: int | None = None, temporal_attention: bool = True,
                 samplers: dict[str, nn.Module] | None = None, emb_width: int | None = None):
        super().__init__()
        samplers = samplers or {}
        count = len(inputs) if transformers is None else transformers
        parts = {name: [module] for name, module in samplers.items()}
        parts["resnets"] = [_resnet(options, dim, width, emb_width or options.emb_width) for dim in inputs]
        if options.use_temporal:
            parts["conv3ds"] = [TemporalResnetBlock(width) for _ in inputs]
        if heads is not None:
            parts["attentions"] = [_spatial_transformer(options, width, heads) for _ in range(count)]
        if heads is not None and options.use_temporal and temporal_attention:
            parts["tempo_attns"] = [_temporal_transformer(options, width) for _ in range(count)]
        self.writes_first_frame = options.first_frame_condition_mode == "conv2d"
        for name in _order(samplers, has_transformers=heads is not None):
            if name in parts:
                self.add_module(name, nn.ModuleList(parts[name]))
            elif name == "first_frame_conv" and self.writes_first_frame:
                self.first_frame_conv = nn.Conv2d(options.in_channels, entry, 1)

    def enter(self, x: Tensor, signals: Signals) -> Tensor:
        """The features [(b f), entry, h, w] with which the level starts.

        In mode `conv2d` those of frame 0 are the projected latent. The original overwrote them in place; the network
        therefore keeps what this returns as skip connection.
        """
        if not self.writes_first_frame:
            return x
        latent = interpolate(signals.first_frame[:, :, 0], size=x.shape[-2:], mode="nearest")
        frames = x.unflatten(0, (-1, signals.frames))
        return torch.cat([self.first_frame_conv(latent).unsqueeze(1), frames[:, 1:]], dim=1).flatten(0, 1)

    def layer(self, index: int, x: Tensor, signals: Signals) -> Tensor:
        """Layer number `index` on x [(b f), c, h, w]."""
        if signals.recompute:
            return checkpoint(self._layer, index, x, signals, use_reentrant=False)
        return self._layer(index, x, signals)

    def _layer(self, index: int, x: Tensor, signals: Signals) -> Tensor:
        x = self.resnets[index](x, signals.emb)
        for convolution in self._at("conv3ds", index):
            x = convolution(x, signals.frames)
        for transformer in (*self._at("attentions", index), *self._at("tempo_attns", index)):
            x = transformer(x, signals.context, signals.frames)
        return x

    def _at(self, name: str, index: int) -> list[nn.Module]:
        """The module of this kind that layer `index` has, if it has one."""
        return list(getattr(self, name, ()))[index:index + 1]


class DownLevel(Level):
    """A level of the encoder; all but the last halve the size at their end."""

    def __init__(self, options: UNetOptions, dim: int, width: int, heads: int | None, last: bool,
                 emb_width: int | None = None):
        super().__init__(options, [dim] + [width] * (options.layers_per_block - 1), width, heads, entry=dim,
                         samplers={} if last else {"downsamplers": _downsample(width)}, emb_width=emb_width)

    def forward(self, x: Tensor, signals: Signals) -> tuple[Tensor, list[Tensor]]:
        """-> what leaves the level, and the skip connections."""
        skips = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, signals)
            skips.append(x)
        for sampler in getattr(self, "downsamplers", ()):
            x = sampler(x)
            skips.append(x)
        return x, skips


class MiddleLevel(Level):
    """Two layers between encoder and decoder; the first has a spatial transformer, none a temporal one."""

    def __init__(self, options: UNetOptions, width: int, heads: int):
        super().__init__(options, [width] * 2, width, heads, entry=width, transformers=1, temporal_attention=False)

    def forward(self, x: Tensor, signals: Signals) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.layer(index, x, signals)
        return x


class UpLevel(Level):
    """A level of the decoder; all but the last enlarge at their end.

    Args:
        dim: width that enters.
        skips: widths of the skip connections in their order of use.
    """

    def __init__(self, options: UNetOptions, dim: int, skips: list[int], width: int, heads: int | None, last: bool):
        widths = [dim] + [width] * (len(skips) - 1)
        super().__init__(options, [a + b for a, b in zip(widths, skips, strict=True)], width, heads, entry=dim,
                         samplers={} if last else {"upsamplers": Upsample(width)})

    def forward(self, x: Tensor, skips: list[Tensor], signals: Signals) -> Tensor:
        """Takes its skip connections from the end of `skips`; enlarges to the size of the one that comes next."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], dim=1), signals)
        for sampler in getattr(self, "upsamplers", ()):
            x = sampler(x, skips[-1].shape[-2:])
        return x


def _order(samplers: dict, has_transformers: bool) -> list[str]:
    """Names of a level's modules in the order of the published parameters, which optimiser states are numbered by."""
    if has_transformers:
        return ["first_frame_conv", "attentions", "resnets", *samplers, "conv3ds", "tempo_attns"]
    return ["resnets", *samplers, "first_frame_conv", "conv3ds"]


def _resnet(options: UNetOptions, dim: int, width: int, emb_width: int) -> nn.Module:
    # Imported where it is needed: diffusers takes seconds, which runs without this network need not spend.
    from diffusers.models.resnet import ResnetBlock2D
    return ResnetBlock2D(in_channels=dim, out_channels=width, temb_channels=emb_width, eps=options.norm_eps,
                         groups=options.norm_num_groups, dropout=options.dropout)


def _downsample(width: int) -> nn.Module:
    from diffusers.models.downsampling import Downsample2D
    return Downsample2D(width, use_conv=True, name="op")


def _spatial_transformer(options: UNetOptions, width: int, heads: int) -> SpatialTransformer:
    return SpatialTransformer(width, options.cross_attention_dim, heads, options.norm_num_groups,
                              options.use_linear_projection, options.transformer_layers_per_block,
                              first_frame=options.shows_first_frame)


def _temporal_transformer(options: UNetOptions, width: int) -> TemporalTransformer:
    return TemporalTransformer(width, options.cross_attention_dim, options.n_temp_heads, options.norm_num_groups,
                               options.use_linear_projection, options.transformer_layers_per_block,
                               rotary=options.rotary, neighbours=options.augment_temporal_attention)
