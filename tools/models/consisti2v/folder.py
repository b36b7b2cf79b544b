"""The published folder of ConsistI2V: how its denoiser is read, started from Stable Diffusion's, and written."""
import logging
import shutil
from dataclasses import fields
from pathlib import Path

from torch import Tensor, nn

from tools import checkpoint, published
from tools.autoencoders.diffusers_kl import DiffusersAutoencoderKL
from tools.embedders.clip_text import CLIPTextEmbedder
from tools.files import replacing
from tools.models.consisti2v.options import UNetOptions
from tools.models.consisti2v.unet import VideoLDMUNet3DConditionModel

log = logging.getLogger(__name__)

# What the network has beyond Stable Diffusion's; a file or a configuration may lack one of them as a whole.
ADDED = ("conv3ds.", "tempo_attns.", "frame_stride_embedding.", "first_frame_conv.")
MODEL_INDEX = {
    "_class_name": "ConditionalAnimationPipeline", "_diffusers_version": published.VERSION,
    "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["consisti2v.models.videoldm_unet", "VideoLDMUNet3DConditionModel"],
}


def read_options(unet: str) -> dict:
    """Constructor options of a `unet` part; Stable Diffusion's are a subset of ConsistI2V's.

    Options that the file leaves open (null) and this network does not have are passed over.

    Raises:
        UserError: no such part, or no JSON.
    """
    known = {field.name for field in fields(UNetOptions)}
    return {key: value for key, value in published.read_config(unet).items() if key in known or value is not None}


def load_denoiser(model: nn.Module, state: dict[str, Tensor], source: str, complete: bool = True) -> None:
    """Load a denoiser's weights.

    Args:
        state: a whole ConsistI2V, or the UNet of a Stable Diffusion to start from.
        source: names the weights in messages.
        complete: the file must have all of the network. Otherwise each group of `ADDED` may be in one of the two
            alone: what only the network has keeps its initial values, what only the file has is left out. That is
            logged.

    Raises:
        UserError: anything else is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    for group in () if complete else ADDED:
        here, there = ([key for key in keys if group in key] for keys in (own, state))
        if bool(here) != bool(there):
            what = "keep their initial values" if here else "are left out"
            log.info("'%s': the %d tensors '%s' %s", source, len(here or there), group.rstrip("."), what)
            state = {key: value for key, value in state.items() if group not in key} | {key: own[key] for key in here}
    checkpoint.load_into(model, state, f"'{source}' into {type(model).__name__}")


def load_replacement(model: nn.Module, path: str, prefix: str | None = "module.") -> None:
    """Load what `unet_path` names over the denoiser: a `unet` folder or a file; it may hold a part of the network.

    Args:
        prefix: removed from the beginning of names.

    Raises:
        UserError: no such weights, or some that the network does not have.
    """
    state = {key.removeprefix(prefix or ""): value for key, value in checkpoint.load_state(path).items()}
    own = model.state_dict()
    missing = own.keys() - state.keys()
    if missing:
        log.info("unet_path '%s': %d of %d tensors; the others stay", path, len(state), len(own))
    checkpoint.load_into(model, state | {key: own[key] for key in missing}, f"unet_path '{path}'")


def save_unet(folder: Path, model: VideoLDMUNet3DConditionModel, state: dict[str, Tensor] | None = None) -> None:
    """Write the `unet` part; `state` replaces the network's own weights (an average of them)."""
    published.save_part(folder, type(model).__name__, model.options.as_config(), state or model.state_dict())


def save_folder(folder: Path, unet: VideoLDMUNet3DConditionModel, autoencoder: DiffusersAutoencoderKL,
                embedder: CLIPTextEmbedder, scheduler: dict) -> None:
    """Write a whole folder in the published layout; model_index.json, by which it is known, comes last.

    Args:
        scheduler: options of diffusers' DDIMScheduler.
    """
    folder = Path(folder)
    save_unet(folder / "unet", unet)
    published.save_part(folder / "vae", "AutoencoderKL", autoencoder.config, autoencoder.model.state_dict())
    published.save_json({"architectures": ["CLIPTextModel"], **embedder.config}, folder / "text_encoder/config.json")
    checkpoint.save_file(embedder.published_state(), folder / "text_encoder" / published.TRANSFORMERS_WEIGHTS[0],
                         {"format": "pt"})
    for name, file in embedder.tokenizer_files.items():
        with replacing(folder / "tokenizer" / name) as temporary:
            shutil.copyfile(file, temporary)
    published.save_json({"_class_name": "DDIMScheduler", "_diffusers_version": published.VERSION, **scheduler},
                        folder / "scheduler/scheduler_config.json")
    published.save_json(MODEL_INDEX, folder / "model_index.json")
