"""Classifier-free guidance: one forward gives what two give, and falls back when it cannot."""
import pytest
import torch

from tests.diffusions.networks import Recorder, randn
from tools.diffusions import guidance
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.gaussian import GaussianDiffusion
from tools.diffusions.guidance import Guidance, TwoWayGuidance, join, prepare
from tools.diffusions.schedules import sigma_schedule

SHAPE = (2, 4, 3, 4, 5)
FPS = torch.tensor([8, 8])
PAIRS = {
    "same form": ({"y": randn(2, 5, 3), "fps": FPS}, {"y": randn(2, 5, 3, seed=1), "fps": FPS}, 1),
    "one condition for the batch": ({"y": randn(1, 3), "image": None}, {"y": randn(1, 3, seed=1), "image": None}, 1),
    "other keys": ({"y": randn(2, 3), "fps": FPS}, {"y": randn(2, 3, seed=1)}, 2),
    "other shapes": ({"y": randn(2, 3)}, {"y": randn(2, 4)}, 2),
    "None on one side": ({"y": randn(2, 3), "image": randn(2, 1, 6)}, {"y": randn(2, 3), "image": None}, 2),
    "other plain value": ({"y": randn(2, 3), "fps": 8}, {"y": randn(2, 3), "fps": 16}, 2),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("var_type", ["fixed_small", "learned_range"])
def test_one_forward_equals_two(name, var_type):
    *pair, forwards = PAIRS[name]
    diffusion = DiffusionDDIM("cosine", {"num_timesteps": 50, "zero_terminal_snr": True}, "v", var_type)
    samples, networks = [], []
    for batched in (False, True):
        networks.append(Recorder(var_type == "learned_range"))
        samples.append(diffusion.ddim_sample_loop(randn(*SHAPE), networks[-1], pair, guide_scale=7.0,
                                                  ddim_timesteps=5, batched_guidance=batched))
    torch.testing.assert_close(*samples, rtol=1e-5, atol=1e-6)
    assert len(networks[0].calls) == 10 and len(networks[1].calls) == 5 * forwards


def test_conditions_are_joined_once_per_loop(monkeypatch):
    joined = []
    monkeypatch.setattr(guidance, "join", lambda *a, **k: joined.append(a) or join(*a, **k))
    DiffusionDDIM("cosine", {"num_timesteps": 50}, "v", "fixed_small").ddim_sample_loop(
        randn(*SHAPE), Recorder(), PAIRS["same form"][:2], guide_scale=2.0, ddim_timesteps=10, batched_guidance=True)
    assert len(joined) == 1


def test_conditional_half_comes_first():
    y, u = randn(2, 3), randn(2, 3, seed=1)
    assert torch.equal(join({"y": y}, {"y": u}, batch=2)["y"], torch.cat([y, u]))


def test_scale_one_is_the_conditional_output():
    y, u = randn(*SHAPE), randn(*SHAPE, seed=1)
    torch.testing.assert_close(Guidance(1.0).combine(y, u), y)


def test_variance_channels_come_from_the_conditional_output():
    y, u = randn(*SHAPE), randn(*SHAPE, seed=1)
    out = Guidance(5.0, learned_variance=True).combine(y, u)
    assert torch.equal(out[:, 2:], y[:, 2:])
    torch.testing.assert_close(out[:, :2], 5 * y[:, :2] - 4 * u[:, :2])


def test_full_rescale_restores_the_conditional_deviation():
    y, u = randn(*SHAPE), randn(*SHAPE, seed=1)
    out = Guidance(9.0, rescale=1.0).combine(y, u)
    torch.testing.assert_close(out.flatten(1).std(1), y.flatten(1).std(1))


def test_half_precision_outputs_are_combined_in_full():
    y, u = randn(*SHAPE).half(), randn(*SHAPE, seed=1).half()
    outputs = iter([y, u])
    predict = prepare(lambda x, t: next(outputs), [{}, {}], Guidance(9.0), batch=2)
    out = predict(randn(*SHAPE), torch.zeros(2))
    torch.testing.assert_close(out, u.float() + 9 * (y.float() - u.float()))


def test_only_the_conditional_branch_runs_at_scale_one():
    *pair, _ = PAIRS["same form"]
    network = Recorder()
    GaussianDiffusion(sigma_schedule("cosine", 50), "v").denoise(randn(*SHAPE), torch.tensor([20, 30]), None, network,
                                                                 pair, guide_scale=1.0)
    assert len(network.calls) == 1
    diffusion, samples = DiffusionDDIM("cosine", {"num_timesteps": 50}, "v", "fixed_small"), []
    for conditions, scale in ((pair, 1.0), (pair[0], None)):
        network = Recorder()
        samples.append(diffusion.ddim_sample_loop(randn(*SHAPE), network, conditions, guide_scale=scale,
                                                  ddim_timesteps=5))
        assert len(network.calls) == 5
    assert torch.equal(*samples)


@pytest.mark.parametrize(("text", "image", "alone"), [(1.0, 1.0, True), (1.0, 2.0, False), (2.0, 1.0, False)])
def test_text_and_picture_both_at_scale_one_run_one_branch(text, image, alone):
    network = Recorder()
    prepare(network, [{"y": randn(2, 3)}] * 3, TwoWayGuidance(text, image=image), batch=2)(randn(*SHAPE), torch.ones(2))
    assert len(network.calls) == (1 if alone else 3)


@pytest.mark.parametrize(("model_kwargs", "scale"), [({"y": None}, 3.0), ([{}, {}], None), (None, 3.0)])
def test_pair_without_scale_and_scale_without_pair_are_mistakes(model_kwargs, scale):
    with pytest.raises(ValueError, match="guide_scale"):
        prepare(Recorder(), model_kwargs, None if scale is None else Guidance(scale), batch=2)


def test_text_and_picture_are_guided_apart_in_one_forward_as_in_three():
    branches = [{"y": randn(2, 5, 3, seed=seed), "fps": FPS} for seed in range(3)]
    x, t = randn(*SHAPE), torch.tensor([20, 30])
    network = Recorder()
    both, picture, none = (network(x, t, **branch) for branch in branches)
    expected = none + 1.5 * (picture - none) + 7.5 * (both - picture)
    for batched, forwards in ((False, 3), (True, 1)):
        network = Recorder()
        out = prepare(network, branches, TwoWayGuidance(7.5, image=1.5), batch=2, batched=batched)(x, t)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        assert len(network.calls) == forwards
    with pytest.raises(ValueError, match="picture, neither"):
        prepare(Recorder(), branches[:2], TwoWayGuidance(7.5, image=1.5), batch=2)
