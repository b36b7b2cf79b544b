"""What a ConsistI2V run leaves beside its videos, as the original's do: a grid, the settings, the whole model."""
from pathlib import Path

import yaml

from tools import checkpoint
from tools.autoencoders.diffusers_kl import DiffusersAutoencoderKL
from tools.embedders.clip_text import CLIPTextEmbedder
from tools.engines.consisti2v_keys import NOISE_KEYS
from tools.errors import UserError
from tools.media import plain_grid, probe_video, read_frames, write_video
from tools.models.consisti2v.folder import save_folder, save_unet

GRID_COLUMNS = 4


def write_grid(paths: list[Path], file: Path, fps: float) -> None:
    """One video of all videos that are there, four in a row; nothing where there is none."""
    clips = [read_frames(path, range(probe_video(path).frames)) for path in paths if path.is_file()]
    if clips:
        frames = min(len(clip) for clip in clips)
        write_video(file, plain_grid([clip[:frames] for clip in clips], GRID_COLUMNS), fps)


def write_settings(cfg, requests: list, file: Path) -> None:
    """The configuration, and the prompts with the seeds that were drawn for them."""
    drawn = {"random_seeds": [request.seed for request in requests],
             "prompts": [request.item.caption for request in requests],
             "n_prompts": [request.item.negative for request in requests],
             "first_frame_paths": [request.item.path for request in requests]}
    checkpoint.save_text(yaml.safe_dump(cfg.plain() | {"prompt_kwargs": drawn}, allow_unicode=True), file)


def save_model(folder: Path, engine, average: dict | None = None) -> None:
    """The whole model as a published folder, which `pretrained_model_path` takes.

    Args:
        engine: a ConsistI2V with its parts.
        average: averaged weights of the denoiser, written as `unet_ema` beside `unet`.

    Raises:
        UserError: its autoencoder or text encoder is none of those that the layout holds.
    """
    if not isinstance(engine.autoencoder, DiffusersAutoencoderKL) or not isinstance(engine.embedder, CLIPTextEmbedder):
        raise UserError("only a model of diffusers' AutoencoderKL and CLIPTextModel can be written as a folder; set "
                        "save_model false")
    section = engine.cfg.Diffusion
    scheduler = {key: value for key, value in section.items() if key not in ("type", *NOISE_KEYS)}
    save_folder(folder, engine.model, engine.autoencoder, engine.embedder, scheduler)
    if average is not None:
        save_unet(folder / "unet_ema", engine.model, average)
