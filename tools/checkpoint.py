"""Read and write weights: safely, atomically, from local paths or hub names, in the layouts that users have."""
import hashlib
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file as save_safetensors

from tools.errors import UserError
from tools.files import replacing

log = logging.getLogger(__name__)

HUBS = ("hf://", "modelscope://")
# Weights in a folder of the layout that diffusers and transformers write; the first that is there counts.
WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "model.safetensors",
                "pytorch_model.bin")


def locate(path: str | Path) -> Path:
    """Local file for a path or a hub name.

    Args:
        path: a local path, `hf://owner/repo/file` or `modelscope://owner/repo/file`; hub files are cached by the
            hub's own library and fetched once. A folder (on a hub: a name without suffix) stands for the weights that
            diffusers or transformers wrote into it.

    Raises:
        UserError: the file is not there and cannot be had; says which file, where it is expected, how to get it.
    """
    for hub in HUBS:
        if str(path).startswith(hub):
            return _download(hub, str(path))
    file = Path(path)
    if file.is_dir():
        return _weights_in(file)
    if not file.is_file():
        raise UserError(f"weights '{path}' are not there (looked for {file.absolute()}); put the file there, "
                        "or name a hub file as hf://owner/repo/file or modelscope://owner/repo/file")
    return file


def _weights_in(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"weights: the folder '{folder}' is incomplete, it holds none of {', '.join(WEIGHT_NAMES)}")


def _download(hub: str, path: str) -> Path:
    parts = path.removeprefix(hub).rstrip("/").split("/", 2)
    if len(parts) < 3:
        raise UserError(f"weights '{path}': write {hub}owner/repo/file")
    repository, name = f"{parts[0]}/{parts[1]}", parts[2]
    errors = []
    for file in [name] if Path(name).suffix else [f"{name}/{weights}" for weights in WEIGHT_NAMES]:
        try:
            return _fetch(hub, path, repository, file)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _fetch(hub: str, path: str, repository: str, name: str) -> Path:
    try:
        if hub == "hf://":
            from huggingface_hub import hf_hub_download
            return Path(hf_hub_download(repository, name))
        from modelscope.hub.file_download import model_file_download
        return Path(model_file_download(repository, name))
    except Exception as error:
        raise UserError(f"weights '{path}' could not be fetched ({type(error).__name__}: {_reason(error)}); when "
                        f"offline, get '{name}' of {repository} elsewhere and name the path of the file") from error


def load_file(path: str) -> dict:
    """Whatever a weights file holds, without running code from it.

    Raises:
        UserError: missing, truncated, or a pickle that wants to run code (it is refused and does not run).
    """
    file = locate(str(path))
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no dict
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):  # holds tensors, in text embedding files
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"weights '{path}' are damaged or not safetensors ({error}); fetch the file again") from error
    except (EOFError, RuntimeError, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"weights '{path}' are damaged or truncated ({_reason(error)}); fetch the file "
                        "again") from error
    except Exception as error:  # pickle.UnpicklingError and what broken pickles raise inside torch's reader
        raise UserError(f"weights '{path}' refused: not a plain tensor file, it asks to run code or is no checkpoint "
                        f"({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """First line of an error's text, cut; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def load_state(path: str) -> dict[str, torch.Tensor]:
    """State dict of a weights file, unwrapped from `{'state_dict': ..., 'step': ...}` where it is wrapped."""
    return state_of(load_file(path), path)


def state_of(content: dict, path: str) -> dict[str, torch.Tensor]:
    """State dict in what `load_file` read from `path`; UserError where there is none."""
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"weights '{path}' hold no state dict (name -> tensor)")
    return state


def strip_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Entries whose key contains `prefix`, without it; the whole state when none does."""
    chosen = {key.replace(prefix, "", 1): value for key, value in state.items() if prefix in key}
    return chosen or state


def load_into(model: torch.nn.Module, state: dict[str, torch.Tensor], what: str,
              only: Iterable[str] | None = None) -> None:
    """Strict load.

    Args:
        model: receives the weights; tensors are cast to its types.
        state: the weights.
        what: names the file and the component in the message.
        only: names of the entries that the state must hold, where it is a part of the model's; None: all of them.

    Raises:
        UserError: names the first missing, unexpected and mis-shaped keys.
    """
    own = model.state_dict()
    if only is not None:
        own = {key: own[key] for key in only}
    problems = describe_mismatch(own, state)
    if problems:
        raise UserError(f"{what}: weights of another model or configuration: {problems}")
    model.load_state_dict(state, strict=only is None)


def describe_mismatch(own: dict, state: dict) -> str:
    """One clause that counts and names the first missing, unexpected and mis-shaped keys; empty when all fit."""
    groups = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in own
                             if k in state and own[k].shape != state[k].shape],
    }
    return "; ".join(f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in groups.items() if keys)


def save_file(content: dict, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write `content` atomically: safetensors by suffix, else a torch file.

    Args:
        content: name -> tensor for safetensors; anything that a safe load accepts otherwise.
        metadata: strings stored in a safetensors header.
    """
    if Path(path).suffix == ".safetensors":
        tensors = {key: value.detach().contiguous().cpu() for key, value in content.items()}
        with replacing(path) as temporary:
            save_safetensors(tensors, temporary, metadata)
    else:
        with replacing(path) as temporary:
            torch.save(content, temporary)


def save_text(text: str, path: Path) -> None:
    """Write a text file atomically, UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def step_of(path: str) -> int:
    """Training step in a file name: the number between the last `_` and the next `.`; 0 when there is none."""
    tail = Path(path).name.rsplit("_", 1)[-1].split(".", 1)[0]
    return int(tail) if tail.isdigit() else 0


def digest(path: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a weights file, for sidecars."""
    sha = hashlib.sha256()
    with open(locate(path), "rb") as opened:
        while block := opened.read(1 << 22):
            sha.update(block)
    return sha.hexdigest()[:16]


def by_age(folder: Path, pattern: str) -> list[Path]:
    """Files of `folder` matching `pattern`, the last written last.

    By time, not by step: a folder may hold higher steps of an earlier run, which the present one does not continue.
    """
    return sorted(Path(folder).glob(pattern), key=lambda f: (f.stat().st_mtime_ns, step_of(f.name)))


def remove_old(folder: Path, pattern: str, keep: int) -> None:
    """Delete all but the `keep` last written files of `folder` matching `pattern`; keep all for 0."""
    for file in by_age(folder, pattern)[:-keep] if keep else ():
        file.unlink()


def parameter_count(modules: Iterable[torch.nn.Module]) -> int:
    """Number of parameters in all modules together."""
    return sum(p.numel() for module in modules for p in module.parameters())
