"""The image autoencoder of Stable Diffusion as diffusers has it, from a published folder."""
import torch
from torch import Tensor

from tools import published
from tools.autoencoders.kl import ImageAutoencoder
from tools.checkpoint import load_into, load_state
from tools.registry import AUTO_ENCODER

# The autoencoder of Stable Diffusion 1 and 2.
STABLE_DIFFUSION = {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 768,
    "scaling_factor": 0.18215,
}
# Names that older files give the layers of the middle attentions.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@AUTO_ENCODER.register()
class DiffusersAutoencoderKL(ImageAutoencoder):
    """diffusers' AutoencoderKL between images [N, 3, H, W] in [-1, 1] and latents [N, 4, h, w].

    Args:
        pretrained: part of a published folder: `models/ConsistI2V/vae`, `hf://owner/repo/vae`.
        config: constructor options of diffusers' class where nothing is loaded; Stable Diffusion's by default.

    Attributes:
        model: diffusers' network. config: its options as config.json holds them.

    Raises:
        UserError: `pretrained` is incomplete or of another network.
    """

    def __init__(self, pretrained: str | None = None, config: dict | None = None):
        super().__init__()
        # Imported where it is needed: diffusers takes seconds, which runs without it need not spend.
        from diffusers import AutoencoderKL
        self.config = published.read_config(pretrained) if pretrained else dict(config or STABLE_DIFFUSION)
        self.model = AutoencoderKL.from_config(self.config).to(memory_format=torch.channels_last)
        if pretrained:
            load_into(self.model, with_new_names(load_state(pretrained)), f"auto_encoder.pretrained '{pretrained}'")

    def moments(self, x: Tensor) -> Tensor:
        return self.model.encode(x).latent_dist.parameters

    def decode(self, z: Tensor) -> Tensor:
        return self.model.decode(z).sample


def with_new_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of any age under the names of today."""
    return {_new_name(key): value for key, value in state.items()}


def _new_name(key: str) -> str:
    *path, layer, kind = key.split(".")
    if path and path[-2:-1] == ["attentions"] and layer in OLD_NAMES:
        return ".".join([*path, OLD_NAMES[layer], kind])
    return key
