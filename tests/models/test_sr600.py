"""SR600's network: published parameters, sizes that come back, and the step of FreeU."""
import pytest
import torch

from tests.goldens import reader
from tests.models.examples import CONTEXT, TOKENS, rand, small_unet
from tools.errors import UserError
from tools.models.sr600 import FREEU_BLOCKS, fourier_filter
from tools.registry import MODEL

DEEP = {"dim_mult": [1, 1, 1, 1], "attn_scales": [0.125]}


def inputs_of(height: int, width: int) -> dict[str, torch.Tensor]:
    return {"x": rand("x", 1, 4, 2, height, width), "t": torch.tensor([600]), "y": rand("y", 1, TOKENS, CONTEXT)}


@pytest.fixture(scope="module")
def deep():
    return small_unet("UNetSD_SR600", **DEEP)


def test_published_size_has_the_published_keys_in_their_order():
    manifest = reader.load_manifest("UNetSD_SR600")
    with torch.device("meta"):
        unet = MODEL.build({"type": "UNetSD_SR600", **manifest["config"]})
    assert [(key, list(value.shape)) for key, value in unet.state_dict().items()] == list(
        manifest["state_dict"].items())
    assert sum(p.numel() for p in unet.parameters()) == manifest["num_parameters"]


def test_parameters_are_those_of_text_to_video(deep):
    assert deep.state_dict().keys() == small_unet(**DEEP).state_dict().keys()


@pytest.mark.parametrize(("height", "width"), [(10, 8), (18, 16), (9, 8), (10, 7), (3, 5), (16, 16)])
@torch.no_grad()
def test_every_size_comes_back(deep, height, width):
    inputs = inputs_of(height, width)
    assert deep(**inputs).shape == inputs["x"].shape


@torch.no_grad()
def test_sizes_that_do_not_fit_are_extended_by_their_edge_and_cut_back(deep):
    small = inputs_of(9, 7)
    extended = torch.nn.functional.pad(small["x"], (0, 1, 0, 1, 0, 0), mode="replicate")
    torch.testing.assert_close(deep(**small), deep(**small | {"x": extended})[..., :9, :7])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 8), (10, 9), (11, 17), (16, 16), (90, 160), (91, 161)])
def test_the_fitting_size_is_the_least_that_the_levels_give_back(deep, height, width):
    rows, columns = deep.fitting_size(height, width)
    assert height <= rows < height + 8 and width <= columns < width + 8
    assert deep.fitting_size(rows, columns) == (rows, columns)
    levels = [rows]
    for _ in DEEP["dim_mult"][1:]:
        levels.append((levels[-1] + 1) // 2 + 1)
    assert [2 * row - 2 for row in levels[1:]] == levels[:-1] and columns % 8 == 0


def test_the_published_size_needs_no_extension(deep):
    assert deep.fitting_size(90, 160) == (90, 160)


@torch.no_grad()
def test_freeu_is_in_the_first_two_decoder_blocks_alone(deep):
    x, skip = rand("features", 2, 8, 4, 6), rand("skip", 2, 6, 4, 6)
    plain = torch.cat([x, skip], dim=1)
    for index in range(len(deep.output_blocks)):
        merged = deep.merge_skip(index, x, skip)
        assert merged.shape == plain.shape
        assert torch.equal(merged, plain) == (index >= len(FREEU_BLOCKS))
        assert torch.equal(merged[:, 4:8], plain[:, 4:8])
    assert torch.allclose(deep.merge_skip(1, x, skip)[:, :4], 1.2 * x[:, :4])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (4, 1), (2, 3), (7, 8)])
def test_the_filter_scales_the_mean_and_keeps_what_is_fast(height, width):
    x = rand("filtered", 1, 2, height, width)
    out = fourier_filter(x, 1, 0.4)
    torch.testing.assert_close(out.mean((2, 3)), 0.4 * x.mean((2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fourier_filter(x, 1, 1.0), x, atol=1e-5, rtol=1e-4)
    checkered = torch.ones(1, 1, 8, 8)
    checkered[..., ::2, 1::2] = checkered[..., 1::2, ::2] = -1
    torch.testing.assert_close(fourier_filter(checkered, 1, 0.4), checkered, atol=1e-5, rtol=1e-4)


def test_half_precision_is_filtered_in_single_precision():
    x = rand("half", 1, 2, 6, 8).bfloat16()
    assert torch.equal(fourier_filter(x, 1, 0.6), fourier_filter(x.float(), 1, 0.6).bfloat16())


def test_gradients_pass_through_the_skips(deep):
    x = rand("grad", 1, 4, 2, 10, 8).requires_grad_()
    deep(**inputs_of(10, 8) | {"x": x}).square().mean().backward()
    assert x.grad.abs().max() > 0


def test_text_is_needed(deep):
    with pytest.raises(UserError, match="UNetSD_SR600 needs the input 'y'"):
        deep(**inputs_of(10, 8) | {"y": None})
