"""LoRA weights as files: read in every layout that users have, written in two, merged into a network with scales.

Layouts of the pair that changes layer L (`down` [r, in], `up` [out, r]):

- published (InstructVideo): `L_lora.down_linear.weight`, in a whole checkpoint or alone;
- peft and diffusers: `L.lora_A.weight`, with a prefix (`unet.`, `base_model.model.`), L by its name here or by
  diffusers' name of it; older diffusers files have `L.lora.down.weight` or `...processor.L_lora.down.weight`.

In memory and in the files written here the factor alpha / r is part of `up`. Files of others bring it along as
`L.alpha`, in diffusers' safetensors header or in peft's `adapter_config.json`; it is 1 where they say nothing.
"""
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tools import checkpoint
from tools.errors import UserError, nearest
from tools.models.diffusers_keys import key_map
from tools.models.lora import SUFFIX, is_lora_key, lora_scale, pairs, weight_name

State = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]
PAIR_KEYS = tuple(re.compile(pattern) for pattern in (
    r"(?P<layer>.+)_lora\.(?P<half>down|up)_linear\.weight",
    r"(?P<layer>.+)\.lora_(?P<half>A|B)(\.\w+)?\.weight",
    r"(?P<layer>.+)\.lora\.(?P<half>down|up)\.weight",
    r"(?P<layer>.+)_lora\.(?P<half>down|up)\.weight",
))
ALPHA_KEY = re.compile(r"(?P<layer>.+?)(_lora)?\.alpha")
DOWN = ("down", "A")
PREFIX = re.compile(r"^(base_model\.model\.|module\.|unet\.)+")
BLOCKS = ("input_blocks.", "middle_block.", "output_blocks.")


@dataclass(frozen=True)
class LoRA:
    """Low-rank changes of weights.

    Attributes:
        pairs: (down [r, in], up [out, r]) by the name of the weight that changes by up @ down.
        source: what messages call it.
    """

    pairs: dict[str, Pair]
    source: str = "LoRA"

    @property
    def ranks(self) -> set[int]:
        """Every rank that occurs."""
        return {down.shape[0] for down, _ in self.pairs.values()}


def load(path: str, base: nn.Module | State, alpha: float | None = None) -> LoRA:
    """A file's changes of a base's weights.

    Args:
        path: safetensors or torch file, or hub name.
        base: network or state dict, whose names and shapes the changes must fit.
        alpha: the factor's numerator for files that do not bring one along.

    Raises:
        UserError: no such file, no LoRA in it, or one of another network.
    """
    given = _alpha_beside(path)
    return from_state(checkpoint.load_state(path), base, f"LoRA '{path}'", alpha if given is None else given)


def from_state(state: State, base: nn.Module | State, source: str, alpha: float | None = None) -> LoRA:
    """As `load`, from a state dict in any layout; the weights of a whole checkpoint are passed over."""
    weights = base.state_dict() if isinstance(base, nn.Module) else base
    names = _NamesHere(weights, source)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        key = PREFIX.sub("", key)
        if match := next(filter(None, (pattern.fullmatch(key) for pattern in PAIR_KEYS)), None):
            part = "down" if match["half"] in DOWN else "up"
            halves.setdefault(names(match["layer"]), {})[part] = value
        elif match := ALPHA_KEY.fullmatch(key):
            halves.setdefault(names(match["layer"]), {})["alpha"] = value
        elif is_lora_key(key) or key not in weights:
            raise UserError(f"{source}: key '{key}' is no part of a LoRA pair and no weight of the base")
    if not halves:
        raise UserError(f"{source}: there is no LoRA in it")
    return LoRA({name: _pair(name, parts, weights[name].shape, source, alpha) for name, parts in halves.items()},
                source)


class _NamesHere:
    """Finds the weight that a layer's name, ours or diffusers', stands for."""

    def __init__(self, weights: Iterable[str], source: str):
        self.weights, self.source = set(weights), source
        blocks = [key for key in weights if key.startswith(BLOCKS) and not is_lora_key(key)]
        theirs = key_map("UNetSD_T2VBase", blocks) if blocks else {}
        self.theirs = {names[0]: ours for ours, (names, _) in theirs.items() if len(names) == 1}

    def __call__(self, layer: str) -> str:
        name = weight_name(layer.replace(".processor.", "."))
        name = self.theirs.get(name, name)
        if name not in self.weights:
            raise UserError(f"{self.source} changes '{name}', which this network does not have"
                            f"{nearest(name, self.weights)}; it belongs to another base")
        return name


def _pair(name: str, parts: dict[str, Tensor], shape: torch.Size, source: str, alpha: float | None) -> Pair:
    if not {"down", "up"} <= parts.keys():
        raise UserError(f"{source}: '{name}' has only half of its pair ({', '.join(parts)})")
    down, up = parts["down"].float(), parts["up"].float()
    if down.shape[0] != up.shape[1]:
        raise UserError(f"{source}: '{name}' has rank {down.shape[0]} on one side and {up.shape[1]} on the other")
    found, wanted = (up.shape[0], down[0].numel()), (shape[0], math.prod(shape[1:]))
    if found != wanted:
        raise UserError(f"{source}: '{name}' changes a weight of {found[0]}x{found[1]}, this network's has "
                        f"{wanted[0]}x{wanted[1]}; it belongs to another base")
    own = parts.get("alpha")
    return down, up * lora_scale(down.shape[0], alpha if own is None else float(own))


def _alpha_beside(path: str) -> float | None:
    """alpha as diffusers' file header or peft's `adapter_config.json` states it."""
    file = checkpoint.locate(path)
    config = file.with_name("adapter_config.json")
    stated = {}
    if config.is_file():
        stated = json.loads(config.read_text(encoding="utf-8"))
    elif file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
        stated = {key.removeprefix("unet."): value for key, value in header.items()}
    unknown = [key for key in ("alpha_pattern", "use_dora", "use_rslora") if stated.get(key)]
    if unknown:
        raise UserError(f"LoRA '{path}' was made with {unknown[0]}, which is not known here")
    return stated.get("lora_alpha")


def of_network(network: nn.Module) -> LoRA:
    """The pairs that are attached to a network."""
    return LoRA({name: (pair.down_linear.weight.detach(), pair.scale * pair.up_linear.weight.detach())
                 for name, pair in pairs(network).items()}, type(network).__name__)


def pairs_of(state: State, rank: int, alpha: float | None) -> State:
    """The pairs in a network's state dict as they stand in a file: their factor is part of `up`."""
    scale = lora_scale(rank, alpha)
    return {key: scale * value if ".up_linear." in key else value for key, value in state.items() if is_lora_key(key)}


@torch.no_grad()
def load_pairs(network: nn.Module, lora: LoRA) -> None:
    """Let the pairs attached to a network start from `lora`.

    Raises:
        UserError: other layers or another rank than the attached pairs have.
    """
    attached = pairs(network)
    if attached.keys() != lora.pairs.keys():
        other = sorted(attached.keys() ^ lora.pairs.keys())
        raise UserError(f"{lora.source} changes {len(lora.pairs)} weights and the network's pairs {len(attached)}; "
                        f"first difference: '{other[0]}'")
    for name, pair in attached.items():
        down, up = lora.pairs[name]
        rank = pair.down_linear.out_features
        if down.shape[0] != rank:
            raise UserError(f"{lora.source} has rank {down.shape[0]} (at '{name}'), the network's pairs have {rank}; "
                            f"set lora_rank: {down.shape[0]}")
        pair.down_linear.weight.copy_(down.flatten(1))
        pair.up_linear.weight.copy_(up.flatten(1) / pair.scale)


def published_state(lora: LoRA) -> State:
    """The changes in InstructVideo's layout."""
    state = {}
    for name, (down, up) in lora.pairs.items():
        layer = re.sub(r"\.to_out\.0$", ".to_out", name.removesuffix(".weight"))
        state |= {f"{layer}{SUFFIX}.down_linear.weight": down, f"{layer}{SUFFIX}.up_linear.weight": up}
    return state


def diffusers_state(lora: LoRA, weights: Iterable[str]) -> State:
    """The changes in the layout of peft and diffusers' `load_lora_weights`.

    Args:
        lora: the changes.
        weights: names of all of the base's weights.
    """
    names = key_map("UNetSD_T2VBase", [key for key in weights if key.startswith(BLOCKS) and not is_lora_key(key)])
    state = {}
    for name, (down, up) in lora.pairs.items():
        layer = f"unet.{names[name][0][0].removesuffix('.weight')}"
        state |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    return state


@torch.no_grad()
def merge(base: nn.Module | State, loras: Iterable[tuple[LoRA, float]]) -> State:
    """Add scale * up @ down of every LoRA to the base's weights, in place.

    Args:
        base: network or state dict.
        loras: changes with their scales; one weight may be changed by several.

    Returns:
        The touched weights as they were, for `restore`.
    """
    weights, before = _tensors(base), {}
    for lora, scale in loras:
        for name, (down, up) in lora.pairs.items():
            weight = weights[name]
            before.setdefault(name, weight.detach().clone())
            change = up.to(weight.device).flatten(1) @ down.to(weight.device).flatten(1)
            weight.copy_(weight.float() + scale * change.reshape(weight.shape))
    return before


def _tensors(base: nn.Module | State) -> State:
    return dict(base.named_parameters()) if isinstance(base, nn.Module) else base


@torch.no_grad()
def restore(base: nn.Module | State, before: State) -> None:
    """Undo `merge` to the last bit."""
    weights = _tensors(base)
    for name, value in before.items():
        weights[name].copy_(value)


def merged_state(state: State, alpha: float | None = None) -> State:
    """A whole checkpoint in the published layout with its pairs merged into the weights beside them.

    Args:
        state: weights and `..._lora.{down,up}_linear.weight` pairs.
        alpha: numerator of the pairs' factor.

    Raises:
        UserError: a pair without its weight, or of another shape.
    """
    merged = {key: value for key, value in state.items() if not is_lora_key(key)}
    for key in state:
        if match := PAIR_KEYS[0].fullmatch(key):
            name = weight_name(match["layer"])
            if name not in merged:
                raise UserError(f"the pair '{key}' has no weight '{name}' beside it")
            if match["half"] == "up":
                down, up = state[key.replace(".up_linear.", ".down_linear.")].float(), state[key].float()
                weight, scale = merged[name], lora_scale(len(down), alpha)
                merged[name] = (weight.float() + scale * (up @ down).reshape(weight.shape)).to(weight.dtype)
    return merged
