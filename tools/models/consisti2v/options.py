"""Constructor options of the ConsistI2V denoiser: the keys of the published `unet/config.json`."""
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from tools.errors import UserError, nearest

FIRST_FRAME_MODES = ("none", "concat", "conv2d", "input_only")
DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
TEMPORAL_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class FixedOptions:
    """Options of diffusers' UNet2DConditionModel that the published files carry at these values; it has no others here.

    Raises:
        UserError: another value.
    """

    act_fn: str = "silu"
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: int = 64
    addition_time_embed_dim: int | None = None
    attention_type: str = "default"
    center_input_sample: bool = False
    class_embed_type: str | None = None
    class_embeddings_concat: bool = False
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    cross_attention_norm: str | None = None
    downsample_padding: int = 1
    dual_cross_attention: bool = False
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    mid_block_only_cross_attention: bool | None = None
    mid_block_scale_factor: float = 1
    mid_block_type: str = "UNetMidBlock2DCrossAttn"
    num_attention_heads: int | None = None
    num_class_embeds: int | None = None
    only_cross_attention: bool = False
    projection_class_embeddings_input_dim: int | None = None
    resnet_out_scale_factor: float = 1.0
    resnet_skip_time_act: bool = False
    resnet_time_scale_shift: str = "default"
    time_cond_proj_dim: int | None = None
    time_embedding_act_fn: str | None = None
    time_embedding_dim: int | None = None
    time_embedding_type: str = "positional"
    timestep_post_act: str | None = None
    upcast_attention: bool = False

    def __post_init__(self):
        for field in fields(FixedOptions):
            value = getattr(self, field.name)
            if value != field.default:
                raise UserError(f"VideoLDMUNet3DConditionModel: {field.name} {value!r} is not supported; "
                                f"the published networks have {field.default!r}")


@dataclass(frozen=True, kw_only=True)
class UNetOptions(FixedOptions):
    """What a ConsistI2V denoiser is made of.

    Args:
        sample_size: latent side that the network was made for; nothing depends on it.
        in_channels, out_channels: latent channels.
        down_block_types, up_block_types: per level, with (`CrossAttn...`) or without transformers; `up` from the
            deepest level to the first.
        block_out_channels: width per level; multiples of `norm_num_groups`, with temporal layers also of 32.
        layers_per_block: residual blocks per level (one more on the way up).
        norm_num_groups, norm_eps: group norms of the spatial layers.
        cross_attention_dim: width of the text tokens.
        attention_head_dim: number of heads (sic, as diffusers named it) of the spatial attentions: per level, or one
            for all.
        use_linear_projection: around the transformers a linear layer, or a 1x1 convolution.
        transformer_layers_per_block: transformer blocks in each transformer.
        dropout: of the spatial residual blocks.
        use_temporal: have temporal layers at all (false: the image model of the first training stage).
        n_frames: frames of a clip, first frame included, that sampling makes by default; the network takes any number.
        n_temp_heads: heads of the temporal attentions.
        first_frame_condition_mode: `none`; `input_only`: the first frame's latent is frame 0 of the input; `concat`:
            and its features are further keys and values of every frame's spatial self-attention; `conv2d`: and every
            block replaces the features of frame 0 by a projection of the latent.
        augment_temporal_attention: temporal self-attention sees the first frame at the 8 positions around its own.
        temp_pos_embedding: `rotary`; anything else is sinusoidal.
        use_frame_stride_condition: the distance of the frames in the source video is embedded beside the timestep.

    Raises:
        UserError: a value that the network cannot have.
    """

    sample_size: int | None = None
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: Sequence[str] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: Sequence[str] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    attention_head_dim: int | Sequence[int] = 8
    use_linear_projection: bool = False
    transformer_layers_per_block: int = 1
    dropout: float = 0.0
    use_temporal: bool = True
    n_frames: int = 8
    n_temp_heads: int = 8
    first_frame_condition_mode: str = "none"
    augment_temporal_attention: bool = False
    temp_pos_embedding: str = "sinusoidal"
    use_frame_stride_condition: bool = False

    def __post_init__(self):
        super().__post_init__()
        _choose("first_frame_condition_mode", self.first_frame_condition_mode, FIRST_FRAME_MODES)
        levels = len(self.block_out_channels)
        for key, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
            if len(getattr(self, key)) != levels:
                raise _mistake(f"{key} has {len(getattr(self, key))} entries for the {levels} levels of "
                               "block_out_channels")
            for kind in getattr(self, key):
                _choose(key, kind, known)
        if len(self.heads) != levels:
            raise _mistake(f"attention_head_dim {self.heads} must have one entry per level, {levels}")
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            self._check_width(width, heads)

    def _check_width(self, width: int, heads: int) -> None:
        divisors = {"norm_num_groups": self.norm_num_groups, "attention_head_dim, the number of heads": heads}
        if self.use_temporal:
            divisors |= {"the groups of the temporal layers": TEMPORAL_GROUPS, "n_temp_heads": self.n_temp_heads}
        for name, divisor in divisors.items():
            if width % divisor:
                raise _mistake(f"block_out_channels: width {width} is no multiple of {divisor} ({name})")

    @property
    def heads(self) -> list[int]:
        """Heads of the spatial attentions per level."""
        heads = self.attention_head_dim
        return [heads] * len(self.block_out_channels) if isinstance(heads, int) else list(heads)

    @property
    def emb_width(self) -> int:
        """Width of the embedding of time and stride."""
        return 4 * self.block_out_channels[0]

    @property
    def takes_first_frame(self) -> bool:
        """Whether the clean first frame is part of the input."""
        return self.first_frame_condition_mode != "none"

    @property
    def shows_first_frame(self) -> bool:
        """Whether spatial self-attention sees the first frame's features."""
        return self.first_frame_condition_mode in ("concat", "conv2d")

    @property
    def rotary(self) -> bool:
        """Whether temporal positions are rotations."""
        return self.temp_pos_embedding == "rotary"

    def as_config(self) -> dict:
        """The options as `unet/config.json` holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _choose(key: str, value: str, known) -> None:
    if value not in known:
        raise _mistake(f"{key} '{value}' must be one of {', '.join(known)}{nearest(value, known)}")


def _mistake(text: str) -> UserError:
    return UserError(f"VideoLDMUNet3DConditionModel: {text}")
