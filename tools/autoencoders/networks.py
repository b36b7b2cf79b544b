"""Convolutional encoder and decoder of the latent diffusion autoencoder (Rombach et al. 2022, arXiv:2112.10752).

Images are [N, C, H, W] throughout. Parameter names are those of the published checkpoints, where the levels of the
decoder are numbered like the encoder's: `up.<last>` runs first.
"""
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.errors import UserError, nearest
from tools.models.attention import attention

GROUPS = 32
# Keys that published YAML files carry and that no network ever read.
WITHOUT_EFFECT = frozenset({"video_kernel_size", "use_vid_decoder"})


@dataclass(frozen=True)
class NetworkOptions:
    """What a YAML file may say under `ddconfig`; defaults apply where it says nothing.

    Attributes:
        ch: base width; level i has ch * ch_mult[i] channels, a multiple of 32.
        out_ch: channels of the decoded image.
        ch_mult: width of each level in units of `ch`; each level but the last halves the image.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
        attn_resolutions: nominal widths in pixels at which a level has self-attention; nominal means that a level's
            width is resolution / 2^i, whatever the size of the image that comes in.
        dropout: probability, inside residual blocks.
        resamp_with_conv: change of resolution through a convolution; otherwise average pooling and plain upsampling.
        in_channels: channels of the encoded image.
        resolution: nominal image width in pixels.
        z_channels: channels of the decoder's input; the encoder gives twice as many, mean and log-variance.
        double_z: must be true.
        use_linear_attn, attn_type: only the plain attention of the published weights is there.
        give_pre_end: the decoder returns its features before the last normalisation.
        tanh_out: the decoder ends in a tanh.
    """

    ch: int
    out_ch: int
    num_res_blocks: int
    in_channels: int
    resolution: int
    z_channels: int
    attn_resolutions: tuple[int, ...] = ()
    ch_mult: tuple[int, ...] = (1, 2, 4, 8)
    dropout: float = 0.0
    resamp_with_conv: bool = True
    double_z: bool = True
    use_linear_attn: bool = False
    attn_type: str = "vanilla"
    give_pre_end: bool = False
    tanh_out: bool = False

    @classmethod
    def from_section(cls, section: dict) -> "NetworkOptions":
        """Check a `ddconfig` section.

        Raises:
            UserError: an unknown or missing key, or a value that no network can be built from.
        """
        known = {field.name: field for field in fields(cls)}
        for key in section:
            if key not in known and key not in WITHOUT_EFFECT:
                raise UserError(f"auto_encoder.ddconfig: unknown key '{key}'{nearest(key, known)}")
        required = ("ch", "out_ch", "num_res_blocks", "in_channels", "resolution", "z_channels")
        for key in required:
            if key not in section:
                raise UserError(f"auto_encoder.ddconfig: missing key '{key}'")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items() if k in known}
        options = cls(**values)
        options.validate()
        return options

    def validate(self) -> None:
        """Raise UserError for a combination that cannot be built."""
        if not self.double_z:
            raise UserError("auto_encoder.ddconfig: double_z must be true: the encoder gives mean and log-variance")
        if self.use_linear_attn or self.attn_type not in ("vanilla", "vanilla-xformers"):
            raise UserError(f"auto_encoder.ddconfig: attention '{'linear' if self.use_linear_attn else self.attn_type}'"
                            " is not available; use attn_type: vanilla")
        narrow = [width for width in self.widths if width <= 0 or width % GROUPS]
        if not self.ch_mult or narrow:
            raise UserError(f"auto_encoder.ddconfig: ch * ch_mult must be multiples of {GROUPS} (group norm), "
                            f"not {self.ch} * {list(self.ch_mult)}")

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.ch * factor for factor in self.ch_mult]

    def has_attention(self, level: int) -> bool:
        """Whether the level's nominal resolution is one of `attn_resolutions`."""
        return self.resolution // 2**level in self.attn_resolutions


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups with the autoencoder's epsilon, 1e-6."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Self-attention of one head over all pixels, with a residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # [N, C, H, W] -> [N, H W, 1 head, C]; a view where the image is stored channels last.
        q, k, v = (layer(h).flatten(2).transpose(1, 2).unsqueeze(2) for layer in (self.q, self.k, self.v))
        attended = attention(q, k, v).squeeze(2).transpose(1, 2)
        return x + self.proj_out(attended.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Half the size; the convolution sees one row of zeros below and one column to the right, none above and left."""

    def __init__(self, channels: int, with_conv: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size, by repetition of pixels and a convolution."""

    def __init__(self, channels: int, with_conv: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x if self.conv is None else self.conv(x)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where the options ask for it."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, attention: bool, dropout: float):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, dropout) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in range(blocks if attention else 0))

    def step(self, j: int, x: Tensor) -> Tensor:
        """Block j and its attention."""
        x = self.block[j](x)
        return self.attn[j](x) if self.attn else x

    def forward(self, x: Tensor) -> Tensor:
        for j in range(len(self.block)):
            x = self.step(j, x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Image [N, in_channels, H, W] -> moments [N, 2 z_channels, h, w] with h = H / 2^(levels - 1), rounded down."""

    def __init__(self, options: NetworkOptions):
        super().__init__()
        o, widths = options, options.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(o.in_channels, o.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level(widths[i - 1] if i else o.ch, width, o.num_res_blocks, o.has_attention(i), o.dropout)
            level.downsample = Downsample(width, o.resamp_with_conv) if i < last else None
            self.down.append(level)
        self.mid = Middle(widths[-1], o.dropout)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * o.z_channels, 3, padding=1)

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the input convolution, then every block and every downsampling, from fine to coarse."""
        h = self.conv_in(x)
        yield h
        for level in self.down:
            for j in range(len(level.block)):
                h = level.step(j, h)
                yield h
            if level.downsample is not None:
                h = level.downsample(h)
                yield h

    def head(self, x: Tensor) -> Tensor:
        """Coarsest features -> moments [N, 2 z_channels, h, w]."""
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))

    def forward(self, x: Tensor) -> Tensor:
        coarsest = deque(self.features(x), maxlen=1)  # a list of them all would cost the memory of training
        return self.head(coarsest.pop())


class Decoder(nn.Module):
    """Latents [N, z_channels, h, w] -> image [N, out_ch, 2^(levels - 1) h, 2^(levels - 1) w]."""

    def __init__(self, options: NetworkOptions):
        super().__init__()
        o, widths = options, options.widths
        last = len(widths) - 1
        self.give_pre_end, self.tanh_out = o.give_pre_end, o.tanh_out
        self.conv_in = nn.Conv2d(o.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], o.dropout)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level(widths[min(i + 1, last)], width, o.num_res_blocks + 1, o.has_attention(i), o.dropout)
            level.upsample = Upsample(width, o.resamp_with_conv) if i else None
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], o.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
            if level.upsample is not None:
                h = level.upsample(h)
        if self.give_pre_end:
            return h
        h = self.conv_out(F.silu(self.norm_out(h)))
        return torch.tanh(h) if self.tanh_out else h
