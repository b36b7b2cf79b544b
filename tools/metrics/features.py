"""Pictures and prompts as vectors of networks: CLIP ViT-B/32 and DINO ViT-S/16, as DreamVideo's figures take them."""
import math
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from tools.checkpoint import load_state
from tools.datasets.transforms import CLIP_MEAN, CLIP_STD
from tools.embedders.open_clip import FrozenOpenCLIPTextVisualEmbedder
from tools.errors import UserError
from tools.frozen import load_frozen, on_meta
from tools.metrics.dino import DinoViT

CLIP_ARCH = "ViT-B-32-quickgelu"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIZE = (256, 224)  # pixels: short side, then the crop
HEAD = 64  # width of an attention head
CHUNK = 16  # pictures at a time


class ClipFeatures:
    """Vectors of pictures and of prompts in one space, not normalised.

    Args:
        weights: OpenCLIP file or hub name.
        arch: OpenCLIP's name, or the path of its configuration.
        device: where the network runs.

    Raises:
        UserError: the weights are missing or do not fit.
    """

    def __init__(self, weights: str, arch: str = CLIP_ARCH, device: str = "cpu"):
        if not weights:
            raise UserError("metrics: CLIP has no weights; name a file or hub file")
        self.encoder = FrozenOpenCLIPTextVisualEmbedder(weights, arch, device)
        self.device = device
        self.prepare = _pipeline(self.encoder.image_size()[0], self.encoder.image_size()[0], CLIP_MEAN, CLIP_STD)

    def images(self, pictures: Iterable[Image.Image | np.ndarray]) -> Tensor:
        """Vectors [N, E] of N pictures, PIL or uint8 [H, W, 3]."""
        return _in_chunks(self.encoder.encode_image, self.prepare, pictures, self.device)

    @torch.no_grad()
    def text(self, prompt: str) -> Tensor:
        """Vector [E]."""
        return self.encoder.encode_text(prompt)[0][0].cpu()


class DinoFeatures:
    """Vectors of pictures, not normalised.

    Args:
        weights: file or hub name of any of DINO's plain transformers, in DINO's layout, which is timm's as well
            (`dino_deitsmall16_pretrain.pth` is the one that DreamVideo measures by).
        device: where the network runs.

    Raises:
        UserError: the weights are missing or another network's.
    """

    def __init__(self, weights: str, device: str = "cpu"):
        state, what = load_state(weights), f"metrics: DINO '{weights}'"
        self.network = load_frozen(on_meta(DinoViT, **_proportions(state, what)), state, what).to(device)
        self.device = device
        self.prepare = _pipeline(*DINO_SIZE, IMAGENET_MEAN, IMAGENET_STD)

    def images(self, pictures: Iterable[Image.Image | np.ndarray]) -> Tensor:
        """Class tokens [N, E] of N pictures, PIL or uint8 [H, W, 3]."""
        return _in_chunks(self.network, self.prepare, pictures, self.device)


def _proportions(state: dict[str, Tensor], what: str) -> dict:
    """Arguments of `DinoViT` for weights; heads are 64 wide in all of DINO's.

    Raises:
        UserError: these are no weights of a vision transformer.
    """
    try:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        side = math.isqrt(state["pos_embed"].shape[1] - 1)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{what}: no weights of a vision transformer ({error})") from error
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    return {"img_size": side * patch, "patch_size": patch, "embed_dim": width, "depth": depth,
            "num_heads": max(1, width // HEAD)}


def _pipeline(short_side: int, crop: int, mean, std) -> transforms.Compose:
    return transforms.Compose([transforms.Resize(short_side, transforms.InterpolationMode.BICUBIC),
                               transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize(mean, std)])


@torch.no_grad()
def _in_chunks(network, prepare, pictures, device: str) -> Tensor:
    pixels = torch.stack([prepare(p if isinstance(p, Image.Image) else Image.fromarray(p)) for p in pictures])
    return torch.cat([network(part.to(device)).cpu() for part in pixels.split(CHUNK)])
