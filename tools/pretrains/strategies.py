"""How a checkpoint is put into a model before training, and which parameters learn how fast."""
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from tools import checkpoint
from tools.errors import UserError
from tools.models.blocks import TemporalConv, TemporalTransformer
from tools.models.dreamvideo import is_adapter
from tools.registry import PRETRAIN

log = logging.getLogger(__name__)

SPATIAL_PARTS = ("input_blocks.", "middle_block.", "output_blocks.", "out.")


@PRETRAIN.register()
def pretrain_dreamvideo(model: nn.Module, resume_checkpoint: str | None = None, sd_keys_path: str | None = None,
                        grad_scale: float = 1.0, fix_spatial_weight: bool = False, fix_temporal_weight: bool = False,
                        train_adapter: bool = False) -> tuple[nn.Module, int]:
    """Load the base as far as it fits, and say which of three groups of parameters are trained (DreamVideo).

    Args:
        model: receives the weights.
        resume_checkpoint, sd_keys_path: as in `pretrain_specific_strategies`.
        grad_scale: factor on the gradients of the spatial parameters, where they are trained.
        fix_spatial_weight: do not train the spatial parameters. fix_temporal_weight: nor any others.
        train_adapter: train the adapters, whatever becomes of the rest.

    Returns:
        The model and 0: DreamVideo's stages count their own steps.
    """
    if resume_checkpoint:
        load_fitting(model, checkpoint.load_state(resume_checkpoint), resume_checkpoint)
    spatial = set(_spatial_list(model, sd_keys_path)) if sd_keys_path else set()
    for name, parameter in model.named_parameters():
        if train_adapter and is_adapter(name):
            continue
        if name in spatial:
            scale_gradients([parameter], grad_scale, fix_spatial_weight)
        elif fix_temporal_weight:
            parameter.requires_grad = False
    return model, 0


@PRETRAIN.register()
def pretrain_specific_strategies(model: nn.Module, resume_checkpoint: str | None = None,
                                 sd_keys_path: str | None = None, grad_scale: float = 1.0, fix_weight: bool = False,
                                 inflate_input: bool = False, identity_picture: bool = False) -> tuple[nn.Module, int]:
    """Load weights as far as they fit and slow down, or fix, the image-pretrained ones.

    Args:
        model: receives the weights.
        resume_checkpoint: weights; None or '' to start from scratch. Entries that the model lacks or has in another
            shape are left out and counted.
        sd_keys_path: JSON list of the names of the spatial parameters; None or '' for no list. Where the file is not
            there, the names follow from the network (`spatial_names`).
        grad_scale: factor on the gradients of the spatial parameters.
        fix_weight: do not train them at all.
        inflate_input: a first convolution with more input channels than the file's takes its weights for the leading
            channels and zeros for the others, so that a text-to-video network starts an image-to-video one.
        identity_picture: let I2VGen-XL's picture reach the first convolution as it is (its
            `start_picture_as_identity`), for short runs that start from text-to-video.

    Returns:
        The model and the step to count from: the number in the file's name, 0 without a file.
    """
    step = 0
    if resume_checkpoint:
        load_fitting(model, checkpoint.load_state(resume_checkpoint), resume_checkpoint, inflate_input)
        step = checkpoint.step_of(resume_checkpoint)
    if identity_picture:
        model.start_picture_as_identity()
    if sd_keys_path:
        names = set(_spatial_list(model, sd_keys_path))
        scale_gradients((p for name, p in model.named_parameters() if name in names), grad_scale, fix_weight)
    return model, step


@PRETRAIN.register()
def pretrain_instructvideo(model: nn.Module, resume_checkpoint: str | None = None,
                           pretrained_image_keys: str | None = None, fix_weight: bool = False,
                           grad_scale: dict[str, float] | None = None,
                           optimizer_states: dict | None = None) -> tuple[nn.Module, int]:
    """Load weights as far as they fit and scale the gradients of two groups (InstructVideo).

    Args:
        model: receives the weights; what it does not train stays so.
        resume_checkpoint: the base's weights, or an InstructVideo checkpoint with its pairs.
        pretrained_image_keys: as `sd_keys_path` of `pretrain_specific_strategies`.
        fix_weight: train nothing of either group.
        grad_scale: factors on the gradients of the `spatial` parameters (those listed) and of all others (`temporal`).
        optimizer_states: receives the file's `optimizer` and `scaler`, where it has them.

    Returns:
        The model and the step to count from: the file's own, else the number in its name.
    """
    step = 0
    if resume_checkpoint:
        content = checkpoint.load_file(resume_checkpoint)
        load_fitting(model, checkpoint.state_of(content, resume_checkpoint), resume_checkpoint)
        step = int(content.get("step", checkpoint.step_of(resume_checkpoint)))
        if optimizer_states is not None:
            optimizer_states |= {key: content[key] for key in ("optimizer", "scaler") if key in content}
    scales = {"spatial": 1.0, "temporal": 1.0} | (grad_scale or {})
    spatial = set(_spatial_list(model, pretrained_image_keys)) if pretrained_image_keys else set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale_gradients([parameter], scales["spatial" if name in spatial else "temporal"], fix_weight)
    return model, step


def load_fitting(model: nn.Module, state: dict[str, torch.Tensor], source: str, inflate_input: bool = False) -> None:
    """Copy the entries of `state` that the model has in the same shape.

    Raises:
        UserError: not a single entry fits.
    """
    own = model.state_dict()
    if inflate_input:
        state = {key: _inflated(value, own[key]) if key in own else value for key, value in state.items()}
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"Pretrain.resume_checkpoint '{source}': no entry fits the model "
                        f"({checkpoint.describe_mismatch(own, state)})")
    model.load_state_dict(fitting, strict=False)
    if len(fitting) < max(len(own), len(state)):
        log.info("'%s': %d of %d entries loaded; %s", source, len(fitting), len(own),
                 checkpoint.describe_mismatch(own, state))


def _inflated(value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Convolution weight with zeros for the input channels that only the model has."""
    extra = own.shape[1] - value.shape[1] if own.dim() == value.dim() == 4 else 0
    if extra <= 0 or own.shape[0] != value.shape[0] or own.shape[2:] != value.shape[2:]:
        return value
    return torch.cat([value, value.new_zeros(value.shape[0], extra, *value.shape[2:])], dim=1)


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float, fix: bool) -> None:
    """Multiply the parameters' gradients by `factor` from now on, or stop training them."""
    for parameter in parameters:
        if fix:
            parameter.requires_grad = False
        elif factor != 1:
            parameter.register_hook(lambda gradient: gradient * factor)


def _spatial_list(model: nn.Module, path: str) -> list[str]:
    if not Path(path).is_file():
        log.info("'%s' is not there; taking the spatial parameters by name", path)
        return spatial_names(model)
    try:
        names = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"Pretrain.sd_keys_path '{path}' is no JSON ({error}); it must be a list of names") from error
    if not isinstance(names, list):
        raise UserError(f"Pretrain.sd_keys_path '{path}' must hold a JSON list of parameter names")
    return names


def spatial_names(model: nn.Module) -> list[str]:
    """Names of the parameters that a VGen network inherits from Stable Diffusion: all of the blocks' but the temporal
    ones. For the published networks, exactly the list that VGen ships."""
    temporal = {name + "." for name, module in model.named_modules()
                if isinstance(module, TemporalTransformer | TemporalConv)}
    return [name for name, _ in model.named_parameters() if name.startswith(SPATIAL_PARTS) and not is_adapter(name)
            and not any(name.startswith(t) for t in temporal)]
