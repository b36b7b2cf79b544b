"""Single blocks and functions whose counterpart here takes the same numbers, by the name that golden cases use."""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tests.replays import LeftOut
from tools.models import blocks, higen, sequence, sr600


@dataclass(frozen=True)
class Counterpart:
    """How a block's recorded constructor arguments become those of ours.

    Attributes:
        factory: our class.
        renamed: their name -> our name.
        only: options that exist here with this one value.
        same: pairs of options that are one here and must agree.
        ignored: options that never had an effect on numbers.
        given: further arguments of ours.
        residual_outside: pattern of submodules that the original recorded with the residual added, which is added
            outside of them here.
    """

    factory: Callable[..., nn.Module]
    renamed: dict[str, str] = field(default_factory=dict)
    only: dict[str, Any] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)
    residual_outside: str = ""

    def __call__(self, config: dict) -> nn.Module:
        """Build ours; LeftOut when the case asks for an option that does not exist here."""
        ours = {}
        for key, value in config.items():
            wanted = self.only.get(key, config.get(self.same.get(key)))
            if key in self.only or key in self.same:
                if value != wanted and value is not None:
                    raise LeftOut(f"option {key} = {value} does not exist here")
            elif key not in self.ignored:
                ours[self.renamed.get(key, key)] = value
        return self.factory(**ours, **self.given)


TEMPORAL = {
    "renamed": {"multiply_zero": "use_image_dataset"},
    "only": {"disable_self_attn": False, "use_linear": False, "only_self_att": True},
    "ignored": ("context_dim",),
}
TEMPORAL_CONV = {"renamed": {"in_dim": "channels"}, "same": {"out_dim": "in_dim"}}
RESAMPLE = {"only": {"use_conv": True, "dims": 2}, "same": {"out_channels": "channels"}}
RES_BLOCK = {"only": {"use_scale_shift_norm": False, "up": False, "down": False, "use_conv": False, "dims": 2},
             "ignored": ("use_checkpoint", "use_temporal_conv")}
STILL = {"still_identity": True}

BLOCKS = {
    "MemoryEfficientCrossAttention": Counterpart(blocks.Attention, ignored=("max_bs",)),
    "FeedForward": Counterpart(blocks.FeedForward),
    "BasicTransformerBlock": Counterpart(blocks.BasicTransformerBlock, ignored=("checkpoint", "gated_ff")),
    "SpatialTransformer": Counterpart(blocks.SpatialTransformer, only={"use_linear": True},
                                      ignored=("use_checkpoint", "dropout")),
    "TemporalTransformer": Counterpart(blocks.TemporalTransformer, **TEMPORAL),
    "TemporalTransformerWoImg": Counterpart(blocks.TemporalTransformer, **TEMPORAL, given=STILL),
    "TemporalConvBlock_v2": Counterpart(blocks.TemporalConv, **TEMPORAL_CONV),
    "TemporalConvBlock_v2WoImg": Counterpart(blocks.TemporalConv, **TEMPORAL_CONV, given=STILL),
    "ResBlock": Counterpart(blocks.ResBlock, **RES_BLOCK),
    "ResBlockWoImg": Counterpart(blocks.ResBlock, **RES_BLOCK, given=STILL),
    "Downsample": Counterpart(blocks.Downsample, **RESAMPLE),
    "Upsample": Counterpart(blocks.Upsample, **RESAMPLE),
    "UpsampleSR600": Counterpart(blocks.Upsample, **RESAMPLE, given={"crop": 1}),
    "TextContextCrossTransformerMultiLayer": Counterpart(higen.TextResampler),
    "TransformerV2": Counterpart(
        sequence.SequenceEncoder, renamed={"dim_head_k": "dim_head"},
        same={"dim_head_v": "dim_head_k", "mlp_dim": "dim"},
        only={"dropout_atte": sequence.DROPOUT, "dropout_ffn": sequence.DROPOUT}, residual_outside="layers.*.0"),
}

FUNCTIONS = {"sinusoidal_embedding": blocks.sinusoidal_embedding, "Fourier_filter": sr600.fourier_filter}
