"""The frozen CLIP encoders: the original's figures, published keys, files and mistakes."""
import json
import logging

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.goldens import reader
from tests.replays.embedders import replay_embedder, replay_tokenizer
from tools.embedders import open_clip as _registers  # noqa: F401
from tools.embedders import tokens
from tools.errors import UserError
from tools.registry import EMBEDDER

TOLERANCE = 1e-5
CASES = sorted(path.stem for path in (reader.GOLDENS / "vgen-unets-core").glob("clip_*.json"))
CLIP = {"embed_dim": 24, "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}}


@pytest.fixture
def arch(tmp_path):
    path = tmp_path / "clip_config.json"
    path.write_text(json.dumps(CLIP))
    return str(path)


@pytest.fixture(scope="module")
def weights():
    return reader.fill_module(open_clip.CLIP(**CLIP)).state_dict()


def build(name="FrozenOpenCLIPTextVisualEmbedder", **options):
    return EMBEDDER.build({"type": name, "layer": "penultimate", **options})


@pytest.mark.parametrize("name", CASES)
def test_every_output_is_the_originals(name):
    case, expected = reader.load_case("vgen-unets-core", name)
    replay = replay_tokenizer if case["kind"] == "tokenizer" else replay_embedder
    compared = list(replay(case, expected, None))

    assert {key for key, _, _ in compared} == set(expected)
    assert max(reader.relative_error(got, want) for _, got, want in compared) < TOLERANCE


def test_published_size_has_the_published_keys_in_their_order():
    manifest = reader.load_manifest("FrozenOpenCLIPTextVisualEmbedder")
    with torch.device("meta"):
        embedder = build(**manifest["config"] | {"pretrained": None})

    shapes = [(key, list(value.shape)) for key, value in embedder.state_dict().items()]
    assert shapes == list(manifest["state_dict"].items())


@pytest.mark.parametrize("name", [name for name in EMBEDDER.names() if name.startswith("FrozenOpenCLIP")])
def test_every_encoder_builds_without_weights_where_the_shapes_alone_count(name, arch):
    with torch.device("meta"):
        assert EMBEDDER.build({"type": name, "arch": arch, "pretrained": ""}).model.logit_scale.is_meta


@pytest.mark.parametrize("layout", ["bin", "module.", "half", "safetensors"])
def test_the_layouts_of_weights_files_give_the_same_numbers(layout, arch, weights, tmp_path):
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.bin")
    stored = {key: (value.half() if layout == "half" else value).clone() for key, value in weights.items()}
    if layout == "safetensors":
        save_file(stored, path)
    else:
        torch.save({f"module.{k}": v for k, v in stored.items()} if layout == "module." else stored, path)
    embedder = build(arch=arch, pretrained=str(path), device="cpu", vit_resolution=[28, 28], max_length=77)

    image, vector, words = embedder(image=torch.ones(2, 3, 28, 28), text=["a red star", "a blue circle"])
    reference = open_clip.CLIP(**CLIP)
    reference.load_state_dict(weights)
    with torch.no_grad():
        expected = reference.eval().encode_image(torch.ones(2, 3, 28, 28))
    torch.testing.assert_close(image, expected, atol=2e-3 if layout == "half" else 1e-6, rtol=0)
    assert (vector.shape, words.shape, words.dtype) == ((2, 24), (2, 12, 32), torch.float32)
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in embedder.parameters())


def test_the_last_layer_gives_clips_own_text_vector(arch, weights, tmp_path):
    torch.save(weights, tmp_path / "weights.pt")
    embedder = build(arch=arch, pretrained=str(tmp_path / "weights.pt"), layer="last")

    _, vector, _ = embedder(text="a green square moving up")
    expected = embedder.model.encode_text(tokens.tokenize("a green square moving up", 12))
    torch.testing.assert_close(vector, expected, atol=1e-6, rtol=0)


def test_a_long_caption_is_cut_with_one_warning(caplog):
    tokens.warn_of_cut.cache_clear()
    with caplog.at_level(logging.WARNING):
        ids = tokens.tokenize(["word " * 40, "other " * 40, "short"], 12)

    assert len(caplog.records) == 1 and "12 tokens" in caplog.text
    assert ids[:2, 0].tolist() == [49406] * 2 and ids[:2, -1].tolist() == [49407] * 2
    assert ids[2].tolist() == [49406, ids[2, 1], 49407] + [0] * 9


@pytest.mark.parametrize(("options", "message"), [
    ({"layer": "first"}, "layer 'first' must be one of last, penultimate"),
    ({"arch": "ViT-H-41"}, "no architecture 'ViT-H-41'.*did you mean 'ViT-H-1"),
    ({"arch": "missing.json"}, "no model configuration 'missing.json'"),
    ({"arch": "xlm-roberta-base-ViT-B-32"}, "not a plain CLIP"),
])
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_weights_of_another_model_are_refused(arch, weights, tmp_path):
    torch.save({key: value for key, value in weights.items() if key != "text_projection"}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"does not fit .*1 missing \(first: text_projection\)"):
        build(arch=arch, pretrained=str(tmp_path / "weights.pt"))


def test_a_picture_of_another_size_names_the_right_one(arch):
    with pytest.raises(UserError, match=r"64x64 pixels.*28x28; set vit_resolution: \[28, 28\]"):
        build(arch=arch)(image=torch.ones(1, 3, 64, 64), text="a star")


def test_text_is_required(arch):
    with pytest.raises(UserError, match="needs 'text'"):
        build(arch=arch)(image=torch.ones(1, 3, 28, 28))


def test_the_white_picture_is_the_preprocessed_one(arch):
    embedder = build("FrozenOpenCLIPVisualEmbedder", arch=arch)
    preprocess = open_clip.image_transform(28, is_train=False)
    torch.testing.assert_close(embedder.white_image[0], preprocess(Image.new("RGB", (28, 28), "white")))
