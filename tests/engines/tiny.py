"""Whole tasks in seconds: networks of the real classes, a few thousand parameters each, and YAML files that use them.

The weights are filled by rule, so that no zero-initialised layer hides what a condition does.
"""
import json
from pathlib import Path

import numpy as np
import torch
import yaml

from tests.goldens.reader import fill_module, uniform
from tools import checkpoint
from tools.cli import parse, prepare, run_task
from tools.config import Config
from tools.media import write_png
from tools.registry import AUTO_ENCODER, EMBEDDER, ENGINE, MODEL, load_components

WIDTH, SIDE, FRAMES = 32, 32, 3
CLIP = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": WIDTH, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
}
DDCONFIG = {"double_z": True, "z_channels": 4, "resolution": SIDE, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1, 1, 1], "num_res_blocks": 0, "attn_resolutions": [], "dropout": 0.0}
UNET = {"in_dim": 4, "out_dim": 4, "dim": 32, "dim_mult": [1, 2], "attn_scales": [0.5], "num_heads": 2, "head_dim": 16,
        "num_res_blocks": 1, "context_dim": WIDTH, "y_dim": WIDTH, "dropout": 0.1, "use_checkpoint": False}
UNETS = {"t2v": "UNetSD_T2VBase", "i2v": "UNetSD_I2VGen", "higen": "UNetSD_HiGen", "sr": "UNetSD_SR600"}
TASKS = {"t2v": ("train_t2v_entrance", "inference_text2video_entrance"),
         "i2v": ("train_i2v_vs_img_text_entrance", "inference_i2vgen_entrance"),
         "higen": ("train_t2v_higen_entrance", "inference_higen_entrance"),
         "sr": ("train_sr600_entrance", "inference_sr600_entrance")}
COSINE = {"schedule": "cosine", "mean_type": "v", "schedule_param": {"num_timesteps": 1000, "zero_terminal_snr": True}}
OWN_KEYS = {"sr": {"Diffusion": {"type": "DiffusionDDIMSR", "reverse_diffusion": COSINE, "forward_diffusion": COSINE},
                   "sr_resolution": [2 * SIDE, 2 * SIDE], "sr_steps": 3}}


class Tiny:
    """Weights in one folder, and the YAML files that use them.

    Args:
        folder: where the weights are written.
    """

    def __init__(self, folder: Path):
        load_components()
        self.folder = folder
        self.arch = folder / "clip.json"
        self.arch.write_text(json.dumps(CLIP))
        modules = {"clip": EMBEDDER.build({"type": "FrozenOpenCLIPTextVisualEmbedder", "arch": str(self.arch)}).model,
                   "autoencoder": AUTO_ENCODER.build({"type": "AutoencoderKL", "ddconfig": DDCONFIG, "embed_dim": 4})}
        modules |= {method: MODEL.build({"type": name, **UNET}) for method, name in UNETS.items()}
        for name, module in modules.items():
            checkpoint.save_file(fill_module(module).state_dict(), self.weights(name))

    def weights(self, name: str) -> Path:
        """File of `clip`, `autoencoder`, or a method of `UNETS`."""
        return self.folder / f"{name}.safetensors"

    def shared(self, method: str) -> dict:
        """What training and sampling of a method have in common."""
        return {
            "resolution": [SIDE, SIDE], "vit_resolution": [SIDE, SIDE], "max_frames": FRAMES, "sample_fps": [8],
            "negative_prompt": "", "num_workers": 0, "device": "cpu", "scale_factor": 0.5, "ddim_timesteps": 4,
            "auto_encoder": {"type": "AutoencoderKL", "ddconfig": DDCONFIG, "embed_dim": 4,
                             "pretrained": str(self.weights("autoencoder"))},
            "embedder": {"type": "FrozenOpenCLIPTextVisualEmbedder", "arch": str(self.arch),
                         "pretrained": str(self.weights("clip")), "layer": "penultimate"},
            "UNet": {"type": UNETS[method], **UNET}, **OWN_KEYS.get(method, {}),
        }

    def training(self, folder: Path, method: str, name: str = "train.yaml", **changes) -> str:
        """YAML of a training run from scratch; it writes below `folder/runs`."""
        return write_yaml(folder / name, self.shared(method) | {
            "TASK_TYPE": TASKS[method][0], "frame_lens": [FRAMES], "batch_sizes": {str(FRAMES): 2}, "num_steps": 5,
            "vid_dataset": {"type": "ProceduralVideoDataset", "length": 6, "resolution": [SIDE, SIDE],
                            "vit_resolution": [SIDE, SIDE]},
            "Pretrain": None, "visual_train": None, "lr": 1e-3, "warmup_steps": 2, "p_zero": 0.3, "p_image_zero": 0.3,
            "use_ema": False, "tensorboard": False, "log_interval": 1, "save_ckp_interval": 1000,
            "log_dir": str(folder / "runs"), **changes})

    def sampling(self, folder: Path, method: str, lines: list[str], name: str = "sample.yaml", **changes) -> str:
        """YAML of a sampling run over a list of these lines; it writes below `folder/runs`."""
        prompts = folder / f"{Path(name).stem}_list.txt"
        prompts.write_text("".join(line + "\n" for line in lines))
        return write_yaml(folder / name, self.shared(method) | {
            "TASK_TYPE": TASKS[method][1], "test_list_path": str(prompts), "test_model": str(self.weights(method)),
            "guide_scale": 3.0, "use_zero_infer": True, "seed": 5, "log_dir": str(folder / "runs"), **changes})

    def picture(self, folder: Path, name: str) -> Path:
        """A picture fixed by its name, wider than high."""
        pixels = (uniform(name, (40, 56, 3), scale=0.5, offset=0.5) * 255).astype(np.uint8)
        return write_png(folder / name, pixels)


def write_yaml(path: Path, content: dict) -> str:
    """Write a YAML file and return its path."""
    path.write_text(yaml.safe_dump(content))
    return str(path)


def resolve(cfg_file: str, *overrides) -> Config:
    """The configuration of a command line."""
    return prepare(parse(["--cfg", cfg_file, *map(str, overrides)], ""))


def run(cfg_file: str, *overrides) -> Path:
    """Run the task of a command line; returns the folder of a training run, or of the videos."""
    cfg = resolve(cfg_file, *overrides)
    run_task(cfg)
    name = cfg.get("test_list_path", cfg.cfg_file)
    return Path(cfg.log_dir) / Path(name).stem


def engine(cfg_file: str, *overrides):
    """The engine of a command line, not run."""
    cfg = resolve(cfg_file, *overrides)
    load_components(cfg.imports)
    return ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)


def weights(folder: Path, step: int, kind: str = "non_ema") -> dict[str, torch.Tensor]:
    """Plain weights of a training run."""
    return checkpoint.load_state(folder / "checkpoints" / f"{kind}_{step:08d}.pth")


def metrics(folder: Path) -> list[dict]:
    """Lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
