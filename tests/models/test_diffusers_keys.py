"""Key maps against diffusers itself: names, shapes and numbers, both ways."""
import gzip
import json

import pytest
import torch
from diffusers import AutoencoderKL, I2VGenXLUNet, UNet3DConditionModel

from tests.autoencoders.examples import small_autoencoder
from tests.goldens.reader import GOLDENS, fill_module, load_manifest, relative_error
from tests.models.examples import CONTEXT, call_inputs, small_unet
from tools.errors import UserError
from tools.models.diffusers_keys import from_diffusers, is_diffusers, key_map, to_diffusers

TOLERANCE = 1e-5
THEIRS = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "norm_num_groups": 32,
          "cross_attention_dim": CONTEXT, "attention_head_dim": 16}


def their_unet(cls, widths, attention, layers):
    """diffusers' UNet of the given widths; its first temporal transformer always has 8 heads."""
    down = tuple("CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attention)
    up = tuple("CrossAttnUpBlock3D" if a else "UpBlock3D" for a in reversed(attention))
    return cls(block_out_channels=widths, layers_per_block=layers, down_block_types=down, up_block_types=up,
               **THEIRS).eval()


SHAPES = [((32, 64), (True, False), 1), ((32, 32, 64), (True, True, False), 2)]


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 12), (3, 8, 12), (2, 7, 9)])
@pytest.mark.parametrize(("widths", "attention", "layers"), SHAPES)
def test_t2v_equals_unet3d_condition_model(widths, attention, layers, frames, height, width):
    scales = [2.0**-i for i, a in enumerate(attention) if a]
    ours = small_unet(dim_mult=[w // 32 for w in widths], attn_scales=scales, num_res_blocks=layers)
    theirs = their_unet(UNet3DConditionModel, widths, attention, layers)
    theirs.load_state_dict(to_diffusers("UNetSD_T2VBase", ours.state_dict()), strict=True)
    inputs = call_inputs(frames=frames, height=height, width=width)
    with torch.no_grad():
        expected = theirs(inputs["x"], inputs["t"], encoder_hidden_states=inputs["y"]).sample
        assert relative_error(ours(**inputs), expected) < TOLERANCE


def i2vgen_pair():
    ours = small_unet("UNetSD_I2VGen", attn_scales=[1.0])
    theirs = their_unet(I2VGenXLUNet, (32, 64), (True, False), 1)
    return ours, theirs


def their_i2vgen_output(theirs, inputs):
    frames = inputs["x"].shape[2]
    planes = torch.arange(frames).float() / max(frames - 1, 1)
    latents = planes.view(1, 1, -1, 1, 1).expand_as(inputs["x"]).clone()
    latents[:, :, 0] = inputs["local_image"]
    return theirs(inputs["x"], inputs["t"], fps=inputs["fps"], image_latents=latents,
                  image_embeddings=inputs["image"], encoder_hidden_states=inputs["y"]).sample


@pytest.mark.parametrize("frames", [1, 3])
def test_i2vgen_equals_i2vgen_xl_unet(frames):
    ours, theirs = i2vgen_pair()
    theirs.load_state_dict(to_diffusers("UNetSD_I2VGen", ours.state_dict()), strict=True)
    inputs = call_inputs("UNetSD_I2VGen", frames=frames)
    with torch.no_grad():
        assert relative_error(ours(**inputs), their_i2vgen_output(theirs, inputs)) < TOLERANCE


def test_i2vgen_weights_from_diffusers_give_diffusers_numbers():
    ours, theirs = i2vgen_pair()
    fill_module(theirs)
    ours.load_state_dict(from_diffusers("UNetSD_I2VGen", theirs.state_dict()), strict=True)
    inputs = call_inputs("UNetSD_I2VGen")
    with torch.no_grad():
        assert relative_error(ours(**inputs), their_i2vgen_output(theirs, inputs)) < TOLERANCE


def test_autoencoder_equals_diffusers_autoencoder_both_ways():
    ours = fill_module(small_autoencoder())
    theirs = AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2).eval()
    theirs.load_state_dict(to_diffusers("AutoencoderKL", ours.state_dict()), strict=True)
    picture, latent = torch.linspace(-1, 1, 2 * 3 * 16 * 24).view(2, 3, 16, 24).sin(), torch.ones(1, 4, 8, 4)
    with torch.no_grad():
        assert relative_error(ours.encode(picture).mean, theirs.encode(picture).latent_dist.mean) < TOLERANCE
        assert relative_error(ours.decode(latent), theirs.decode(latent).sample) < TOLERANCE
        ours.load_state_dict(from_diffusers("AutoencoderKL", fill_module(theirs).state_dict()), strict=True)
        assert relative_error(ours.decode(latent), theirs.decode(latent).sample) < TOLERANCE


def test_old_names_of_the_autoencoders_attention_are_read():
    state = fill_module(small_autoencoder()).state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    theirs = to_diffusers("AutoencoderKL", state)
    for new_name, old_name in old.items():
        theirs = {key.replace(new_name, old_name): value for key, value in theirs.items()}

    back = from_diffusers("AutoencoderKL", theirs)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["UNetSD_T2VBase", "UNetSD_I2VGen", "AutoencoderKL"])
def test_every_published_key_has_its_recorded_counterpart(name):
    with gzip.open(GOLDENS / "vgen-unets-core" / "diffusers_key_map.json.gz", "rt") as file:
        recorded = json.load(file)[name]["map"]
    state = {key: torch.empty(shape, device="meta") for key, shape in load_manifest(name)["state_dict"].items()}

    theirs = to_diffusers(name, state)
    expected = [k for target, _ in recorded.values() for k in (target if isinstance(target, list) else [target])]
    assert sorted(theirs) == sorted(expected)
    back = from_diffusers(name, theirs)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}
    assert is_diffusers(theirs) and not is_diffusers(state)
    for key, (names, _) in key_map(name, state).items():
        target = recorded[key][0]
        assert list(names) == (target if isinstance(target, list) else [target])


def test_a_round_trip_changes_no_bit():
    state = small_unet("UNetSD_I2VGen").state_dict()
    back = from_diffusers("UNetSD_I2VGen", to_diffusers("UNetSD_I2VGen", state))
    assert state.keys() == back.keys() and all(torch.equal(state[key], back[key]) for key in state)


def test_foreign_keys_and_components_are_named():
    with pytest.raises(UserError, match=r"'decoder\.layers\.0\.weight' is in neither layout"):
        to_diffusers("UNetSD_T2VBase", {**small_unet().state_dict(), "decoder.layers.0.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="UNetSD_HiGen has no counterpart"):
        to_diffusers("UNetSD_HiGen", {})
