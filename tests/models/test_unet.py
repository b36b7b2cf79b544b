"""The VGen UNets: published figures, what the topology promises, and what it refuses."""
import pytest
import torch

from tests.goldens import reader
from tests.models.examples import CONTEXT, FRAMES, SMALL, TOKENS, call_inputs, rand, small_unet
from tests.replays.modules import replay_module
from tools.errors import UserError
from tools.models.blocks import SpatialTransformer
from tools.registry import MODEL

UNETS = ("UNetSD_T2VBase", "UNetSD_I2VGen")
GOLDEN_TOLERANCE = 1e-5


@pytest.mark.parametrize("name", ["t2v_base", "t2v_base_fps_deep", "i2vgen"])
def test_every_output_stage_and_gradient_is_the_originals(name):
    case, expected = reader.load_case("vgen-unets-core", name)
    compared = [(key, got, want) for key, got, want in replay_module(case, expected, None) if key != "state_dict"]

    assert {key for key, _, _ in compared} == set(expected)
    errors = {key: reader.relative_error(got, want) for key, got, want in compared}
    assert max(errors.values()) < GOLDEN_TOLERANCE, max(errors, key=errors.get)


@pytest.mark.parametrize("name", UNETS)
def test_published_size_has_the_published_keys_in_their_order(name):
    manifest = reader.load_manifest(name)
    with torch.device("meta"):
        unet = MODEL.build({"type": name, **manifest["config"]})

    shapes = [(key, list(value.shape)) for key, value in unet.state_dict().items()]
    assert shapes == list(manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


@pytest.mark.parametrize("name", UNETS)
def test_a_fresh_network_gives_only_its_last_bias(name):
    unet = small_unet(name, fill=False)
    with torch.no_grad():
        out = unet(**call_inputs(name))

    torch.testing.assert_close(out, unet.out[2].bias.view(1, -1, 1, 1, 1).expand_as(out))


@pytest.mark.parametrize("name", UNETS)
def test_samples_of_a_batch_do_not_see_each_other(name):
    unet, inputs = small_unet(name), call_inputs(name)
    with torch.no_grad():
        together = unet(**inputs)
        alone = torch.cat([unet(**{key: value[i:i + 1] for key, value in inputs.items()}) for i in range(2)])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("frames", [1, 5])
def test_the_number_of_frames_is_free(name, frames):
    with torch.no_grad():
        assert small_unet(name)(**call_inputs(name, frames=frames)).shape == (2, 4, frames, 4, 6)


def test_text_is_projected_once_per_sample_and_not_per_frame():
    unet, seen = small_unet(), []
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            projection = module.transformer_blocks[0].attn2.to_k
            projection.register_forward_pre_hook(lambda _module, args: seen.append(tuple(args[0].shape)))
    with torch.no_grad():
        unet(**call_inputs())

    assert seen == [(2, TOKENS, CONTEXT)] * 4


def test_the_context_may_also_differ_between_frames():
    unet, inputs = small_unet(), call_inputs()
    emb, y = unet.embed_time(inputs["t"]), inputs["y"]
    with torch.no_grad():
        per_sample = unet.backbone(inputs["x"], emb, y)
        per_frame = unet.backbone(inputs["x"], emb, y.repeat_interleave(FRAMES, dim=0))
        emb_per_frame = unet.backbone(inputs["x"], emb.repeat_interleave(FRAMES, dim=0), y)

    torch.testing.assert_close(per_sample, per_frame, atol=1e-5, rtol=0)
    torch.testing.assert_close(per_sample, emb_per_frame, atol=1e-5, rtol=0)


def test_missing_text_is_the_first_token_of_the_null_text():
    null = rand("null", 1, TOKENS, CONTEXT)
    unet, inputs = small_unet(zero_y=null), call_inputs()
    with torch.no_grad():
        without = unet(**inputs | {"y": None})
        torch.testing.assert_close(without, unet(**inputs | {"y": null[:, :1].expand(2, -1, -1)}))


def test_frame_rate_matters_only_where_it_is_embedded():
    inputs, other = call_inputs(), {"fps": torch.tensor([30, 2])}
    with torch.no_grad():
        plain, embedding = small_unet(), small_unet(use_fps_condition=True)
        assert torch.equal(plain(**inputs), plain(**inputs | other))
        assert (embedding(**inputs) - embedding(**inputs | other)).abs().max() > 1e-3


def test_only_the_first_frame_of_the_picture_latents_is_used():
    unet, inputs = small_unet("UNetSD_I2VGen"), call_inputs("UNetSD_I2VGen")
    first = inputs["local_image"]
    video = torch.cat([first[:, :, None], rand("rest", 2, 4, 2, 4, 6)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(unet(**inputs), unet(**inputs | {"local_image": video}))


def test_a_zero_picture_vector_is_not_the_same_as_none():
    unet, inputs = small_unet("UNetSD_I2VGen"), call_inputs("UNetSD_I2VGen")
    with torch.no_grad():
        zero, none = (unet(**inputs | {"image": value}) for value in (torch.zeros(2, 1, CONTEXT), None))
    assert (zero - none).abs().max() > 1e-3


def test_recomputing_activations_gives_equal_gradients():
    gradients = []
    for use_checkpoint in (False, True):
        unet = small_unet(use_checkpoint=use_checkpoint).train()
        torch.manual_seed(3)
        (unet(**call_inputs()) * rand("weight", 2, 4, FRAMES, 4, 6)).mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters()})

    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_training_on_pictures_reaches_every_parameter():
    unet = small_unet(use_image_dataset=True).train()
    unet(**call_inputs()).square().mean().backward()

    assert all(p.grad is not None for p in unet.parameters())
    assert all(not p.grad.any() for name, p in unet.named_parameters() if name.startswith("input_blocks.1.2."))


def test_without_temporal_attention_later_indices_move_up():
    keys = small_unet(temporal_attention=False).state_dict()

    assert not any(key.startswith(("input_blocks.0.1.", "input_blocks.1.2.")) for key in keys)
    assert "middle_block.2.in_layers.0.weight" in keys


def test_heads_of_the_first_temporal_transformer_default_to_the_width():
    assert small_unet(num_heads=None).input_blocks[0][1].proj_in.weight.shape == (1 * 16, 32, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_run(dtype):
    unet, inputs = small_unet("UNetSD_I2VGen"), call_inputs("UNetSD_I2VGen")
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        full, out = unet(**inputs), unet.to(dtype)(**half)

    assert out.dtype == dtype
    assert reader.relative_error(out.float(), full) < 0.05


def test_autocast_runs_with_single_precision_weights():
    unet, inputs = small_unet("UNetSD_I2VGen"), call_inputs("UNetSD_I2VGen")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), unet.condition_cache():
        out = unet(**inputs)
    with torch.no_grad():
        assert reader.relative_error(out.float(), unet(**inputs)) < 0.05


@pytest.mark.parametrize("name", UNETS)
def test_every_size_comes_back(name):
    inputs = call_inputs(name, width=7)
    with torch.no_grad():
        assert small_unet(name)(**inputs).shape == inputs["x"].shape


@pytest.mark.parametrize("missing", ["fps", "local_image"])
def test_a_missing_input_is_named(missing):
    inputs = call_inputs("UNetSD_I2VGen")
    with pytest.raises(UserError, match=f"UNetSD_I2VGen needs the input '{missing}'"):
        small_unet("UNetSD_I2VGen")(**inputs | {missing: None})


def test_a_call_without_text_needs_a_null_text():
    with pytest.raises(UserError, match="zero_y"):
        small_unet()(**call_inputs() | {"y": None})


@pytest.mark.parametrize("name", UNETS)
def test_keys_that_published_files_carry_in_vain_are_accepted_and_others_refused(name):
    idle = {"config": None, "misc_dropout": 0.4, "upper_len": 128, "concat_dim": 4, "use_sim_mask": False, "y_dim": 24}
    assert MODEL.build({"type": name, **SMALL, **idle})
    with pytest.raises(UserError, match=r"unknown key 'num_resblocks' \(did you mean 'num_res_blocks'\?\)"):
        MODEL.build({"type": name, **SMALL, "num_resblocks": 2})
