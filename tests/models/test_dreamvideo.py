"""DreamVideo's network: published keys, what adapters promise, and what it refuses."""
import pytest
import torch

from tests.goldens import reader
from tests.models.examples import CONTEXT, FRAMES, call_inputs, rand, small_unet
from tools.errors import UserError
from tools.models.dreamvideo import Adapter, Appearance, is_adapter, merge_adapters
from tools.registry import MODEL, load_components

NAME = "UNetSD_DreamVideo"
IDENTITY = {"spatial_adapter_list": ["cross_attention"]}
MOTION = {"temporal_adapter_list": ["self_attention", "cross_attention", "feedforward"],
          "temporal_adapter_condition_dim": CONTEXT}

load_components()


def image(frames: int = 1) -> torch.Tensor:
    """Image vectors [2, frames, CONTEXT]."""
    return rand(f"y_image{frames}", 2, frames, CONTEXT)


@pytest.mark.parametrize("name", ["UNetSD_DreamVideo.identity", "UNetSD_DreamVideo.motion", "UNetSD_DreamVideo.joint",
                                  "UNetSD_T2VBase.dreamvideo_step1"])
def test_published_size_has_the_published_keys_in_their_order(name):
    manifest = reader.load_manifest(name)
    with torch.device("meta"):
        unet = MODEL.build({"type": manifest["component"], **manifest["config"]})

    shapes = [(key, list(value.shape)) for key, value in unet.state_dict().items()]
    assert shapes == list(manifest["state_dict"].items())


@pytest.mark.parametrize(("kind", "options"), [("identity", IDENTITY), ("motion", MOTION)])
def test_published_adapter_files_hold_the_entries_called_adapter(kind, options):
    network, file = (reader.load_manifest(f"{name}.{kind}{end}")
                     for name, end in ((NAME, ""), ("DreamVideo", "_adapter_file")))
    assert [key for key in network["state_dict"] if is_adapter(key)] == list(file["state_dict"])


def test_new_adapters_change_nothing():
    base = small_unet("UNetSD_T2VBase")
    unet = small_unet(NAME, fill=False, **IDENTITY, **MOTION)
    unet.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(unet(**call_inputs(), y_image=image()), base(**call_inputs()))


def test_no_image_is_strength_zero_and_zeros_are_not():
    unet, inputs = small_unet(NAME, **MOTION), call_inputs()
    with torch.no_grad():
        nothing = unet(**inputs)
        assert torch.equal(nothing, unet(**inputs, y_image=image(), ag_strength=0))
        assert (nothing - unet(**inputs, y_image=torch.zeros_like(image()))).abs().max() > 1e-3


def test_one_image_stands_for_all_frames_and_a_strength_per_sample_is_that_of_the_sample():
    unet, inputs = small_unet(NAME, **MOTION), call_inputs()
    with torch.no_grad():
        whole = unet(**inputs, y_image=image(), ag_strength=0.5)
        torch.testing.assert_close(whole, unet(**inputs, y_image=image().expand(-1, FRAMES, -1), ag_strength=0.5))
        mixed = unet(**inputs, y_image=image(), ag_strength=torch.tensor([0.5, 2.0]).view(2, 1, 1))
    torch.testing.assert_close(mixed[0], whole[0])
    assert (mixed[1] - whole[1]).abs().max() > 1e-3


def test_the_cache_of_conditions_changes_nothing():
    unet, inputs, vectors = small_unet(NAME, **IDENTITY, **MOTION), call_inputs(), image()
    with torch.no_grad():
        plain = unet(**inputs, y_image=vectors, ag_strength=0.7)
        with unet.condition_cache():
            first = unet(**inputs, y_image=vectors, ag_strength=0.7)
            again = unet(**inputs, y_image=vectors, ag_strength=0.7)
    assert torch.equal(plain, first) and torch.equal(plain, again)


def test_adapters_scaled_to_nothing_leave_the_base():
    base, unet = small_unet("UNetSD_T2VBase"), small_unet(NAME, **IDENTITY, **MOTION)
    with torch.no_grad():
        whole = unet(**call_inputs(), y_image=image())
        unet.scale_adapters(identity=0, motion=0)
        torch.testing.assert_close(unet(**call_inputs(), y_image=image()), base(**call_inputs()))
        unet.scale_adapters()
        assert torch.equal(unet(**call_inputs(), y_image=image()), whole)


def test_motion_adapters_rest_below_a_timestep():
    unet, inputs = small_unet(NAME, **IDENTITY, **MOTION), call_inputs()
    with torch.no_grad():
        moving = {t: unet(**inputs | {"t": torch.full((2,), t)}, y_image=image()) for t in (299, 300)}
        unet.scale_adapters(motion=0)
        still = {t: unet(**inputs | {"t": torch.full((2,), t)}, y_image=image()) for t in (299, 300)}
        unet.scale_adapters(motion_from=300)
        for t in (300, 299, 300):
            expected = moving if t == 300 else still
            assert torch.equal(unet(**inputs | {"t": torch.full((2,), t)}, y_image=image()), expected[t])
    assert not torch.equal(moving[299], still[299])


def test_an_adapter_keeps_what_it_is_told_out_of_its_residual():
    adapter, x = Adapter(8, condition_dim=CONTEXT), rand("x", 6, 2, 8)
    told = Appearance(image())
    assert torch.equal(adapter(x, told), x)
    reader.fill_module(adapter)
    bottleneck = torch.nn.functional.gelu(adapter.down_linear(
        x + adapter.condition_linear(image()).repeat_interleave(3, dim=0)))
    torch.testing.assert_close(adapter(x, told), x + adapter.up_linear(bottleneck))


@pytest.mark.parametrize(("options", "words"), [
    ({"spatial_adapter_list": ["cross_atention"]}, ["spatial_adapter_list", "did you mean 'cross_attention'"]),
    ({"spatial_adapter_list": ["feedforward"]}, ["adapter of feedforward", "says ''", "parallel or serial"]),
    ({"temporal_adapter_list": ["feedforward"], "temporal_adapter_position_list": ["parallel"]}, ["3 entries"]),
    ({"unplaced_adapter": "ignore"}, ["refuse or skip"]),
])
def test_lists_that_cannot_be_meant_are_refused(options, words):
    with pytest.raises(UserError) as refused:
        small_unet(NAME, **options)
    assert all(word in str(refused.value) for word in words)


def test_another_number_of_images_than_frames_is_refused():
    with pytest.raises(UserError, match=f"2 vectors for {FRAMES} frames"):
        small_unet(NAME, **MOTION)(**call_inputs(), y_image=image(2))


def test_adapters_are_merged_over_a_base_and_what_does_not_fit_is_named():
    unet = small_unet(NAME, **IDENTITY, **MOTION)
    own = unet.state_dict()
    base = {key: value for key, value in own.items() if not is_adapter(key)}
    parts = {name: {key: value + 1 for key, value in own.items() if name in key and is_adapter(key)}
             for name in (".1.transformer_blocks", ".2.transformer_blocks")}
    adapters = {key: value for key, value in own.items() if is_adapter(key)}
    parts = {"identity adapter 'i.pth'": adapters | parts[".1.transformer_blocks"],
             "motion adapter 'm.pth'": parts[".2.transformer_blocks"]}
    merged = merge_adapters(unet, "base_model 'b.pth'", base, parts)
    assert merged.keys() == own.keys()
    key = next(iter(parts["motion adapter 'm.pth'"]))
    assert torch.equal(merged[key], own[key] + 1)

    def refusal(base, adapters):
        with pytest.raises(UserError) as refused:
            merge_adapters(unet, "base_model 'b.pth'", base, adapters)
        return str(refused.value)

    narrow = {key: own[key][..., :-1]}
    message = refusal(base, {"motion adapter 'm.pth'": narrow})
    assert all(word in message for word in ("m.pth", "b.pth", "another base", key))
    message = refusal(base, {"motion adapter 'm.pth'": {"elsewhere.ff_adapter.up_linear.bias": torch.zeros(1)}})
    assert "elsewhere.ff_adapter" in message
    message = refusal(base, {})
    assert "adapter entries that no adapter file holds" in message and "files: none" in message
    message = refusal({key: value for key, value in base.items() if key != "out.2.bias"}, parts)
    assert "base_model 'b.pth' does not fit" in message and "out.2.bias" in message
