"""How a ConsistI2V starts: from a published folder of its own, or of Stable Diffusion 2.1."""
from torch import nn

from tools import checkpoint, published
from tools.models.consisti2v.folder import load_denoiser, load_replacement
from tools.registry import PRETRAIN


@PRETRAIN.register()
def pretrain_consisti2v(model: nn.Module, pretrained_model_path: str, variant: str | None = None,
                        unet_path: str | None = None,
                        unet_ckpt_prefix: str | None = "module.") -> tuple[nn.Module, int]:
    """Load the `unet` part of a folder; what Stable Diffusion's lacks keeps its initial values.

    Args:
        model: receives the weights.
        pretrained_model_path: local folder or hub name.
        variant: of the weights: `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
        unet_path: weights that replace them, a `unet` folder or a file. unet_ckpt_prefix: removed from its names.

    Returns:
        The model and step 0.

    Raises:
        UserError: a file is missing, or the weights are of another network.
    """
    published.check_complete(pretrained_model_path, ["unet"], variant)
    source = published.weights(published.part(pretrained_model_path, "unet"), variant)
    load_denoiser(model, checkpoint.load_state(source), source, complete=False)
    if unet_path:
        load_replacement(model, unet_path, unet_ckpt_prefix)
    return model, 0
