"""`--check`: build a run's whole wiring without weights and say what it needs.

Every component is constructed on the meta device from its section, and the denoiser is called once, so that a wrong
key, name or size is found in seconds and before any file is read.
"""
import functools
import inspect
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from tools.config import Config, is_training
from tools.defaults import KEYS
from tools.embedders.features import image_vectors, text_tokens
from tools.engines.engine import Engine
from tools.errors import UserError
from tools.memory import peak_bytes
from tools.registry import DATASETS, ENGINE, PRETRAIN, REGISTRIES, VISUAL, load_components

HUBS = ("hf://", "modelscope://")
# Keys of sections, and top-level keys of sampling, that name files or folders.
SECTION_PATHS = ("pretrained", "resume_checkpoint", "sd_keys_path", "pretrained_image_keys", "data_list",
                 "data_dir_list")
SAMPLING_PATHS = ("test_model", "base_model", "identity_adapter_path", "motion_adapter_path", "text_embedding_path",
                  "latents_path", "test_list_path", "refine_dir")
BYTES = 4
GIB = 2**30


def check(cfg: Config) -> str:
    """Build the wiring and describe it.

    Raises:
        UserError: the wiring is not sound: an unknown component or key, a size that does not fit.
    """
    load_components(cfg.imports)
    engine, mode = _task(cfg)
    if hasattr(engine, "configurations"):  # of several tasks
        return "\n\n".join(f"stage {name}: {check(stage)}" for name, stage in engine.configurations(cfg).items())
    training = mode == "train"
    modules = {name: _build(cfg, name, engine) for name in getattr(engine, "sections", ())}
    sections = dict.fromkeys(modules)
    if training:
        sections |= dict.fromkeys(_check_training_sections(cfg, getattr(engine, "clip_section", "vid_dataset")))
    plan = _plan(cfg, engine, training)
    lines = [f"task {cfg.TASK_TYPE}: {'training' if training else 'sampling'}, {plan[0]} x {plan[1]} frames of "
             f"{plan[2]}x{plan[3]}", "", *_component_lines(cfg, modules), ""]
    further = engine.further_files(cfg, mode) if hasattr(engine, "further_files") else []
    lines += [*_file_lines(cfg, sections, training, further), ""]
    lines += _memory_lines(cfg, modules, training, plan, getattr(engine, "frozen_copies", 0))
    return "\n".join(lines)


def _task(cfg: Config) -> tuple[type, str]:
    """Engine class and mode of the configuration's task; a task of the user's own may be any class or function."""
    registered = ENGINE.get(cfg.TASK_TYPE)
    if isinstance(registered, functools.partial):
        registered.func.adopt(cfg)
        return registered.func.for_config(cfg), registered.keywords["mode"]
    return registered, "train" if is_training(cfg.TASK_TYPE) else "sample"


def _build(cfg: Config, name: str, engine: type) -> object:
    """The component on the meta device, without its weights."""
    section = engine.section(cfg, name) if hasattr(engine, "section") else cfg.get(name)
    registry = REGISTRIES[KEYS[name].registry]
    if section is None:
        raise UserError(f"{cfg.cfg_file}: section '{name}' is missing ({KEYS[name].help})")
    given = {"pretrained": None} if "pretrained" in registry.parameters(section.get("type")) else {}
    if name == "UNet" and hasattr(engine, "network_options"):
        given |= engine.network_options(cfg)
    if name == "Diffusion":  # tables are numbers, not weights
        return registry.build(section)
    with torch.device("meta"):
        return registry.build(section, **given)


def _check_training_sections(cfg: Config, clips: str) -> list[str]:
    """Check the sections of training that cannot be built without data or weights; returns their names."""
    names = sorted({"img_dataset" if frames == 1 else clips for frames in cfg.frame_lens})
    for name in names:
        section = cfg.get(name)
        if section is None:
            raise UserError(f"{cfg.cfg_file}: section '{name}' is missing; frame_lens {cfg.frame_lens} asks for it")
        known = DATASETS.parameters(section.get("type"))
        supplied = ("sample_fps", "max_frames", "transforms", "vit_transforms")
        DATASETS.arguments(section, **{key: None for key in supplied if key in known})
    for name, registry, given in (("Pretrain", PRETRAIN, {"model": None}), ("visual_train", VISUAL, {})):
        if cfg.get(name):
            registry.arguments(cfg[name], **given)
            names.append(name)
    return names


def _plan(cfg: Config, engine: type, training: bool) -> tuple[int, int, int, int]:
    """Videos, frames, width and height that the networks see together."""
    if training:
        return *_largest_batch(cfg), *cfg.resolution
    sample_size = getattr(engine, "sample_size", Engine.sample_size)
    return sample_size(cfg)


def _largest_batch(cfg: Config) -> tuple[int, int]:
    """Batch size and frames of the rank that has most to do."""
    for frames in cfg.frame_lens:
        if str(frames) not in cfg.batch_sizes:
            raise UserError(f"{cfg.cfg_file}: batch_sizes has no entry for the {frames} frames of frame_lens")
    return max(((cfg.batch_sizes[str(frames)], frames) for frames in cfg.frame_lens), key=math.prod)


def _component_lines(cfg: Config, modules: dict) -> Iterator[str]:
    yield f"{'component':14} {'parameters':>15}  type"
    for name, module in modules.items():
        yield f"{name:14} {_parameters(module):>15,}  {cfg[name]['type']}"
    yield f"{'together':14} {sum(map(_parameters, modules.values())):>15,}"


def _parameters(module: object) -> int:
    return sum(p.numel() for p in module.parameters()) if isinstance(module, nn.Module) else 0


def _file_lines(cfg: Config, sections: dict, training: bool, further: list[tuple[str, str]]) -> Iterator[str]:
    yield f"{'file':9} key"
    paths = [(f"{name}.{key}", cfg[name].get(key)) for name in sections for key in SECTION_PATHS if key in cfg[name]]
    if not training:
        paths += [(key, cfg.get(key)) for key in SAMPLING_PATHS]
    paths += further
    for key, value in paths:
        for path in value if isinstance(value, list) else [value]:
            if path:
                yield f"{_state(path):9} {key}: {path}"


def _state(path: str) -> str:
    return "hub" if path.startswith(HUBS) else "there" if Path(path).exists() else "MISSING"


def _memory_lines(cfg: Config, modules: dict, training: bool, plan: tuple[int, int, int, int],
                  frozen_copies: int) -> Iterator[str]:
    half = _is_half(cfg)
    weights = BYTES * sum(map(_parameters, modules.values()))
    parts = {"weights": weights}
    if training and modules:
        trained = next(iter(modules.values()))
        copies = {"gradients": 1, "optimiser": 2, "average of the weights": int(bool(cfg.use_ema)),
                  "frozen copies": frozen_copies}
        parts |= {name: BYTES * _parameters(trained) * count for name, count in copies.items() if count}
    if {"UNet", "auto_encoder", "embedder"} <= modules.keys():
        parts["activations"] = _activations(cfg, modules, training, plan) // (2 if half else 1)
    yield f"{'memory':24} GiB, estimated for {'16-bit autocast' if half else 'float32'} and one rank"
    for name, size in (parts | {"together": sum(parts.values())}).items():
        yield f"{name:24} {size / GIB:7.2f}"


def _is_half(cfg: Config) -> bool:
    """Whether networks run in 16 bits on this machine, by the rule of `runtime.start`."""
    if cfg.precision != "auto":
        return cfg.precision != "fp32"
    return cfg.use_fp16 and cfg.device != "cpu" and torch.cuda.is_available()


def _activations(cfg: Config, modules: dict, training: bool, plan: tuple[int, int, int, int]) -> int:
    """Bytes at the worst moment: in the denoiser (with its gradients' transients in training) or the autoencoder."""
    batch, frames, width, height = plan
    if not training and cfg.guide_scale is not None and cfg.batched_guidance:
        batch *= 2
    latents = torch.empty(batch, cfg.auto_encoder.get("embed_dim", 4), frames, height // cfg.scale, width // cfg.scale,
                          device="meta")
    return max(_denoiser_bytes(cfg, modules, latents, training), _autoencoder_bytes(cfg, modules, latents, training))


def _denoiser_bytes(cfg: Config, modules: dict, latents: torch.Tensor, training: bool) -> int:
    network = modules["UNet"].train(training)
    conditions = _conditions(cfg, modules, latents)

    def run() -> None:
        with torch.set_grad_enabled(training):
            out = network(latents, torch.zeros(len(latents), device="meta"), **conditions)
        if training:
            torch.autograd.backward(out, torch.empty_like(out))

    try:
        peak = peak_bytes(run)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"UNet {cfg.UNet['type']} does not take latents {list(latents.shape)} with conditions "
                        f"{ {name: list(c.shape) for name, c in conditions.items()} }: "
                        f"{str(error).splitlines()[0]}") from error
    return peak - (BYTES * _parameters(network) if training else 0)


def _conditions(cfg: Config, modules: dict, latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the family's denoisers are told, as far as this one's forward takes it."""
    batch = len(latents)
    taken = inspect.signature(modules["UNet"].forward).parameters
    conditions = {"y": text_tokens(modules["embedder"], [""]).expand(batch, -1, -1),
                  "fps": torch.zeros(batch, device="meta"), "local_image": latents}
    if "image" in taken:
        picture = torch.empty(1, 3, *reversed(cfg.vit_resolution), device="meta")
        conditions["image"] = image_vectors(modules["embedder"], picture).expand(batch, -1).unsqueeze(1)
    if hasattr(modules["UNet"], "example_conditions"):
        examples = modules["UNet"].example_conditions(latents, tuple(reversed(cfg.resolution)))
        return examples | {name: value for name, value in conditions.items()
                           if name in taken and (name in ("y", "fps") or (name == "image" and name in examples))}
    return {name: value for name, value in conditions.items() if name in taken}


def _autoencoder_bytes(cfg: Config, modules: dict, latents: torch.Tensor, training: bool) -> int:
    autoencoder, count = modules["auto_encoder"], latents.shape[0] * latents.shape[2]
    if training:
        pixels = torch.empty(min(cfg.chunk_size, count), 3, *reversed(cfg.resolution), device="meta")
        return peak_bytes(torch.no_grad()(lambda: autoencoder.encode(pixels)))
    z = torch.empty(min(cfg.decoder_bs, count), *latents.shape[1:2], *latents.shape[3:], device="meta")
    return peak_bytes(torch.no_grad()(lambda: autoencoder.decode(z)))
