"""DreamVideo's figures and the networks behind them."""
import json
import math

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from tests.embedders.test_open_clip import CLIP
from tests.goldens.reader import fill_module, load_manifest
from tools.errors import UserError
from tools.frozen import on_meta
from tools.metrics.dino import DinoViT
from tools.metrics.features import ClipFeatures, DinoFeatures
from tools.metrics.similarity import dreamvideo_scores, image_similarity, temporal_consistency, text_similarity

TINY_DINO = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


def turned(degrees: float) -> torch.Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def test_figures_of_features_of_known_angles():
    frames = torch.stack([2 * turned(0), 5 * turned(60)])
    assert temporal_consistency(frames) == pytest.approx(0.5)
    assert text_similarity(frames, 3 * turned(0)) == pytest.approx(0.75)  # the mean is half the way, not normalised
    assert image_similarity(frames, torch.stack([turned(0), turned(180)])) == pytest.approx(0)
    assert image_similarity(frames, 9 * turned(30)[None]) == pytest.approx(math.cos(math.radians(30)))


def test_without_references_their_figures_are_0():
    scores = dreamvideo_scores(torch.eye(2), torch.ones(2), torch.empty(0, 2), torch.eye(2), torch.empty(0, 2))
    assert scores["clip_i"] == scores["dino_i"] == 0 and next(iter(scores)) == "clip_t"
    with pytest.raises(ValueError, match="one frame has no temporal consistency"):
        temporal_consistency(torch.ones(1, 3))


def test_dino_has_the_published_keys_in_their_order():
    manifest = load_manifest("DINO-ViT-S-16")
    state = on_meta(DinoViT, **manifest["config"]).state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(manifest["state_dict"].items())


def test_dino_is_timms_transformer():
    network = fill_module(DinoViT(**TINY_DINO)).eval()
    theirs = timm.models.VisionTransformer(**TINY_DINO, num_classes=0).eval()
    theirs.load_state_dict(network.state_dict())
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures), theirs(pictures))


@pytest.fixture
def dino_file(tmp_path) -> str:
    torch.save(fill_module(DinoViT(**TINY_DINO)).state_dict(), tmp_path / "dino.pth")
    return str(tmp_path / "dino.pth")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_dino_takes_its_proportions_from_the_file(dino_file):
    features = DinoFeatures(dino_file)
    assert (features.network.embed_dim, len(features.network.blocks)) == (64, 2)
    one, other = picture(40, 90), picture(300, 260)
    vectors = features.images([one, Image.fromarray(other)])
    assert vectors.shape == (2, 64)
    torch.testing.assert_close(features.images([other])[0], vectors[1], rtol=1e-4, atol=1e-4)
    assert features.prepare(Image.fromarray(one)).shape == (3, 224, 224)


@pytest.fixture
def clip_files(tmp_path) -> tuple[str, str]:
    return write_clip(tmp_path)


def write_clip(folder) -> tuple[str, str]:
    """A tiny CLIP: weights and configuration."""
    torch.save(fill_module(open_clip.CLIP(**CLIP)).state_dict(), folder / "clip.pt")
    (folder / "clip.json").write_text(json.dumps(CLIP))
    return str(folder / "clip.pt"), str(folder / "clip.json")


def test_clip_features_are_open_clips(clip_files):
    features = ClipFeatures(*clip_files)
    theirs = fill_module(open_clip.CLIP(**CLIP)).eval()
    prepare = open_clip.image_transform(28, is_train=False)
    pictures = [picture(60, 90), picture(33, 28)]
    with torch.no_grad():
        expected = theirs.encode_image(torch.stack([prepare(Image.fromarray(each)) for each in pictures]))
        words = theirs.encode_text(open_clip.SimpleTokenizer(context_length=12)("a red star"))[0]
    torch.testing.assert_close(features.images(pictures), expected)
    torch.testing.assert_close(features.text("a red star"), words)


def test_missing_and_foreign_weights_are_named(clip_files, dino_file):
    with pytest.raises(UserError, match=r"weights 'gone\.pth' are not there"):
        DinoFeatures("gone.pth")
    with pytest.raises(UserError, match=r"clip\.pt': no weights of a vision transformer"):
        DinoFeatures(clip_files[0])
    with pytest.raises(UserError, match="CLIP has no weights"):
        ClipFeatures("")
    with pytest.raises(UserError, match=r"dino\.pth' does not fit"):
        ClipFeatures(dino_file, clip_files[1])
