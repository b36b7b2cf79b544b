"""VideoLCM's network, and the guidance that a distilled network of the family can be told."""
import pytest
import torch

from tests.goldens import reader
from tests.models.examples import call_inputs, small_unet
from tools.diffusions.lcm import guidance_embedding
from tools.models import videolcm  # noqa: F401  registers
from tools.models.unet import GUIDANCE_WIDTH
from tools.registry import MODEL

LCM = {"config": {"video_compositions": ["text"]}}
OPTIONS = {"UNetSD_T2VBase": {}, "UNetSD_I2VGen": {}, "UNetSD_VideoLCM": LCM}


@pytest.mark.parametrize("variant", ["t2v", "vcomposer"])
def test_published_size_has_the_published_keys_in_their_order(variant):
    manifest = reader.load_manifest(f"UNetSD_VideoLCM.{variant}")
    with torch.device("meta"):
        unet = MODEL.build({"type": "UNetSD_VideoLCM", **manifest["config"]})
    shapes = [(key, list(value.shape)) for key, value in unet.state_dict().items()]
    assert shapes == list(manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


@pytest.mark.parametrize("name", OPTIONS)
def test_guidance_counts_where_the_network_has_a_layer_for_it(name):
    inputs = call_inputs(name)
    weak, strong = (guidance_embedding(torch.tensor([w, w]), GUIDANCE_WIDTH) for w in (1.0, 9.0))
    deaf, told = (small_unet(name, **OPTIONS[name], guidance_embedding=layer) for layer in (False, True))
    with torch.no_grad():
        assert torch.equal(deaf(**inputs, t_w=strong), deaf(**inputs))
        outputs = [told(**inputs, t_w=t_w) for t_w in (None, weak, strong)]
    assert torch.equal(outputs[0], deaf(**inputs))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(outputs, outputs[1:] + outputs[:1], strict=True))


def test_the_layer_starts_without_effect_and_learns():
    assert not small_unet(fill=False, guidance_embedding=True).guidance_embed.weight.any()
    unet = small_unet(guidance_embedding=True)
    torch.nn.init.zeros_(unet.guidance_embed.weight)
    unet(**call_inputs(), t_w=guidance_embedding(torch.tensor([9.0, 9.0]), GUIDANCE_WIDTH)).square().mean().backward()
    assert unet.guidance_embed.weight.grad.abs().max() > 0


def test_training_drops_conditions_but_never_the_text():
    unet = small_unet("UNetSD_VideoLCM", **LCM, p_all_zero=1.0, p_all_keep=0.0, dropout=0.0).train()
    inputs = call_inputs()
    with torch.no_grad():
        other = unet(**inputs | {"y": -inputs["y"]})
        assert (unet(**inputs) - other).abs().max() > 1e-3
