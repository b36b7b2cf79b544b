"""AutoencoderKL and AutoencoderVideo: options, weights, and what each method promises."""
import pytest
import torch

from tests.autoencoders.examples import OPTIONS, small_autoencoder
from tools import noise
from tools.errors import UserError
from tools.models.diffusers_keys import to_diffusers
from tools.registry import AUTO_ENCODER


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("change", "message"), [
    ({"num_res_block": 2}, "unknown key 'num_res_block' (did you mean 'num_res_blocks'?)"),
    ({"double_z": False}, "double_z must be true"),
    ({"attn_type": "linear"}, "attention 'linear' is not available"),
    ({"use_linear_attn": True}, "attention 'linear' is not available"),
    ({"ch": 24}, "multiples of 32"),
    ({"ch_mult": []}, "multiples of 32"),
])
def test_options_that_cannot_be_built_are_named(change, message):
    with pytest.raises(UserError) as error:
        small_autoencoder(**change)
    assert message in str(error.value)


def test_missing_option_is_named():
    options = {key: value for key, value in OPTIONS.items() if key != "z_channels"}
    with pytest.raises(UserError, match="missing key 'z_channels'"):
        AUTO_ENCODER.build({"type": "AutoencoderKL", "ddconfig": options, "embed_dim": 4})


def test_options_without_effect_are_accepted_where_published_files_carry_them():
    model = AUTO_ENCODER.build({
        "type": "AutoencoderKL", "ddconfig": OPTIONS | {"video_kernel_size": [3, 1, 1]}, "embed_dim": 4,
        "use_vid_decoder": False, "ignore_keys": [], "monitor": None, "learn_logvar": False,
    })
    assert model.state_dict().keys() == small_autoencoder().state_dict().keys()


@pytest.mark.parametrize("wrap", [
    pytest.param(lambda state: state, id="bare"),
    pytest.param(lambda state: {"state_dict": state, "step": 3}, id="wrapped"),
    pytest.param(lambda state: {"state_dict": {f"first_stage_model.{k}": v for k, v in state.items()}
                                | {"model.diffusion_model.x": torch.zeros(1)}}, id="inside Stable Diffusion"),
    pytest.param(lambda state: to_diffusers("AutoencoderKL", state), id="diffusers"),
])
def test_pretrained_weights_load_from_every_layout(tmp_path, image, wrap):
    source = small_autoencoder()
    torch.save(wrap(source.state_dict()), tmp_path / "vae.ckpt")

    model = small_autoencoder(pretrained=str(tmp_path / "vae.ckpt"))

    assert torch.equal(model.encode(image).mode(), source.encode(image).mode())


def test_weights_of_another_configuration_are_refused(tmp_path):
    torch.save(small_autoencoder(ch_mult=[1, 1]).state_dict(), tmp_path / "vae.ckpt")
    with pytest.raises(UserError, match=r"vae\.ckpt.*encoder\.down\.1"):
        small_autoencoder(pretrained=str(tmp_path / "vae.ckpt"))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.ckpt"):
        small_autoencoder(pretrained=str(tmp_path / "absent.ckpt"))


def test_random_weights_without_a_file():
    assert small_autoencoder(pretrained="").state_dict().keys() == small_autoencoder().state_dict().keys()


@torch.no_grad()
def test_scaled_latents_are_a_repeatable_draw_of_the_posterior(image):
    model = small_autoencoder()
    posterior = model.encode(image)
    normal = noise.cpu_randn(posterior.mean.shape, generator=torch.Generator().manual_seed(5))

    latents = model.encode_first_stage(image, 0.5, torch.Generator().manual_seed(5))

    torch.testing.assert_close(latents, 0.5 * (posterior.mean + posterior.std * normal))
    assert torch.equal(latents, model.encode_firsr_stage(image, 0.5, torch.Generator().manual_seed(5)))


@torch.no_grad()
def test_video_variant_leaves_out_the_quantising_convolutions_but_not_from_scaled_latents(image):
    model, video = small_autoencoder(), small_autoencoder("AutoencoderVideo")
    video.load_state_dict(model.state_dict())
    z = model.encode(image).mode()

    assert torch.equal(video.encode(image).parameters, model.encoder(image))
    assert torch.equal(video.decode(z), model.decoder(z))
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(video.encode_first_stage(image, 1.0, seeds[0]), model.encode_first_stage(image, 1.0, seeds[1]))


@pytest.mark.parametrize("options", [
    pytest.param({"resamp_with_conv": False}, id="pooling"),
    pytest.param({"tanh_out": True}, id="tanh"),
    pytest.param({"attn_resolutions": [16, 8], "dropout": 0.1}, id="attention and dropout"),
])
@torch.no_grad()
def test_every_variant_codes_and_decodes(image, options):
    model = small_autoencoder(**options)
    reconstruction, posterior = model(image)

    assert reconstruction.shape == image.shape
    assert posterior.mean.shape == (2, 4, 8, 12)
    assert reconstruction.isfinite().all()
    if options.get("tanh_out"):
        assert reconstruction.abs().max() <= 1


@torch.no_grad()
def test_decoder_can_return_its_features(image):
    model = small_autoencoder(give_pre_end=True)
    assert model(image)[0].shape == (2, 32, 16, 24)


def test_every_parameter_learns(image):
    model = small_autoencoder().train()
    reconstruction, posterior = model(image)

    ((reconstruction - image).square().mean() + 1e-6 * posterior.kl().mean()).backward()

    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
