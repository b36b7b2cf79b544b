"""Rewards: the frames that are scored, what is refused, HPSv2, and the small world measured against its truth."""
import json

import numpy as np
import open_clip
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.goldens import reader
from tools.errors import UserError
from tools.registry import REWARD, load_components
from tools.rewards.evaluation import diversity
from tools.rewards.hps import HPSv2, shorter_side_to
from tools.rewards.losses import policy_gradient, reward_loss
from tools.rewards.scoring import require_gradient, score_frames
from tools.rewards.segments import Segments, take_frames
from tools.rewards.tracker import EPSILON, PerPromptStatTracker
from tools.rewards.video import VideoReward
from tools.rewards.world import COLORS, pure_color
from tools.world.draw import render
from tools.world.scene import sample_truth, track
from tools.world.vocabulary import caption_of

CLIP = {"embed_dim": 24, "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}}
CPU = torch.device("cpu")


class Returns(nn.Module):
    """A reward that gives what it is told to."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, frames, captions):
        return self.give(frames)


def mean_of(frames):
    return frames.mean(dim=(2, 3, 4))


# Which frames.

@given(st.integers(1, 8), st.integers(8, 40), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_tsn_takes_one_frame_of_every_segment(count, frames, seed):
    torch.manual_seed(seed)
    index, span = Segments(count).choose(3, frames, CPU), frames // count
    assert torch.equal(index // span, torch.arange(count).expand(3, -1))


def test_fixed_and_middle_frames():
    assert Segments(4, "fixed_first").choose(1, 18, CPU).tolist() == [[0, 4, 8, 12]]
    assert Segments(4, "middle").choose(1, 18, CPU).tolist() == [[2, 6, 10, 14]]


def test_frames_count_less_the_farther_they_are_from_the_middle():
    index, segments = torch.tensor([[0, 8, 15]]), Segments(3, attenuation=0.5)
    torch.testing.assert_close(segments.weights(index, 16), torch.exp(torch.tensor([[-4.0, 0.0, -3.5]])))
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    assert Segments(3, attenuation=None).video_score(scores, index, 16).item() == 2.0


def test_more_segments_than_frames_are_refused():
    with pytest.raises(UserError, match="segments 5: a clip has only 4 frames"):
        Segments(5).choose(1, 4, CPU)


def test_taken_frames_are_those_of_the_index():
    clips = torch.arange(2 * 6).view(2, 1, 6, 1, 1)
    assert take_frames(clips, torch.tensor([[5, 0], [2, 2]])).flatten(1).tolist() == [[5, 0], [8, 8]]


# What is refused.

@pytest.mark.parametrize(("give", "words"), [
    (lambda f: mean_of(f).mean(dim=1), r"shape \(2,\) for 2 videos of 3 frames; .*shape \(2, 3\)"),
    (lambda f: mean_of(f)[..., None], r"shape \(2, 3, 1\)"),
    (lambda f: 0.5, "a float"),
    (lambda f: mean_of(f) / torch.tensor([[1.0], [0.0]]) * 0, "NaN for the caption 'two'"),
])
def test_a_reward_that_gives_nonsense_is_named(give, words):
    with pytest.raises(UserError, match=f"reward Returns returned {words}"):
        score_frames(Returns(give), torch.ones(2, 3, 3, 4, 4), ["one", "two"])


def test_a_reward_without_gradient_is_refused_where_one_is_needed():
    frames = torch.rand(1, 2, 3, 4, 4, requires_grad=True)
    require_gradient(Returns(mean_of), score_frames(Returns(mean_of), frames, ["a"]))
    detached = Returns(lambda f: mean_of(f.detach()))
    with pytest.raises(UserError, match=r"not differentiable.*rwr or ddpo"):
        require_gradient(detached, score_frames(detached, frames, ["a"]))


def test_a_type_is_a_name_and_is_never_evaluated(tmp_path):
    load_components()
    with pytest.raises(UserError, match="REWARD: no component"):
        REWARD.build({"type": f"__import__('pathlib').Path('{tmp_path}/gone').touch()"})
    assert not (tmp_path / "gone").exists()


# From latents to losses.

class Decoder(nn.Module):
    """Two pixels for one, through a convolution."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.conv = reader.fill_module(nn.ConvTranspose2d(4, 3, 2, stride=2)).requires_grad_(False)

    def decode(self, z):
        self.calls += 1
        return torch.tanh(self.conv(z))


def test_decoding_again_changes_no_gradient_and_only_scored_frames_have_one():
    found = []
    for recompute in (False, True):
        latents, decoder = torch.from_numpy(reader.uniform("z", (2, 4, 8, 3, 3))).requires_grad_(), Decoder()
        reward = VideoReward(Returns(lambda f: (f**2).mean(dim=(2, 3, 4))), decoder, 0.5, 2,
                             Segments(4, "fixed_first"), recompute)
        scores = reward(latents, ["a", "b"])
        assert decoder.calls == 4
        found.append((scores, torch.autograd.grad(reward_loss(scores), latents)[0]))
        assert decoder.calls == (8 if recompute else 4)
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
    assert found[0][1].abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten().tolist() == [0, 2, 4, 6]


def test_infinite_advantages_are_limited():
    scores = torch.tensor([-torch.inf, 0.5])
    assert reward_loss(scores, limit=5.0).item() == pytest.approx((5 + 0.5) / 2)


def test_policy_gradient_moves_towards_what_paid_and_no_farther_than_the_clip():
    old, advantages = torch.zeros(2), torch.tensor([1.0, -2.0])
    now = torch.zeros(2, requires_grad=True)
    gradient, = torch.autograd.grad(policy_gradient(now, old, advantages, 0.1), now)
    torch.testing.assert_close(gradient, -advantages / 2)
    far = torch.tensor([0.5, -0.5], requires_grad=True)
    gradient, = torch.autograd.grad(policy_gradient(far, old, advantages, 0.1), far)
    assert gradient.tolist() == [0, 0]


def test_tracker_goes_on_from_its_state():
    trackers = [PerPromptStatTracker(3, 2) for _ in range(2)]
    for tracker in trackers:
        tracker.update(["a", "b", "a"], [1.0, 2.0, 4.0])
    fresh = PerPromptStatTracker(3, 2)
    fresh.load_state_dict(json.loads(json.dumps(trackers[0].state_dict())))
    later = (["a", "a", "b"], [7.0, 3.0, 5.0])
    assert np.array_equal(fresh.update(*later), trackers[1].update(*later))
    kept = np.array([4.0, 7.0, 3.0])
    assert trackers[0].update(*later)[0] != 0
    assert fresh.state_dict()["a"] == kept.tolist()
    assert fresh.update(["a"], [9.0])[0] == pytest.approx((9 - 19 / 3) / (np.std([7.0, 3.0, 9.0]) + EPSILON))


def test_diversity_is_the_distance_of_pairs():
    black, white = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    assert diversity(torch.stack([black, black, black])).item() == 0
    assert diversity(torch.stack([black, white, white])).item() == pytest.approx(2 / 3)
    assert diversity(black[None]).item() == 0


# HPSv2.

def test_hps_has_the_published_keys():
    manifest = reader.load_manifest("HPSv2-CLIP-ViT-H-14")
    with torch.device("meta"):
        model = HPSv2(pretrained="").model
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == manifest["state_dict"]


def test_hps_scores_by_the_file_s_weights(tmp_path):
    arch, weights = tmp_path / "clip.json", tmp_path / "HPS_v2.pt"
    arch.write_text(json.dumps(CLIP))
    clip = reader.fill_module(open_clip.CLIP(**CLIP)).eval()
    torch.save({"epoch": 1, "state_dict": clip.state_dict()}, weights)
    hps = HPSv2(str(weights), str(arch))
    frames = torch.from_numpy(reader.uniform("frames", (2, 3, 3, 28, 28), 0.5, 0.5)).requires_grad_()
    scores = hps(frames, ["a cat", "a dog on a hill"])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        images = clip.encode_image((frames[1] - mean) / std, normalize=True)
        text = clip.encode_text(open_clip.tokenize(["a dog on a hill"], 12), normalize=True)
    torch.testing.assert_close(scores[1], (images @ text.T)[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(scores.sum(), frames)[0].abs().amax(dim=(2, 3, 4)).min() > 0


@pytest.mark.parametrize("size", [(48, 48), (32, 56), (60, 30)])
def test_frames_are_resized_as_tensors_once_were_and_cut_square(size):
    images = torch.from_numpy(reader.uniform("images", (2, 3, *size), 0.5, 0.5))
    resized = TF.resize(images, 24, antialias=False)
    torch.testing.assert_close(shorter_side_to(images, 24), TF.center_crop(resized, 24))


# The small world.

def clips(count: int, frames: int = 3, side: int = 64):
    """Frames [N, F, 3, H, W] in 0..1, their captions, and their tracks."""
    truths = [sample_truth(77, i) for i in range(count)]
    videos = np.stack([render(truth, frames, (side, side)) for truth in truths])
    pixels = torch.from_numpy(videos).permute(0, 1, 4, 2, 3).float() / 255
    return pixels, [caption_of(truth) for truth in truths], [track(truth, frames, (side, side)) for truth in truths]


def build(name: str, **options):
    load_components()
    return REWARD.build({"type": name, **options})


def test_size_is_the_true_radius_in_the_geometric_mean():
    frames, captions, tracks = clips(24)
    scores = build("ObjectSize", target=0.5)(frames, captions)
    radii = torch.from_numpy(np.stack([path.radii for path in tracks])) / 64
    means = radii.log().mean(dim=1, keepdim=True).exp().expand(-1, 3)
    torch.testing.assert_close(scores, means / 0.5, atol=0.02, rtol=0)
    nearest = build("ObjectSize", target=float(means[3, 0]))(frames, captions)
    assert nearest[3, 0] > 0.95


def test_height_is_the_true_centre():
    frames, captions, tracks = clips(24)
    centers = torch.from_numpy(np.stack([path.centers[:, 1] for path in tracks])) / 64
    torch.testing.assert_close(build("ObjectHeight")(frames, captions), 1 - centers, atol=0.01, rtol=0)


def test_vividness_is_one_for_pure_colours_and_nothing_for_another_hue():
    reward = build("ObjectVividness")
    for name, rgb in COLORS.items():
        caption = f"a {name} circle growing on a gray background"
        frame = torch.full((1, 1, 3, 32, 32), 0.5)
        frame[..., 8:24, 8:24] = torch.tensor(pure_color(rgb)).view(3, 1, 1)
        assert reward(frame, [caption]).item() == pytest.approx(1, abs=1e-4)
        frame[..., 8:24, 8:24] = torch.tensor(rgb).view(3, 1, 1) / 255
        assert 0.5 < reward(frame, [caption]).item() < 1
    frame[..., 8:24, 8:24] = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    assert reward(frame, ["a red circle growing on a gray background"]).item() < 0.1


@pytest.mark.parametrize("name", ["ObjectSize", "ObjectHeight", "ObjectVividness"])
def test_a_small_step_along_the_gradient_pays(name):
    frames, captions, _ = clips(6)
    reward, frames = build(name), frames.requires_grad_()
    before = reward(frames, captions).mean()
    gradient, = torch.autograd.grad(before, frames)
    after = reward((frames + 0.02 * gradient / gradient.abs().max()).clamp(0, 1), captions).mean()
    assert after > before
