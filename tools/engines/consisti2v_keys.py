"""ConsistI2V's own YAML keys, for users who bring their files: each becomes the key here that it stands for.

A key of this project that a file or the command line states wins over the original's. What is stated nowhere gets the
original's default, as far as one of its sections is there at all.
"""
from typing import Any

from tools import published
from tools.defaults import KEYS
from tools.defaults import ORIGIN as DEFAULT_ORIGIN
from tools.errors import UserError, nearest
from tools.kinds import convert
from tools.models.consisti2v.folder import read_options

ORIGIN = "ConsistI2V's keys"
NETWORK = "VideoLDMUNet3DConditionModel"
# Original key -> (key here, original default).
SAMPLING = {
    "sampling_kwargs.n_frames": ("max_frames", 16),
    "sampling_kwargs.steps": ("ddim_timesteps", 50),
    "sampling_kwargs.ddim_eta": ("eta", 0.0),
    "sampling_kwargs.guidance_scale_txt": ("guide_scale", 7.5),
    "sampling_kwargs.guidance_scale_img": ("guide_scale_img", 1.0),
    "sampling_kwargs.guidance_rescale": ("guide_rescale", 0.0),
    "sampling_kwargs.num_videos_per_prompt": ("round", 1),
    "sampling_kwargs.frame_stride": ("frame_stride", 3),
    "sampling_kwargs.autoregress_steps": ("autoregress_steps", 1),
}
TRAINING = {
    "learning_rate": ("lr", 3e-5),
    "adam_weight_decay": ("weight_decay", 1e-2),
    "gradient_accumulation_steps": ("grad_accumulation", 1),
    "max_grad_norm": ("grad_clip", 1.0),
    "cfg_random_null_text_ratio": ("p_zero", 0.1),
    "cfg_random_null_img_ratio": ("p_local_image_zero", 0.0),
}
LR_SCHEDULERS = {"constant": "none", "constant_with_warmup": "none", "linear": "linear", "cosine": "cosine"}
PRECISIONS = {"no": "fp32", False: "fp32", "fp16": "fp16", "bf16": "bf16"}  # YAML reads an unquoted no as false
DATASETS = {"webvid": ("WebVid10M", "webvid_config"), "pexels": ("Pexels", "pexels_config"), "joint": ("JointDataset",)}
SECTIONS = {
    "sampling_kwargs": {"height", "width", *(key.partition(".")[2] for key in SAMPLING)},
    "frameinit_kwargs": {"enable", "camera_motion", "noise_level", "filter_params"},
    "train_data": {"dataset", "pexels_config", "webvid_config", "sample_size", "sample_stride", "sample_n_frames",
                   "sample_duration", "sample_fps", "short_clips", "picture_fit"},
}
NOISE_KEYS = ("noise_sampling_method", "noise_alpha")


def adopt(cfg) -> None:
    """Fill in this project's keys from the original's, in place.

    Raises:
        UserError: an unknown key in one of the original's sections, a value that has no counterpart.
    """
    for section, known in SECTIONS.items():
        for key in cfg.get(section) or {}:
            if key not in known:
                raise UserError(f"{section}: unknown key '{key}'{nearest(key, known)}; it takes "
                                f"{', '.join(sorted(known))}")
    _set(cfg, "log_dir", cfg.get("output_dir"))
    _set(cfg, "negative_prompt", "")
    if cfg.get("sampling_kwargs"):
        _adopt_table(cfg, SAMPLING)
        size = cfg["sampling_kwargs"]
        _set(cfg, "resolution", [size.get("width", 256), size.get("height", 256)])
    if cfg.get("train_data"):
        _set(cfg, "max_frames", _frames_of(cfg["train_data"]))
    _adopt_frameinit(cfg)
    _adopt_components(cfg)
    if cfg.get("train_data"):
        _adopt_training(cfg)
    if any(side % cfg.scale for side in cfg.resolution):
        raise UserError(f"height and width must be multiples of {cfg.scale}, not {cfg.resolution[::-1]}")


def _adopt_table(cfg, table: dict) -> None:
    for source, (target, default) in table.items():
        value = _lookup(cfg, source)
        try:
            _set(cfg, target, default if value is None else convert(value, KEYS[target]))
        except ValueError as error:
            raise UserError(f"{source} {error}") from None


def _adopt_frameinit(cfg) -> None:
    given = cfg.get("frameinit_kwargs")
    if not given:
        return
    _set(cfg, "camera_motion", given.get("camera_motion"))
    options = {key: given[key] for key in ("noise_level", "filter_params") if given.get(key) is not None}
    _set(cfg, "noise_init", {"type": "FrameInit", **options} if given.get("enable") else None)


def _adopt_components(cfg) -> None:
    """Network, process, autoencoder and text encoder from the published folder and what overrides its options."""
    extra = dict(cfg.get("unet_additional_kwargs") or {})
    variant = extra.pop("variant", None)
    noise = {key: extra.pop(key) for key in NOISE_KEYS if extra.get(key) is not None}
    path = cfg.get("pipeline_pretrained_path") or cfg.get("pretrained_model_path")
    schedule = cfg.get("noise_scheduler_kwargs")
    if path:
        published.check_complete(path, [name for name in published.PARTS if name != "scheduler" or schedule is None],
                                 variant)
    if schedule is None and path:
        schedule = published.read_json(published.part(path, "scheduler") + "/scheduler_config.json")
    if schedule is not None:
        _set(cfg, "Diffusion", {"type": "DDIMScheduler", **schedule, **noise})
    if not path:
        return
    unet = published.part(path, "unet")
    if cfg.get("is_image"):
        extra |= {"use_temporal": False}
    if cfg.get("gradient_checkpointing"):
        extra |= {"use_checkpoint": True}
    _set(cfg, "UNet", {"type": NETWORK, **read_options(unet), **extra, "n_frames": cfg.max_frames})
    _set(cfg, "auto_encoder", {"type": "DiffusersAutoencoderKL", "pretrained": published.part(path, "vae")})
    _set(cfg, "embedder", {"type": "CLIPTextModel", "pretrained": published.part(path, "text_encoder")})
    _set(cfg, "test_model", published.weights(unet, variant))
    _set(cfg, "Pretrain", {"type": "pretrain_consisti2v", "pretrained_model_path": path, "variant": variant,
                           "unet_path": cfg.get("unet_path"), "unet_ckpt_prefix": cfg.get("unet_ckpt_prefix")})
    vae = published.read_config(published.part(path, "vae"))
    _set(cfg, "scale_factor", vae.get("scaling_factor", 0.18215))
    _set(cfg, "scale", 2 ** (len(vae["block_out_channels"]) - 1))


def _adopt_training(cfg) -> None:
    data = cfg["train_data"]
    _adopt_table(cfg, TRAINING)
    frames = cfg.max_frames
    _set(cfg, "frame_lens", [frames])
    _set(cfg, "batch_sizes", {str(frames): cfg.get("train_batch_size") or 1})
    _set(cfg, "sample_fps", [data["sample_fps"]] if data.get("sample_fps") else None)
    size = data.get("sample_size", 256)
    _set(cfg, "resolution", [size, size] if isinstance(size, int) else [size[1], size[0]])
    _set(cfg, "vid_dataset", _dataset(data, bool(cfg.get("is_image"))))
    schedule = cfg.get("lr_scheduler") or "constant"
    _set(cfg, "decay_mode", _choice("lr_scheduler", schedule, LR_SCHEDULERS))
    _set(cfg, "warmup_steps", 0 if schedule == "constant" else cfg.get("lr_warmup_steps") or 0)
    if cfg.get("mixed_precision") is not None:
        _set(cfg, "precision", _choice("mixed_precision", cfg["mixed_precision"], PRECISIONS))
    _set(cfg, "ema_warmup", "diffusers")
    _set(cfg, "use_ema", bool(cfg.get("use_ema")))
    _set_steps(cfg, "num_steps", cfg.get("max_train_steps"), 100, minus=1)
    _set_steps(cfg, "save_ckp_interval", cfg.get("checkpointing_steps"), -1)
    _set(cfg, "viz_interval", cfg.get("validation_steps") or 100)
    _set(cfg, "visual_train", _validation(cfg.get("validation_data")))


def _frames_of(data: dict) -> int:
    """Frames of a clip: their number, or a duration times a rate."""
    if data.get("sample_duration") is None:
        return data.get("sample_n_frames") or 16
    if not data.get("sample_fps"):
        raise UserError("train_data.sample_duration needs sample_fps, the clips' frames per second")
    return int(data["sample_duration"] * data["sample_fps"])


def _dataset(data: dict, is_image: bool) -> dict:
    name = data.get("dataset", "webvid")
    kind, *own = _choice("train_data.dataset", name, DATASETS)
    keys = ("sample_size", "sample_stride", "sample_duration", "short_clips", "picture_fit")
    options = {key: data[key] for key in keys if data.get(key) is not None}
    if own:
        options |= {key: value for key, value in (data.get(own[0]) or {}).items() if key != "enable"}
    else:
        options |= {key: data[key] for key in ("webvid_config", "pexels_config") if data.get(key)}
    return {"type": kind, "is_image": is_image, **options}


def _validation(data: dict | None) -> dict | None:
    return {"type": "VisualPrompts", **data} if data else None


def _set_steps(cfg, key: str, steps: int | None, default: int, minus: int = 0) -> None:
    """Steps by number; -1 leaves them to be counted from epochs, when the dataset is known."""
    steps = default if steps is None else steps
    if steps != -1:
        _set(cfg, key, steps - minus)


def _choice(key: str, value: Any, known: dict) -> Any:
    if value not in known:
        raise UserError(f"{key} '{value}' has no counterpart{nearest(value, map(str, known))}; "
                        f"there are {', '.join(map(str, known))}")
    return known[value]


def _lookup(cfg, path: str) -> Any:
    section, _, key = path.rpartition(".")
    return (cfg.get(section) or {}).get(key) if section else cfg.get(key)


def _set(cfg, key: str, value: Any) -> None:
    """Give a key a value unless someone has stated it; None for `noise_init` and `visual_train` is a value."""
    if value is None and key not in ("noise_init", "visual_train"):
        return
    stated = any(origin != DEFAULT_ORIGIN for name, origin in cfg.provenance.items()
                 if name == key or name.startswith(f"{key}."))
    if not stated:
        cfg[key] = value
        cfg.provenance[key] = ORIGIN
