"""The condition cache: same numbers, less work, and out of the way where it would be wrong."""
import pytest
import torch

from tests.models.examples import call_inputs, rand, small_unet

NAME = "UNetSD_I2VGen"


@pytest.fixture
def counted():
    """A UNet, its inputs and the number of projections of text and picture so far."""
    unet, count = small_unet(NAME), {"text": 0, "picture": 0}

    def counting(what):
        def hook(*_):
            count[what] += 1
        return hook

    unet.input_blocks[1][1].transformer_blocks[0].attn2.to_k.register_forward_hook(counting("text"))
    unet.local_image_concat.register_forward_hook(counting("picture"))
    return unet, call_inputs(NAME), count


def test_later_steps_reuse_what_depends_on_the_conditions_alone(counted):
    unet, inputs, count = counted
    with torch.no_grad():
        plain = unet(**inputs)
        with unet.condition_cache():
            first = unet(**inputs)
            later = [unet(**inputs | {"x": rand(f"x{i}", *inputs["x"].shape)}) for i in range(2)]
            again = unet(**inputs)
        fresh = unet(**inputs | {"x": rand("x1", *inputs["x"].shape)})

    assert torch.equal(plain, first) and torch.equal(first, again) and torch.equal(later[1], fresh)
    assert count == {"text": 3, "picture": 3}


def test_both_branches_of_guidance_are_remembered(counted):
    unet, inputs, count = counted
    null = inputs | {"y": rand("null", *inputs["y"].shape)}
    with torch.no_grad(), unet.condition_cache():
        pairs = [(unet(**inputs), unet(**null)) for _ in range(3)]

    assert all(torch.equal(a, pairs[0][0]) and torch.equal(b, pairs[0][1]) for a, b in pairs)
    assert not torch.equal(*pairs[0])
    assert count == {"text": 2, "picture": 1}


def test_a_condition_edited_in_place_is_noticed(counted):
    unet, inputs, _ = counted
    with torch.no_grad(), unet.condition_cache():
        before = unet(**inputs)
        inputs["y"].mul_(0.5)
        after = unet(**inputs)
    with torch.no_grad():
        assert not torch.equal(before, after) and torch.equal(after, unet(**inputs))


def test_tensors_of_inference_mode_are_accepted(counted):
    unet, _, count = counted
    with torch.inference_mode(), unet.condition_cache():
        inputs = {key: value.clone() for key, value in call_inputs(NAME).items()}
        assert torch.equal(unet(**inputs), unet(**inputs))
    assert count["text"] == 1


def test_gradients_and_training_do_without_it(counted):
    unet, inputs, count = counted
    with unet.condition_cache():
        for _ in range(2):
            unet(**inputs).mean().backward()
        with torch.no_grad():
            unet.train()(**inputs)
    assert count == {"text": 3, "picture": 3}


def test_it_ends_with_its_block_even_after_an_error(counted):
    unet, _, _ = counted
    with pytest.raises(ValueError, match="interrupted"), unet.condition_cache():
        raise ValueError("interrupted")
    assert all(getattr(module, "cache", None) is None for module in unet.modules())


def test_an_inner_cache_joins_the_outer_one(counted):
    unet, inputs, count = counted
    with torch.no_grad(), unet.condition_cache():
        unet(**inputs)
        with unet.condition_cache():
            unet(**inputs)
        unet(**inputs)
    assert count["text"] == 1
