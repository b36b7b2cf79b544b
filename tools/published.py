"""Model folders as diffusers publishes them: a sub-folder per part, each with a JSON beside its weights.

A part is named by its path: `models/ConsistI2V/vae`, or `hf://owner/repo/vae` on a hub.
"""
import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from tools import checkpoint
from tools.errors import UserError

DIFFUSERS_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
# What each part must hold; of a tuple, one.
PARTS = {
    "unet": ("config.json", DIFFUSERS_WEIGHTS),
    "vae": ("config.json", DIFFUSERS_WEIGHTS),
    "text_encoder": ("config.json", TRANSFORMERS_WEIGHTS),
    "tokenizer": TOKENIZER_FILES[:2],
    "scheduler": ("scheduler_config.json",),
}
VERSION = "0.21.2"  # of diffusers, whose layout is written


def root(path: str) -> str:
    """The folder's name with which `part` and `checkpoint.locate` work.

    Args:
        path: a local folder, `hf://owner/repo`, `modelscope://owner/repo`, or a hub name `owner/repo`.

    Raises:
        UserError: neither a folder that exists nor a hub name.
    """
    path = str(path).rstrip("/")
    if path.startswith(checkpoint.HUBS) or Path(path).is_dir():
        return path
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        return f"hf://{path}"
    raise UserError(f"no model folder '{path}' (looked for {Path(path).absolute()}); name the folder that holds "
                    "unet/, vae/, text_encoder/ ..., or a hub name owner/repo")


def part(path: str, name: str) -> str:
    """Path of the part `name` of a published folder; errors as `root`."""
    return f"{root(path)}/{name}"


def check_complete(path: str, parts: Iterable[str] = tuple(PARTS), variant: str | None = None) -> None:
    """Refuse a local folder that lacks files; what a hub has is known when it is fetched.

    Args:
        path: as for `root`.
        parts: sub-folders that are needed.
        variant: of the denoiser's weights, see `weights`.

    Raises:
        UserError: names every file that is missing.
    """
    folder = root(path)
    if folder.startswith(checkpoint.HUBS):
        return
    missing = []
    for name in parts:
        for needed in PARTS[name]:
            names = [needed] if isinstance(needed, str) else [with_variant(n, variant if name == "unet" else None)
                                                              for n in needed]
            if not any(Path(folder, name, n).is_file() for n in names):
                missing.append(" or ".join(f"{name}/{n}" for n in names))
    if missing:
        raise UserError(f"model folder '{path}' is incomplete: it lacks {', '.join(missing)}; fetch it again")


def weights(path: str, variant: str | None = None) -> str:
    """What `checkpoint` loads for a part: the part itself, or with a variant its `name.variant.safetensors`."""
    return f"{path}/{with_variant(DIFFUSERS_WEIGHTS[0], variant)}" if variant else path


def with_variant(name: str, variant: str | None) -> str:
    """`model.safetensors` -> `model.fp16.safetensors`."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}" if variant else name


def read_json(path: str) -> dict:
    """A JSON object by path or hub name.

    Raises:
        UserError: not there, or no JSON object.
    """
    file = checkpoint.locate(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is no JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' must hold a JSON object")
    return content


def read_config(path: str) -> dict:
    """Constructor options of a part: its config.json without the keys that describe the file."""
    return {key: value for key, value in read_json(f"{path}/config.json").items() if not key.startswith("_")}


def save_part(folder: Path, class_name: str, config: dict, state: dict[str, torch.Tensor]) -> None:
    """Write config.json and weights of a diffusers model, each atomically."""
    save_json({"_class_name": class_name, "_diffusers_version": VERSION, **config}, Path(folder) / "config.json")
    checkpoint.save_file(state, Path(folder) / DIFFUSERS_WEIGHTS[0], {"format": "pt"})


def save_json(content: dict, path: Path) -> None:
    """Write a JSON object atomically, sorted as diffusers does."""
    checkpoint.save_text(json.dumps(content, indent=2, sort_keys=True) + "\n", path)
