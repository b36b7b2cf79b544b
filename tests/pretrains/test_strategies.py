"""What a checkpoint gives to a network, and how fast its parameters learn then."""
import json

import pytest
import torch

from tests.goldens.reader import fill_module
from tests.models.examples import call_inputs, small_unet
from tools import checkpoint
from tools.errors import UserError
from tools.pretrains.strategies import pretrain_specific_strategies, spatial_names
from tools.registry import PRETRAIN


def test_everything_that_fits_is_loaded_and_the_step_read(tmp_path):
    source = small_unet()
    file = tmp_path / "some_model_0000042.pth"
    checkpoint.save_file({"state_dict": source.state_dict(), "step": 7}, file)
    model, step = PRETRAIN.build({"type": "pretrain_specific_strategies", "resume_checkpoint": str(file)},
                                 model=small_unet(fill=False))
    assert step == 42
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in source.state_dict().items())


def test_from_scratch_counts_from_zero():
    model = small_unet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    same, step = pretrain_specific_strategies(model)
    assert (same, step) == (model, 0)
    assert all(torch.equal(before[key], value) for key, value in same.state_dict().items())


def test_entries_of_another_shape_stay_as_they_are_and_are_named(tmp_path, caplog):
    state = small_unet().state_dict()
    state["input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    checkpoint.save_file(state, tmp_path / "w.safetensors")
    model = small_unet(fill=False)
    stem = model.state_dict()["input_blocks.0.0.weight"].clone()
    with caplog.at_level("INFO"):
        pretrain_specific_strategies(model, str(tmp_path / "w.safetensors"))
    assert torch.equal(model.state_dict()["input_blocks.0.0.weight"], stem)
    assert torch.equal(model.state_dict()["out.2.weight"], state["out.2.weight"])
    assert "input_blocks.0.0.weight (32, 9, 3, 3) for (32, 4, 3, 3)" in caplog.text


def test_text_to_video_starts_image_to_video(tmp_path):
    state = small_unet().state_dict()
    checkpoint.save_file(state, tmp_path / "w.safetensors")
    model = small_unet("UNetSD_I2VGen")
    pretrain_specific_strategies(model, str(tmp_path / "w.safetensors"), inflate_input=True)
    stem = model.state_dict()["input_blocks.0.0.weight"]
    assert torch.equal(stem[:, :4], state["input_blocks.0.0.weight"])
    assert not stem[:, 4:].any()


def test_a_file_of_something_else_is_refused(tmp_path):
    checkpoint.save_file({"other": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"no entry fits the model .*missing .*unexpected \(first: other\)"):
        pretrain_specific_strategies(small_unet(), str(tmp_path / "w.safetensors"))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients of one backward pass."""
    model.zero_grad()
    model(**call_inputs()).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_spatial_gradients_are_scaled_and_temporal_ones_are_not(tmp_path):
    reference = gradients(small_unet())
    model, _ = pretrain_specific_strategies(small_unet(), sd_keys_path=str(tmp_path / "absent.json"), grad_scale=0.25)
    spatial = set(spatial_names(model))
    scaled = gradients(model)
    assert 0 < len(spatial) < len(scaled)
    for name, gradient in reference.items():
        assert torch.allclose(scaled[name], gradient * (0.25 if name in spatial else 1.0), rtol=1e-5, atol=1e-12), name


def test_the_spatial_names_leave_the_temporal_layers_out():
    names = spatial_names(small_unet())
    assert not any(".temopral_conv." in name or name.startswith("time_embed") for name in names)
    assert {"input_blocks.0.0.weight", "out.2.weight"} <= set(names)


def test_a_list_of_names_decides_where_there_is_one(tmp_path):
    (tmp_path / "keys.json").write_text(json.dumps(["out.2.weight"]))
    model, _ = pretrain_specific_strategies(small_unet(), sd_keys_path=str(tmp_path / "keys.json"), fix_weight=True)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["out.2.weight"]
    assert "out.2.weight" not in gradients(model)


@pytest.mark.parametrize("text", ["{", '{"a": 1}'])
def test_a_bad_list_is_refused(tmp_path, text):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(UserError, match=r"sd_keys_path '.*keys\.json'"):
        pretrain_specific_strategies(small_unet(), sd_keys_path=str(tmp_path / "keys.json"))


def test_fill_is_not_what_is_loaded():
    """The tests above compare against rule-filled weights; a fresh network must differ for them to mean anything."""
    fresh, filled = small_unet(fill=False), fill_module(small_unet(fill=False))
    assert not torch.equal(fresh.state_dict()["out.2.weight"], filled.state_dict()["out.2.weight"])


def test_the_picture_can_start_as_it_is():
    model = small_unet("UNetSD_I2VGen")
    pretrain_specific_strategies(model, identity_picture=True)
    latent = torch.randn(2, 4, 5, 7)
    torch.testing.assert_close(model.local_image_concat(latent), latent, atol=1e-5, rtol=1e-5)


def test_a_picture_of_other_width_than_the_network_is_refused():
    model = small_unet("UNetSD_I2VGen", in_dim=7)
    with pytest.raises(UserError, match="identity_picture"):
        pretrain_specific_strategies(model, identity_picture=True)
