"""`DDIMScheduler` against diffusers' own, and its inversion against its sampler."""
import pytest
import torch

from tests.diffusions.networks import randn
from tools.diffusions.ddim_scheduler import DDIMScheduler
from tools.errors import UserError
from tools.registry import DIFFUSION

SHAPE = (2, 4, 3, 4, 4)
PUBLISHED = {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
OPTIONS = {
    "published": PUBLISHED,
    "scaled linear, not to one": PUBLISHED | {"beta_schedule": "scaled_linear", "set_alpha_to_one": False},
    "zero snr, trailing, v": PUBLISHED | {"timestep_spacing": "trailing", "prediction_type": "v_prediction",
                                          "rescale_betas_zero_snr": True},
    "linspace, x0": PUBLISHED | {"timestep_spacing": "linspace", "prediction_type": "sample"},
}


def network(x, t):
    return 0.3 * x + 0.1 * torch.sin(t.view(-1, 1, 1, 1, 1) / 100)


@pytest.mark.parametrize("steps", [4, 7, 30])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_loop_is_that_of_diffusers(name, steps):
    from diffusers import DDIMScheduler as Theirs
    theirs = Theirs(clip_sample=False, **OPTIONS[name])
    theirs.set_timesteps(steps)
    x = randn(*SHAPE)
    out = DDIMScheduler(**OPTIONS[name]).ddim_sample_loop(x, network, ddim_timesteps=steps)
    for t in theirs.timesteps:
        x = theirs.step(network(x, t.repeat(2)), int(t), x).prev_sample
    torch.testing.assert_close(out, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["published", "zero snr, trailing, v"])
def test_inversion_leads_to_noise_that_samples_back(name):
    process = DDIMScheduler(**OPTIONS["published"] | {"prediction_type": OPTIONS[name].get("prediction_type",
                                                                                           "epsilon")})
    x0 = 0.5 * randn(*SHAPE)
    path = process.invert(x0, network, ddim_timesteps=200)
    assert len(path) == 201 and torch.equal(path[0], x0)
    back = process.ddim_sample_loop(path[-1], network, ddim_timesteps=200)
    assert (back - x0).abs().max() < 0.05 * x0.abs().max()
    torch.testing.assert_close(process.ddim_reverse_sample_loop(x0, network, ddim_timesteps=200), path[-1])


@pytest.mark.parametrize(("section", "words"), [
    ({"beta_schedule": "linar"}, "unknown beta_schedule 'linar' .did you mean 'linear'"),
    ({"timestep_spacing": "leeding"}, "unknown timestep_spacing 'leeding' .did you mean 'leading'"),
    ({"prediction_type": "eps"}, "unknown prediction_type 'eps'"),
    ({"clip_sample": True}, "clip_sample and thresholding are for pixels"),
])
def test_wrong_options_are_named(section, words):
    with pytest.raises(UserError, match=words):
        DIFFUSION.build({"type": "DDIMScheduler", **section})


def test_files_of_diffusers_are_taken_as_they_are():
    section = PUBLISHED | {"_class_name": "DDIMScheduler", "_diffusers_version": "0.21.2", "skip_prk_steps": True,
                           "trained_betas": None, "clip_sample": False, "num_train_timesteps": 1000}
    assert DIFFUSION.build({"type": "DDIMScheduler", **section}).num_timesteps == 1000
