"""The published folder of ConsistI2V: diffusers and transformers read what is written here, and the other way round."""
import json
import logging
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from tests.goldens.reader import fill_module, load_manifest, relative_error
from tests.models.consisti2v import PUBLISHED, SPATIAL, denoiser_inputs, small_autoencoder, small_denoiser, write_folder
from tests.models.examples import rand
from tools import checkpoint, published
from tools.autoencoders.diffusers_kl import DiffusersAutoencoderKL
from tools.config import load_config
from tools.embedders import tokens
from tools.embedders.clip_text import CLIPTextEmbedder
from tools.engines import consisti2v_keys
from tools.errors import UserError
from tools.models.consisti2v.folder import load_denoiser, load_replacement, read_options
from tools.pretrains.consisti2v import pretrain_consisti2v
from tools.registry import AUTO_ENCODER, EMBEDDER, MODEL

TOLERANCE = 1e-6
FILES = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
         "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors",
         "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("published") / "ConsistI2V")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_the_layout_is_the_published_one(folder):
    settings = {"model_index.json", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json"}
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {*FILES, *settings}
    assert json.loads((folder / "unet/config.json").read_text())["_class_name"] == "VideoLDMUNet3DConditionModel"
    published.check_complete(str(folder))


def test_the_denoiser_comes_back(folder):
    part = published.part(str(folder), "unet")
    unet = MODEL.build({"type": "VideoLDMUNet3DConditionModel", **read_options(part)}).eval()
    load_denoiser(unet, checkpoint.load_state(part), part)
    with torch.no_grad():
        assert torch.equal(unet(**denoiser_inputs()), small_denoiser()(**denoiser_inputs()))


def test_the_autoencoder_equals_diffusers(folder):
    ours = AUTO_ENCODER.build({"type": "DiffusersAutoencoderKL", "pretrained": f"{folder}/vae"}).eval()
    theirs = AutoencoderKL.from_pretrained(folder / "vae").eval()
    pictures, latents = rand("pictures", 2, 3, 16, 24), rand("latents", 2, 4, 8, 12)
    with torch.no_grad():
        posterior = theirs.encode(pictures).latent_dist
        assert relative_error(ours.encode(pictures).std, posterior.std) < TOLERANCE
        assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < TOLERANCE
        drawn = ours.encode_first_stage(pictures, 0.18215, torch.Generator().manual_seed(5))
        expected = 0.18215 * posterior.sample(torch.Generator().manual_seed(5))
    assert relative_error(drawn, expected) < TOLERANCE


def test_the_text_encoder_equals_transformers(folder):
    ours = EMBEDDER.build({"type": "CLIPTextModel", "pretrained": f"{folder}/text_encoder"})
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")
    texts = ["do a b", "", "abcdefghijklmnop", "Do   C!"]
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=8, return_tensors="pt").input_ids
    assert torch.equal(ours.tokenize(texts), ids)
    with torch.no_grad():
        assert relative_error(ours(text=texts), theirs(input_ids=ids).last_hidden_state) < TOLERANCE
        assert ours(text="do").shape == (1, 8, 32)


def test_captions_are_padded_with_the_exclamation_mark_and_cut_with_one_warning(folder, caplog):
    embedder = CLIPTextEmbedder(f"{folder}/text_encoder")
    vocabulary = json.loads((folder / "tokenizer/vocab.json").read_text())
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    assert embedder.tokenize(["do b"]).tolist() == [[start, vocabulary["do</w>"], vocabulary["b</w>"], end] + [0] * 4]
    tokens.warn_of_cut.cache_clear()
    with caplog.at_level(logging.WARNING):
        cut = embedder.tokenize(["a b c d e f g h i", "b c d e f g h i j"])
    assert cut[:, -1].tolist() == [end] * 2 and cut[0, 1] == vocabulary["a</w>"] and len(caplog.records) == 1


@pytest.mark.parametrize(("component", "manifest"), [(DiffusersAutoencoderKL, "consisti2v_vae"),
                                                     (CLIPTextEmbedder, "consisti2v_text_encoder")])
def test_parts_of_published_size_have_the_published_keys(component, manifest):
    manifest = load_manifest(manifest)
    with torch.device("meta"):
        part = component(config=manifest["config"])
        default = component()
    for built in (part, default):
        state = built.published_state() if hasattr(built, "published_state") else built.model.state_dict()
        assert {key: list(value.shape) for key, value in state.items()} == manifest["state_dict"]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(copy, file):
    (copy / file).unlink()
    with pytest.raises(UserError, match=f"incomplete: it lacks {file}"):
        published.check_complete(str(copy))


def test_all_missing_files_are_named_at_once_and_torch_files_serve(copy):
    state = load_file(copy / FILES[1])
    (copy / FILES[1]).unlink()
    checkpoint.save_file(state, copy / "unet/diffusion_pytorch_model.bin")
    published.check_complete(str(copy))
    assert checkpoint.load_state(copy / "unet").keys() == state.keys()
    with pytest.raises(UserError, match=r"lacks unet/diffusion_pytorch_model\.fp16\.safetensors or "):
        published.check_complete(str(copy), variant="fp16")
    shutil.rmtree(copy / "vae")
    with pytest.raises(UserError, match=r"lacks vae/config\.json, vae/diffusion_pytorch_model\.safetensors or "):
        published.check_complete(str(copy))
    (copy / "unet/diffusion_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"unet' is incomplete, it holds none of diffusion_pytorch_model\."):
        checkpoint.load_state(copy / "unet")


def test_a_run_names_what_its_folder_lacks_before_it_starts(copy, tmp_path):
    (copy / "vae/config.json").unlink()
    (copy / "tokenizer/merges.txt").unlink()
    (tmp_path / "run.yaml").write_text(f"TASK_TYPE: inference_consisti2v_entrance\npretrained_model_path: {copy}\n")
    with pytest.raises(UserError, match=r"copy' is incomplete: it lacks vae/config\.json, tokenizer/merges\.txt;"):
        consisti2v_keys.adopt(load_config(str(tmp_path / "run.yaml")))


@pytest.mark.parametrize(("path", "message"), [
    ("no/such/folder", "no model folder 'no/such/folder'"), ("absent", "no model folder 'absent'")])
def test_a_folder_that_is_not_there_is_named(path, message):
    with pytest.raises(UserError, match=message):
        published.part(path, "unet")


def test_hub_names_are_understood(folder):
    assert published.part("TIGER-Lab/ConsistI2V", "vae") == "hf://TIGER-Lab/ConsistI2V/vae"
    assert published.part("modelscope://a/b", "vae") == "modelscope://a/b/vae"
    assert published.part(f"{folder}/", "vae") == f"{folder}/vae"


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_config_is_named(copy, content):
    (copy / "unet/config.json").write_text(content)
    with pytest.raises(UserError, match=r"unet/config\.json'.* JSON"):
        read_options(f"{copy}/unet")


def test_unknown_options_are_refused_and_empty_ones_passed_over(copy):
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps(config | {"reverse_transformer_layers_per_block": None}))
    assert "reverse_transformer_layers_per_block" not in read_options(f"{copy}/unet")
    (copy / "unet/config.json").write_text(json.dumps(config | {"motion_module": True}))
    with pytest.raises(UserError, match="unknown key 'motion_module'"):
        MODEL.build({"type": "VideoLDMUNet3DConditionModel", **read_options(f"{copy}/unet")})


def test_old_names_of_the_autoencoder_are_read(copy):
    file = copy / "vae/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(file)
    for new_name, old_name in old.items():
        state = {key.replace(new_name, old_name): value for key, value in state.items()}
    save_file(state, file)
    latents = rand("latents", 1, 4, 8, 8)
    with torch.no_grad():
        decoded = DiffusersAutoencoderKL(f"{copy}/vae").eval().decode(latents)
        assert torch.equal(decoded, small_autoencoder().decode(latents))


def test_the_idle_table_of_old_text_encoders_is_passed_over(copy):
    file = copy / "text_encoder/model.safetensors"
    save_file(load_file(file) | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, file)
    with torch.no_grad():
        assert CLIPTextEmbedder(f"{copy}/text_encoder")(text=["do"]).shape == (1, 8, 32)


def stable_diffusion(folder):
    """A small Stable Diffusion as diffusers saves it."""
    unet = fill_module(UNet2DConditionModel(**SPATIAL, sample_size=8, use_linear_projection=True))
    unet.save_pretrained(folder / "unet")
    return folder, unet


def test_training_starts_from_stable_diffusion(tmp_path, caplog):
    source, theirs = stable_diffusion(tmp_path / "sd")
    torch.manual_seed(0)
    unet = MODEL.build({"type": "VideoLDMUNet3DConditionModel", **read_options(f"{source}/unet"), **PUBLISHED})
    initial = {key: value.clone() for key, value in unet.state_dict().items()}
    with caplog.at_level(logging.INFO):
        unet, step = pretrain_consisti2v(unet, str(source))
    state = theirs.state_dict()
    assert step == 0 and "tensors 'conv3ds' keep their initial values" in caplog.text
    assert all(torch.equal(value, state.get(key, initial[key])) for key, value in unet.state_dict().items())
    with pytest.raises(UserError, match="missing"):
        load_denoiser(unet, checkpoint.load_state(f"{source}/unet"), "sd")


def test_the_image_model_takes_the_spatial_weights_of_a_video_model(folder, caplog):
    image = small_denoiser(fill=False, use_temporal=False, n_frames=2)
    with caplog.at_level(logging.INFO):
        pretrain_consisti2v(image, str(folder))
    assert "tensors 'tempo_attns' are left out" in caplog.text
    assert torch.equal(image.conv_in.weight, small_denoiser().conv_in.weight)


def test_weights_of_other_positions_are_refused(folder):
    with pytest.raises(UserError, match=r"missing .*pos_enc\.dummy.*unexpected"):
        pretrain_consisti2v(small_denoiser(temp_pos_embedding="sinusoidal"), str(folder))


def test_a_replacement_may_be_partial_and_prefixed_but_not_foreign(folder, tmp_path):
    unet, whole = small_denoiser(), small_denoiser().conv_in
    part = {"module.conv_in.bias": torch.full((32,), 7.0)}
    checkpoint.save_file({"state_dict": part}, tmp_path / "part.pth")
    load_replacement(unet, str(tmp_path / "part.pth"))
    assert (unet.conv_in.bias == 7).all() and torch.equal(unet.conv_in.weight, whole.weight)
    load_replacement(unet, f"{folder}/unet")
    assert torch.equal(unet.conv_in.bias, whole.bias)
    with pytest.raises(UserError, match=r"unet_path .*unexpected .*module\.conv_in\.bias"):
        load_replacement(unet, str(tmp_path / "part.pth"), prefix=None)


def test_a_half_precision_variant_is_read(copy):
    file = copy / "unet/diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(file).items()},
              file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.unlink()
    unet, _ = pretrain_consisti2v(small_denoiser(fill=False), str(copy), variant="fp16")
    assert unet.conv_in.weight.dtype == torch.float32
    assert relative_error(unet.conv_in.weight, small_denoiser().conv_in.weight) < 1e-3
