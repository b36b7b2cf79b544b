"""LoRA: published keys, what pairs do to any network, merging, and files of every layout."""
import copy
import functools
import json

import pytest
import torch
from diffusers import UNet3DConditionModel
from safetensors.torch import save_file
from torch import nn

from tests.goldens import reader
from tests.models.examples import call_inputs, rand, small_unet
from tests.models.test_diffusers_keys import their_unet
from tools import checkpoint
from tools.errors import UserError
from tools.lora import main
from tools.models import lora, lora_files
from tools.models.blocks import Attention
from tools.models.diffusers_keys import to_diffusers
from tools.registry import MODEL, load_components

RANK = 3
TOLERANCE = 1e-5


@functools.cache
def _filled(name: str, alpha: float | None) -> nn.Module:
    unet = base(name)
    lora.attach(unet, RANK, alpha)
    for pair, module in lora.pairs(unet).items():
        for key, value in module.named_parameters():
            value.data = rand(f"{pair}/{key}", *value.shape) / value.shape[1] ** 0.5
    return unet


@functools.cache
def _base(name: str) -> nn.Module:
    return small_unet(name)


def with_pairs(name: str = "UNetSD_T2VBase", alpha: float | None = None) -> nn.Module:
    """A small UNet with pairs that say something."""
    return copy.deepcopy(_filled(name, alpha))


def base(name: str = "UNetSD_T2VBase") -> nn.Module:
    """The same UNet without pairs."""
    return copy.deepcopy(_base(name))


def lora_of(seed: str, unet: nn.Module) -> lora_files.LoRA:
    """Some other LoRA of a network."""
    pairs = {}
    for name, (down, up) in lora_files.of_network(unet).pairs.items():
        pairs[name] = (rand(f"{seed}/{name}/down", *down.shape), 0.1 * rand(f"{seed}/{name}/up", *up.shape))
    return lora_files.LoRA(pairs, seed)


@torch.no_grad()
def output(unet: nn.Module, name: str = "UNetSD_T2VBase") -> torch.Tensor:
    return unet(**call_inputs(name))


@pytest.mark.parametrize("variant", ["lora", "base"])
def test_published_size_has_the_published_keys_in_their_order(variant):
    manifest = reader.load_manifest(f"UNetSD_LoRA.{variant}")
    with torch.device("meta"):
        unet = MODEL.build({"type": "UNetSD_LoRA", **manifest["config"]})
    assert [(key, list(value.shape)) for key, value in unet.state_dict().items()] == list(
        manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


@pytest.mark.parametrize("name", ["UNetSD_T2VBase", "UNetSD_I2VGen"])
def test_fresh_pairs_are_silent_filled_ones_are_what_merging_adds(name):
    plain, fresh, filled = base(name), base(name), with_pairs(name)
    lora.attach(fresh, RANK)
    before = output(plain, name)
    assert torch.equal(output(fresh, name), before)
    lora_files.merge(plain, [(lora_files.of_network(filled), 1.0)])
    assert reader.relative_error(output(plain, name), output(filled, name)) < TOLERANCE
    assert not torch.allclose(output(plain, name), before)


def test_every_network_of_the_family_takes_pairs():
    load_components()
    family = [name for name in MODEL.names() if name.startswith("UNetSD_")]
    assert len(family) >= 3
    for name in family:
        known = MODEL.parameters(name)
        options = {"config": {"video_compositions": ["text"]}} if "config" in known else {}
        with torch.device("meta"):
            unet = MODEL.build({"type": name, "in_dim": 4, "out_dim": 4, "dim": 32, "dim_mult": [1, 2],
                                "context_dim": 1024, "head_dim": 16, "num_res_blocks": 1, **options})
            lora.attach(unet, RANK)
        weights, pairs = unet.state_dict(), lora.pairs(unet)
        assert len(pairs) == 4 * len(list(lora.attentions(unet)))
        for key, pair in pairs.items():
            assert tuple(weights[key].shape) == (pair.up_linear.out_features, pair.down_linear.in_features)


def test_only_pairs_are_trained():
    unet = with_pairs()
    lora.train_pairs_only(unet)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in unet.named_parameters() if ".down_linear" in name or ".up_linear" in name}
    unet(**call_inputs()).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in unet.parameters() if p.requires_grad)


def test_several_loras_add_up_with_their_scales_and_go_without_a_trace():
    unet, shaped = base(), with_pairs()
    original = {key: value.clone() for key, value in unet.state_dict().items()}
    first, second = lora_of("first", shaped), lora_of("second", shaped)
    before = lora_files.merge(unet, [(first, 0.5), (second, -2.0)])
    name = next(iter(first.pairs))
    changes = [up @ down for down, up in (first.pairs[name], second.pairs[name])]
    torch.testing.assert_close(unet.state_dict()[name], original[name] + 0.5 * changes[0] - 2 * changes[1])
    lora_files.restore(unet, before)
    assert all(torch.equal(value, original[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize("layout", ["published", "diffusers"])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_layouts_come_back(tmp_path, layout, alpha):
    unet = with_pairs(alpha=alpha)
    own = lora_files.of_network(unet)
    state = (lora_files.published_state(own) if layout == "published"
             else lora_files.diffusers_state(own, unet.state_dict()))
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "lora.safetensors")
    plain = base()
    read = lora_files.load(str(tmp_path / "lora.safetensors"), plain)
    assert read.pairs.keys() == own.pairs.keys()
    lora_files.merge(plain, [(read, 1.0)])
    assert reader.relative_error(output(plain), output(unet)) < TOLERANCE


def test_diffusers_own_network_takes_the_diffusers_layout():
    unet = with_pairs()
    theirs = their_unet(UNet3DConditionModel, (32, 64), (True, False), 1)
    theirs.load_state_dict(to_diffusers("UNetSD_T2VBase", base().state_dict()), strict=True)
    state = lora_files.diffusers_state(lora_files.of_network(unet), base().state_dict())
    with torch.no_grad():
        for key in (key for key in state if key.endswith(".lora_A.weight")):
            layer = key.removeprefix("unet.").removesuffix(".lora_A.weight")
            up = state[key.replace("lora_A", "lora_B")]
            theirs.get_submodule(layer).weight += up @ state[key]
        inputs = call_inputs()
        expected = theirs(inputs["x"], inputs["t"], encoder_hidden_states=inputs["y"]).sample
    assert reader.relative_error(output(unet), expected) < TOLERANCE


@pytest.mark.parametrize("spelling", [
    lambda layer, half: f"base_model.model.{layer}.lora_{'A' if half == 'down' else 'B'}.weight",
    lambda layer, half: f"{layer}.lora_{'A' if half == 'down' else 'B'}.default.weight",
    lambda layer, half: f"unet.{layer}.lora.{half}.weight",
    lambda layer, half: "unet.{}.processor.{}_lora.{}.weight".format(*layer.replace(".0", "").rsplit(".", 1), half)
    if layer.endswith("to_out.0") else "unet.{}.processor.{}_lora.{}.weight".format(*layer.rsplit(".", 1), half),
], ids=["peft", "peft adapter", "old diffusers", "attention processors"])
@pytest.mark.parametrize("name", ["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
                                  "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"])
def test_spellings_of_others_are_read(spelling, name):
    plain = base()
    down, up = rand("down", RANK, plain.context_dim), rand("up", 32, RANK)
    layer = name.removesuffix(".weight")
    read = lora_files.from_state({spelling(layer, "down"): down, spelling(layer, "up"): up}, plain, "file")
    found, = read.pairs.items()
    assert found[0] == "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(found[1][1] @ found[1][0], up @ down)


def pair_file(folder, metadata=None, **extra):
    layer = "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0"
    state = {f"{layer}.lora_A.weight": rand("down", RANK, 32), f"{layer}.lora_B.weight": rand("up", 32, RANK)}
    path = folder / "adapter_model.safetensors"
    save_file(state | {f"{layer}.{key}": value for key, value in extra.items()}, path, metadata)
    return str(path), state[f"{layer}.lora_B.weight"]


@pytest.mark.parametrize("source", ["key", "peft", "diffusers", "argument"])
def test_alpha_scales_wherever_it_is_stated(tmp_path, source):
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 6, "unet.r": RANK})}
    path, up = pair_file(tmp_path, metadata if source == "diffusers" else None,
                         **({"alpha": torch.tensor(6.0)} if source == "key" else {}))
    if source == "peft":
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "r": RANK}))
    read = lora_files.load(path, base(), alpha=6.0 if source == "argument" else None)
    torch.testing.assert_close(next(iter(read.pairs.values()))[1], 2 * up)


def test_pairs_start_from_a_file_of_their_rank_only():
    unet, other = with_pairs(alpha=6.0), lora_of("other", with_pairs())
    lora_files.load_pairs(unet, other)
    for name, (down, up) in lora_files.of_network(unet).pairs.items():
        torch.testing.assert_close(up @ down, other.pairs[name][1] @ other.pairs[name][0])
    larger = base()
    lora.attach(larger, RANK + 2)
    with pytest.raises(UserError, match=r"rank 5 .*pairs have 3; set lora_rank: 5"):
        lora_files.load_pairs(unet, lora_files.of_network(larger))


def spoiled(state: dict, change: str) -> dict:
    key = next(key for key in state if ".attn1.to_q_lora.up_linear" in key)
    if change == "half":
        return {k: v for k, v in state.items() if k != key}
    if change == "rank":
        return state | {key: state[key][:, :-1]}
    if change == "base":
        return state | {key: torch.cat([state[key], state[key]])}
    if change == "layer":
        return {k.replace("input_blocks.1.", "input_blocks.91."): v for k, v in state.items()}
    return {"something.else": torch.zeros(2)} if change == "other" else {}


@pytest.mark.parametrize(("change", "words"), [
    ("half", "only half of its pair"), ("rank", "has rank 3 on one side and 2 on the other"),
    ("base", "belongs to another base"), ("layer", "input_blocks.91.*another base"),
    ("other", "'something.else' is no part of a LoRA pair"), ("empty", "there is no LoRA in it")])
def test_what_does_not_fit_is_refused_by_name(change, words):
    unet = with_pairs()
    state = spoiled(lora_files.published_state(lora_files.of_network(unet)), change)
    with pytest.raises(UserError, match=words):
        lora_files.from_state(state, base(), "LoRA 'x.pth'")


@pytest.mark.parametrize("rank", [0, None, -1])
def test_pairs_need_a_rank(rank):
    with pytest.raises(UserError, match="lora_rank must be an integer of at least 1"):
        lora.attach(nn.ModuleDict({"a": Attention(4)}), rank)


def test_pairs_are_attached_once_and_to_attentions():
    with pytest.raises(UserError, match="has LoRA pairs already"):
        lora.attach(with_pairs(), RANK)
    with pytest.raises(UserError, match="Linear has no attention"):
        lora.attach(nn.Linear(2, 2), RANK)


def test_the_command_line_merges_and_converts(tmp_path, capsys):
    plain, own = base(), lora_files.of_network(with_pairs())
    files = {name: str(tmp_path / name) for name in ("base_0000003.pth", "lora.pth", "merged.pth", "peft.safetensors")}
    checkpoint.save_file({"state_dict": plain.state_dict(), "step": 3}, files["base_0000003.pth"])
    checkpoint.save_file(lora_files.published_state(own), files["lora.pth"])
    main(["merge", files["base_0000003.pth"], files["merged.pth"], f"{files['lora.pth']}=0.5", files["lora.pth"]])
    main(["convert", files["lora.pth"], files["peft.safetensors"], "--base", files["base_0000003.pth"]])
    assert capsys.readouterr().out.count(f"{len(own.pairs)} weights") == 2
    lora_files.merge(plain, [(lora_files.load(files["peft.safetensors"], plain), 1.5)])
    merged = checkpoint.load_state(files["merged.pth"])
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(merged[key], value)
    with pytest.raises(UserError, match="must be a number, not 'much'"):
        main(["merge", files["base_0000003.pth"], files["merged.pth"], "lora.pth=much"])
