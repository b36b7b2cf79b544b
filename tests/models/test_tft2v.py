"""TF-T2V and the compositional model: published keys, and what conditions do."""
import pytest
import torch

from tests.goldens import reader
from tests.models.examples import CONTEXT, FRAMES, SMALL, TOKENS, call_inputs, rand
from tools.errors import UserError
from tools.models import tft2v  # noqa: F401  registers
from tools.models.composer import ENTRIES, MAPS
from tools.registry import MODEL

NAME = "UNetSD_TFT2V"
EVERYTHING = list(ENTRIES.values())
PIXELS = (16, 24)


def network(compositions=EVERYTHING, flags=None, **options) -> torch.nn.Module:
    """A small filled network in evaluation mode."""
    config = {"video_compositions": compositions} | (flags or {})
    unet = MODEL.build({"type": NAME, **SMALL, "config": config, "hist_dim": 11, **options})
    return reader.fill_module(unet).eval()


def every_condition(batch: int = 2, frames: int = FRAMES) -> dict[str, torch.Tensor]:
    maps = {key: rand(key, batch, kind.channels, frames, *PIXELS) for key, kind in MAPS.items()}
    return call_inputs(batch=batch, frames=frames) | maps | {"image": rand("image", batch, 1, CONTEXT),
                                                             "histogram": rand("histogram", batch, frames, 11)}


@pytest.mark.parametrize("variant", ["t2v", "vcomposer"])
def test_published_size_has_the_published_keys_in_their_order(variant):
    manifest = reader.load_manifest(f"{NAME}.{variant}")
    with torch.device("meta"):
        unet = MODEL.build({"type": NAME, **manifest["config"]})

    shapes = [(key, list(value.shape)) for key, value in unet.state_dict().items()]
    assert shapes == list(manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


def test_every_condition_changes_the_video_of_its_own_sample_alone():
    unet, inputs = network(), every_condition()
    with torch.no_grad():
        whole = unet(**inputs)
        for key in (*MAPS, "image", "histogram"):
            changed = unet(**inputs | {key: torch.cat([inputs[key][:1], -inputs[key][1:]])})
            assert (whole - changed)[1].abs().max() > 1e-4, key
            torch.testing.assert_close(whole[0], changed[0], atol=1e-5, rtol=0)


def test_maps_of_any_size_and_latents_of_any_size_fit():
    unet, inputs = network(["text", "depthmap"]), call_inputs(height=5, width=7)
    with torch.no_grad():
        for size in ((40, 56), (33, 90), (5, 7)):
            assert unet(**inputs, depth=rand("depth", 2, 1, FRAMES, *size)).shape == (2, 4, FRAMES, 5, 7)


def test_conditions_are_encoded_once_for_all_steps_and_the_numbers_stay():
    unet, inputs, count = network(), every_condition(), []
    unet.depth_embedding.register_forward_hook(lambda *_: count.append("depth"))
    unet.hist_context_embedding.register_forward_hook(lambda *_: count.append("palette"))
    with torch.no_grad():
        plain = unet(**inputs)
        with unet.condition_cache():
            cached = [unet(**inputs) for _ in range(3)]
    assert all(torch.equal(plain, out) for out in cached)
    assert count == ["depth", "palette"] * 2


def test_a_cache_serves_calls_of_different_batches_without_conditions():
    unet, inputs = network(["text"]), call_inputs()
    with torch.no_grad(), unet.condition_cache():
        both = unet(**inputs)
        alone = unet(**{key: value[:1] for key, value in inputs.items()})
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=0)


def test_dropout_silences_what_conditions_were_encoded_to():
    """With everything dropped no condition matters any more; a condition of zeros would still be encoded."""
    unet, inputs = network(p_all_zero=1.0, p_all_keep=0.0, dropout=0.0), every_condition()
    others = {key: value if key in ("x", "t", "fps") else -value for key, value in inputs.items()}
    with torch.no_grad():
        unet.training = unet.misc_dropout.training = True
        dropped = unet(**inputs)
        assert torch.equal(dropped, unet(**others))
        unet.eval()
        zeros = {key: value if key in ("x", "t", "fps") else torch.zeros_like(value) for key, value in inputs.items()}
        assert (dropped - unet(**zeros)).abs().max() > 1e-4


def test_depth_and_motion_can_be_dropped_on_their_own():
    flags = {"p_zero_depth_alone": 0.5, "p_zero_motion_alone": 1.0, "p_zero_motion": 0.25}
    unet = network(["text", "depthmap", "motion", "sketch"], flags, misc_dropout=0.0, p_all_zero=0.0).train()
    torch.manual_seed(0)
    drop, ones = unet._dropout(2000), torch.ones(2000, 1)
    kept = {key: drop(key, ones).mean().item() for key in ("y", "depth", "motion", "sketch")}
    assert kept["depth"] == pytest.approx(0.5, abs=0.05)
    assert kept["motion"] == pytest.approx(0.75, abs=0.05)
    assert kept["sketch"] == kept["y"] == 1


def test_text_flags_of_training():
    null = rand("null", 1, TOKENS, CONTEXT)
    flags = {"use_text_clip_vip_model": True, "drop_clip_text": True, "no_video_text": True}
    unet, y = network(["text"], flags, zero_y=null), rand("y", 200, TOKENS, CONTEXT)
    assert torch.equal(unet._text(y, torch.empty(200, 4, 3, 1, 1)), y)
    unet.train()
    torch.testing.assert_close(unet._text(y, torch.empty(200, 4, 3, 1, 1)), null.expand(200, -1, -1))
    torch.manual_seed(0)
    picture = unet._text(y, torch.empty(200, 4, 1, 1, 1))
    dropped = (picture[:, :-1] == null[:, :-1]).flatten(1).all(1)
    assert 0.1 < dropped.float().mean() < 0.3
    assert torch.equal(picture[:, -1], y[:, -1]) and torch.equal(picture[~dropped], y[~dropped])


@pytest.mark.parametrize(("compositions", "change", "words"), [
    (["text"], {"depth": rand("d", 2, 1, FRAMES, 8, 8)}, ["'depth'", "add 'depthmap' to video_compositions"]),
    (["text", "depthmap"], {"depth": rand("d", 2, 1, FRAMES + 1, 8, 8)}, ["'depth' has 4 frames, the video 3"]),
    (["text", "histogram"], {"histogram": rand("h", 2, 1, 11)}, ["'histogram' has 1 frames"]),
    (["text"], {"y": None}, ["needs 'zero_y'"]),
])
def test_calls_that_do_not_fit_are_refused(compositions, change, words):
    with pytest.raises(UserError) as error:
        network(compositions)(**call_inputs() | change)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("config", "words"), [
    (None, ["'config' must hold video_compositions"]),
    ({"video_compositions": []}, ["video_compositions is empty", "histogram"]),
    ({"video_compositions": ["text", "dept"]}, ["no condition 'dept'", "did you mean 'depthmap'"]),
])
def test_compositions_that_do_not_exist_are_refused(config, words):
    with pytest.raises(UserError) as error:
        MODEL.build({"type": NAME, **SMALL, "config": config})
    assert all(word in str(error.value) for word in words), error.value
