"""A small ConsistI2V, its inputs, and a whole published folder of small parts, that the tests share."""
import json
from pathlib import Path

import torch

from tests.goldens.reader import fill_module
from tests.models.examples import rand
from tools.autoencoders.diffusers_kl import DiffusersAutoencoderKL
from tools.embedders.clip_text import CLIPTextEmbedder
from tools.models.consisti2v import folder as published_folder
from tools.models.consisti2v.unet import VideoLDMUNet3DConditionModel

CONTEXT, TOKENS = 32, 5
SPATIAL = {"block_out_channels": [32, 64], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
           "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1, "norm_num_groups": 16,
           "cross_attention_dim": CONTEXT, "attention_head_dim": [2, 4]}
PUBLISHED = {"use_linear_projection": True, "n_frames": 4, "n_temp_heads": 4, "first_frame_condition_mode": "concat",
             "augment_temporal_attention": True, "temp_pos_embedding": "rotary", "use_frame_stride_condition": True}
VAE = {"block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2, "norm_num_groups": 8,
       "up_block_types": ["UpDecoderBlock2D"] * 2, "layers_per_block": 1, "latent_channels": 4,
       "scaling_factor": 0.18215}
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "steps_offset": 1}
LETTERS = "!abcdefghijklmnopqrstuvwxyz"


def small_denoiser(fill: bool = True, **options) -> VideoLDMUNet3DConditionModel:
    """The published switches at a small size, in evaluation mode; every weight by the rule unless told otherwise."""
    unet = VideoLDMUNet3DConditionModel(**{**SPATIAL, **PUBLISHED, **options}).eval()
    return fill_module(unet) if fill else unet


def denoiser_inputs(batch: int = 2, frames: int = 4, height: int = 4, width: int = 6) -> dict:
    """Keyword arguments of one call."""
    return {"sample": rand("sample", batch, 4, frames - 1, height, width), "timestep": torch.tensor([981, 20])[:batch],
            "encoder_hidden_states": rand("text", batch, TOKENS, CONTEXT), "frame_stride": 3,
            "first_frame_latents": rand("first", batch, 4, 1, height, width)}


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of single letters, in the published layout with its two contradictory settings of padding."""
    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "do</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd o</w>\n")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps({**ends, "pad_token": "!"}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {**ends, "pad_token": "<|endoftext|>", "model_max_length": 8, "tokenizer_class": "CLIPTokenizer"}))
    return folder


def small_text_encoder(tokenizer: Path) -> CLIPTextEmbedder:
    """A text encoder of the small tokenizer's vocabulary."""
    embedder = CLIPTextEmbedder(tokenizer=str(tokenizer), config={
        "vocab_size": 2 * len(LETTERS) + 3, "hidden_size": CONTEXT, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 16})
    fill_module(embedder.model)
    return embedder


def small_autoencoder() -> DiffusersAutoencoderKL:
    """An autoencoder that halves the size."""
    autoencoder = DiffusersAutoencoderKL(config=VAE).eval()
    fill_module(autoencoder.model)
    return autoencoder


def write_folder(folder: Path) -> Path:
    """A complete published folder."""
    text_encoder = small_text_encoder(write_tokenizer(folder.with_name(f"{folder.name}_tokenizer")))
    published_folder.save_folder(folder, small_denoiser(), small_autoencoder(), text_encoder, SCHEDULER)
    return folder
