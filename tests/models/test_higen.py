"""HiGen's network: published parameters, and what each condition and a single frame do."""
import pytest
import torch

from tests.goldens import reader
from tests.models.examples import CONTEXT, TOKENS, rand, small_unet
from tools.errors import UserError
from tools.models.higen import TextResampler
from tools.registry import MODEL

FRAMES, COLUMNS = 5, 8


def higen(fill: bool = True, **options) -> torch.nn.Module:
    return small_unet("UNetSD_HiGen", fill, y_dim=CONTEXT, num_tokens=3, appearance_frames=COLUMNS, **options)


def inputs_of(frames: int = FRAMES, batch: int = 2) -> dict[str, torch.Tensor]:
    motion = (batch,) if frames == 1 else (batch, frames - 1)
    return {"x": rand("x", batch, 4, frames, 4, 6), "t": torch.tensor([981, 20])[:batch],
            "y": rand("y", batch, TOKENS, CONTEXT), "spat_prior": rand("prior", batch, 4, 4, 6),
            "motion_cond": torch.randint(0, 500, motion, generator=torch.Generator().manual_seed(0)),
            "appearance_cond": rand("appearance", batch, frames, COLUMNS)}


def test_published_size_has_the_published_keys_in_their_order():
    manifest = reader.load_manifest("UNetSD_HiGen")
    with torch.device("meta"):
        unet = MODEL.build({"type": "UNetSD_HiGen", **manifest["config"]})
    assert [(key, list(value.shape)) for key, value in unet.state_dict().items()] == list(
        manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


@pytest.mark.parametrize("condition", ["y", "spat_prior", "motion_cond", "appearance_cond"])
@torch.no_grad()
def test_every_condition_reaches_the_output_and_none_may_be_missing(condition):
    unet, inputs = higen(), inputs_of()
    other = inputs | {condition: inputs[condition] + 100 if condition == "motion_cond" else -inputs[condition]}
    assert (unet(**inputs) - unet(**other)).abs().max() > 1e-3
    with pytest.raises(UserError, match=f"UNetSD_HiGen needs the input '{condition}'"):
        unet(**inputs | {condition: None})


@torch.no_grad()
def test_a_fresh_network_gives_only_its_last_bias_whatever_it_is_told():
    unet = higen(fill=False)
    out = unet(**inputs_of())
    torch.testing.assert_close(out, unet.out[2].bias.view(1, -1, 1, 1, 1).expand_as(out))


@torch.no_grad()
def test_one_frame_passes_by_all_temporal_layers():
    unet, inputs = higen(), inputs_of(frames=1)
    before = unet(**inputs)
    for name, parameter in unet.named_parameters():
        if "temopral_conv" in name or ".2.transformer_blocks" in name or name.startswith("input_blocks.0.1."):
            parameter.mul_(-3)
    assert torch.equal(unet(**inputs), before)
    assert not torch.allclose(unet(**inputs_of()), higen()(**inputs_of()))


@torch.no_grad()
def test_motion_may_be_told_between_frames_or_of_frames():
    unet, inputs = higen(), inputs_of()
    between = unet(**inputs | {"motion_cond": torch.full((2, FRAMES - 1), 300)})
    torch.testing.assert_close(between, unet(**inputs | {"motion_cond": torch.full((2, FRAMES), 300)}))


@torch.no_grad()
def test_what_the_conditions_give_is_computed_once_for_all_steps():
    unet, inputs = higen(), inputs_of()
    expected = unet(**inputs)
    calls = []
    unet.context_embedding.register_forward_hook(lambda *_: calls.append("text"))
    unet.msim_embedding.register_forward_hook(lambda *_: calls.append("motion"))
    with unet.condition_cache():
        outputs = [unet(**inputs) for _ in range(3)]
    assert sorted(calls) == ["motion", "text"]
    assert all(torch.allclose(out, expected, atol=1e-5) for out in outputs)


def test_training_on_a_key_frame_reaches_every_parameter():
    unet = higen().train()
    unet(**inputs_of(frames=1)).square().mean().backward()
    assert all(p.grad is not None for p in unet.parameters())


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other():
    unet, inputs = higen(), inputs_of()
    alone = torch.cat([unet(**{key: value[i:i + 1] for key, value in inputs.items()}) for i in range(2)])
    torch.testing.assert_close(unet(**inputs), alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_resampled_tokens_do_not_see_each_other():
    resampler = reader.fill_module(TextResampler(CONTEXT, 2, 16, CONTEXT, num_tokens=4))
    text, changed = rand("text", 1, TOKENS, CONTEXT), reader.fill_module(TextResampler(CONTEXT, 2, 16, CONTEXT, 4))
    changed.tokens[:, 0] += 1
    before, after = resampler(text), changed(text)
    assert torch.equal(before[:, 1:], after[:, 1:]) and not torch.allclose(before[:, 0], after[:, 0])
