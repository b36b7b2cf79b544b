"""Key maps between the VGen layout and the diffusers library's: the same networks under other names.

`UNetSD_T2VBase` (and `_SR600`) is `UNet3DConditionModel`, `UNetSD_I2VGen` is `I2VGenXLUNet`, `AutoencoderKL` has the
same name there. A map is a list of `Rule`s, read in either direction by `to_diffusers` and `from_diffusers`.
"""
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.errors import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Change:
    """What happens to a tensor on its way: ours to theirs (one or several tensors), and back."""

    to_theirs: Callable[[Tensor], tuple[Tensor, ...]]
    to_ours: Callable[[tuple[Tensor, ...]], Tensor]


def _scale_second_half(weight: Tensor, factor: float) -> Tensor:
    first, second = weight.chunk(2, dim=1)
    return torch.cat([first, second * factor], dim=1)


COPY = Change(lambda t: (t,), lambda ts: ts[0])
LINEAR_FROM_CONV1D = Change(lambda t: (t[..., 0],), lambda ts: ts[0][..., None])
LINEAR_FROM_CONV2D = Change(lambda t: (t[..., 0, 0],), lambda ts: ts[0][..., None, None])
SPLIT_QKV = Change(lambda t: t.chunk(3), torch.cat)
# VGen adds the picture's features twice, diffusers once: the weights that read them make up for it.
DOUBLE_FEATURES = Change(lambda t: (_scale_second_half(t, 2.0),), lambda ts: _scale_second_half(ts[0], 0.5))


@dataclass(frozen=True)
class Rule:
    """Keys that are `ours` or continue it after a dot correspond to those that do so with `theirs`."""

    ours: str
    theirs: tuple[str, ...]
    change: Change = COPY


def rule(ours: str, *theirs: str, change: Change = COPY) -> Rule:
    """A `Rule`; without `theirs` the names are equal."""
    return Rule(ours, theirs or (ours,), change)


RES_BLOCK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
             "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
UNET_ENDS = (
    rule("time_embed.0", "time_embedding.linear_1"), rule("time_embed.2", "time_embedding.linear_2"),
    rule("input_blocks.0.0", "conv_in"), rule("out.0", "conv_norm_out"), rule("out.2", "conv_out"),
)
_ENCODER = ("local_temporal_encoder.layers.0", "image_latents_temporal_encoder")
I2VGEN = (
    rule("context_embedding"), rule("fps_embedding"),
    rule("local_image_concat", "image_latents_proj_in"),
    rule("local_image_embedding", "image_latents_context_embedding"),
    rule(f"{_ENCODER[0]}.0.norm", f"{_ENCODER[1]}.norm1"),
    rule(f"{_ENCODER[0]}.0.fn.to_qkv.weight", *(f"{_ENCODER[1]}.attn1.to_{x}.weight" for x in "qkv"), change=SPLIT_QKV),
    rule(f"{_ENCODER[0]}.0.fn.to_out.0", f"{_ENCODER[1]}.attn1.to_out.0"),
    rule(f"{_ENCODER[0]}.1.net.0.0", f"{_ENCODER[1]}.ff.net.0.proj"),
    rule(f"{_ENCODER[0]}.1.net.2", f"{_ENCODER[1]}.ff.net.2"),
    rule("input_blocks.0.0.weight", "conv_in.weight", change=DOUBLE_FEATURES),
)
VAE_ENDS = (
    rule("encoder.conv_in"), rule("encoder.conv_out"), rule("decoder.conv_in"), rule("decoder.conv_out"),
    rule("encoder.norm_out", "encoder.conv_norm_out"), rule("decoder.norm_out", "decoder.conv_norm_out"),
    rule("quant_conv"), rule("post_quant_conv"),
)
VAE_RES_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2",
                 "nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# As files from before diffusers 0.15 have it; read, never written.
VAE_OLD_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}


def _residual(ours: str, theirs: str, index: int) -> Iterator[Rule]:
    for our_layer, their_layer in RES_BLOCK.items():
        yield rule(f"{ours}.{our_layer}", f"{theirs}.resnets.{index}.{their_layer}")
    yield rule(f"{ours}.temopral_conv", f"{theirs}.temp_convs.{index}")


def _temporal(ours: str, theirs: str) -> Iterator[Rule]:
    yield rule(ours, theirs)
    for layer in ("proj_in.weight", "proj_out.weight"):
        yield rule(f"{ours}.{layer}", f"{theirs}.{layer}", change=LINEAR_FROM_CONV1D)


def _stage(ours: str, theirs: str, index: int, attention: bool) -> Iterator[Rule]:
    yield from _residual(f"{ours}.0", theirs, index)
    if attention:
        yield rule(f"{ours}.1", f"{theirs}.attentions.{index}")
        yield from _temporal(f"{ours}.2", f"{theirs}.temp_attentions.{index}")


def unet_rules(num_res_blocks: int, attention: Iterable[bool]) -> Iterator[Rule]:
    """Rules of the VGen UNets.

    Args:
        num_res_blocks: per level of the encoder.
        attention: for each level, whether it has transformers.
    """
    attention = list(attention)
    stages = num_res_blocks + 1
    yield from UNET_ENDS
    yield from _temporal("input_blocks.0.1", "transformer_in")
    for level, has_attention in enumerate(attention):
        for index in range(num_res_blocks):
            ours = f"input_blocks.{1 + level * stages + index}"
            yield from _stage(ours, f"down_blocks.{level}", index, has_attention)
        yield rule(f"input_blocks.{(level + 1) * stages}.op", f"down_blocks.{level}.downsamplers.0.conv")
    yield from _stage("middle_block", "mid_block", 0, True)
    yield from _residual("middle_block.3", "mid_block", 1)
    for level, has_attention in enumerate(reversed(attention)):
        for index in range(stages):
            yield from _stage(f"output_blocks.{level * stages + index}", f"up_blocks.{level}", index, has_attention)
        ours = f"output_blocks.{(level + 1) * stages - 1}.{3 if has_attention else 1}.conv"
        yield rule(ours, f"up_blocks.{level}.upsamplers.0.conv")


def vae_rules(levels: int, num_res_blocks: int) -> Iterator[Rule]:
    """Rules of `AutoencoderKL` without attention outside the middle; diffusers counts decoder levels backwards."""
    yield from VAE_ENDS
    for level in range(levels):
        mirrored = levels - 1 - level
        for index in range(num_res_blocks + 1):
            for ours, theirs in VAE_RES_BLOCK.items():
                yield rule(f"encoder.down.{level}.block.{index}.{ours}",
                           f"encoder.down_blocks.{level}.resnets.{index}.{theirs}")
                yield rule(f"decoder.up.{level}.block.{index}.{ours}",
                           f"decoder.up_blocks.{mirrored}.resnets.{index}.{theirs}")
        yield rule(f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv")
        yield rule(f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{mirrored}.upsamplers.0.conv")
    for side in ("encoder", "decoder"):
        for index in (0, 1):
            for ours, theirs in VAE_RES_BLOCK.items():
                yield rule(f"{side}.mid.block_{index + 1}.{ours}", f"{side}.mid_block.resnets.{index}.{theirs}")
        yield rule(f"{side}.mid.attn_1.norm", f"{side}.mid_block.attentions.0.group_norm")
        for ours, theirs in (*VAE_OLD_ATTENTION.items(), *VAE_ATTENTION.items()):
            ours, theirs = f"{side}.mid.attn_1.{ours}", f"{side}.mid_block.attentions.0.{theirs}"
            yield rule(ours, theirs)
            yield rule(f"{ours}.weight", f"{theirs}.weight", change=LINEAR_FROM_CONV2D)


def is_diffusers(state: Iterable[str]) -> bool:
    """Whether keys are diffusers' names."""
    return any(".resnets." in key or key.startswith("time_embedding.") for key in state)


def rules_for(component: str, state: Iterable[str]) -> list[Rule]:
    """The rules that fit a state dict (or its keys), in either layout.

    Args:
        component: registered name of the network here.

    Raises:
        UserError: diffusers has no counterpart.
    """
    if component == "AutoencoderKL":
        levels, blocks = _counts(state, ("encoder.down.{}.", "encoder.down_blocks.{}."),
                                 ("encoder.down.0.block.{}.", "encoder.down_blocks.0.resnets.{}."))
        return list(vae_rules(levels, blocks))
    if component not in ("UNetSD_T2VBase", "UNetSD_SR600", "UNetSD_I2VGen"):
        raise UserError(f"{component} has no counterpart in diffusers; convertible are AutoencoderKL, UNetSD_T2VBase, "
                        "UNetSD_SR600 and UNetSD_I2VGen")
    shared = unet_rules(*(_diffusers_shape(state) if is_diffusers(state) else _vgen_shape(state)))
    # A later rule replaces an earlier one for the same key (conv_in).
    return [*shared, *(I2VGEN if component == "UNetSD_I2VGen" else ())]


def _count(keys: Iterable[str], prefix: str) -> int:
    """How many consecutive numbers, from 0, fill the braces of `prefix` so that some key starts with it."""
    keys, number = list(keys), 0
    while any(key.startswith(prefix.format(number)) for key in keys):
        number += 1
    return number


def _counts(keys: Iterable[str], *alternatives: tuple[str, ...]) -> list[int]:
    return [max(_count(keys, prefix) for prefix in prefixes) for prefixes in alternatives]


def _diffusers_shape(keys: Iterable[str]) -> tuple[int, list[bool]]:
    levels, blocks = _counts(keys, ("down_blocks.{}.",), ("down_blocks.0.resnets.{}.",))
    return blocks, [any(key.startswith(f"down_blocks.{i}.attentions.") for key in keys) for i in range(levels)]


def _vgen_shape(keys: Iterable[str]) -> tuple[int, list[bool]]:
    entries = _count(keys, "input_blocks.{}.")
    downsamplers = [n for n in range(entries) if f"input_blocks.{n}.op.weight" in keys]
    stages = downsamplers[0] if downsamplers else entries
    first_of_level = range(1, entries, stages)
    return stages - 1, [any(key.startswith(f"input_blocks.{n}.1.") for key in keys) for n in first_of_level]


class _Matcher:
    """Finds the rule with the longest matching prefix on one side."""

    def __init__(self, rules: Iterable[Rule], side: str):
        self._table = {}
        for r in rules:
            for position, prefix in enumerate((r.ours,) if side == "ours" else r.theirs):
                self._table[prefix] = (r, position)

    def __call__(self, key: str) -> tuple[Rule, int, str]:
        """The rule, the position among its names and the rest of the key (with its dot)."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            prefix = ".".join(parts[:length])
            if prefix in self._table:
                return *self._table[prefix], key[len(prefix):]
        raise UserError(f"weights: key '{key}' is in neither layout of this network; is it another network's file?")


def key_map(component: str, keys: Iterable[str]) -> dict[str, tuple[tuple[str, ...], Change]]:
    """For every key of ours the corresponding ones of diffusers, and what happens to the tensor.

    Raises:
        UserError: no counterpart of the component, or a key that no rule covers.
    """
    match = _Matcher(rules_for(component, keys), "ours")
    found = ((key, *match(key)) for key in keys)
    return {key: (tuple(name + tail for name in rule.theirs), rule.change) for key, rule, _, tail in found}


def to_diffusers(component: str, state: State) -> State:
    """VGen's layout -> diffusers'; errors as `key_map`."""
    return {name: part for key, (names, change) in key_map(component, state).items()
            for name, part in zip(names, change.to_theirs(state[key]), strict=True)}


def from_diffusers(component: str, state: State) -> State:
    """diffusers' layout -> VGen's; errors as `key_map`."""
    match = _Matcher(rules_for(component, state), "theirs")
    converted = {}
    for key in state:
        found, position, tail = match(key)
        if position == 0:
            converted[found.ours + tail] = found.change.to_ours(tuple(state[name + tail] for name in found.theirs))
    return converted
