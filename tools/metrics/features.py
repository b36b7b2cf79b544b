"""Pictures and prompts as vectors of networks: CLIP ViT-B/32 and DINO ViT-S/16, as DreamVideo's figures take them."""
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
        weights: file in DINO's layout (`dino_deitsmall16_pretrain.pth`, or timm's of the same keys) or hub name.
        device: where the network runs.
        network: arguments of `DinoViT`, for weights that are not ViT-S/16's.

    Raises:
        UserError: the weights are missing or another network's.
    """

    def __init__(self, weights: str, device: str = "cpu", **network):
        self.network = load_frozen(on_meta(DinoViT, **network), load_state(weights), f"metrics: DINO '{weights}'")
        self.network.to(device)
        self.device = device
        self.prepare = _pipeline(*DINO_SIZE, IMAGENET_MEAN, IMAGENET_STD)

    def images(self, pictures: Iterable[Image.Image | np.ndarray]) -> Tensor:
        """Class tokens [N, E] of N pictures, PIL or uint8 [H, W, 3]."""
        return _in_chunks(self.network, self.prepare, pictures, self.device)


def _pipeline(short_side: int, crop: int, mean, std) -> transforms.Compose:
    return transforms.Compose([transforms.Resize(short_side, transforms.InterpolationMode.BICUBIC),
                               transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize(mean, std)])


@torch.no_grad()
def _in_chunks(network, prepare, pictures, device: str) -> Tensor:
    pixels = torch.stack([prepare(p if isinstance(p, Image.Image) else Image.fromarray(p)) for p in pictures])
    return torch.cat([network(part.to(device)).cpu() for part in pixels.split(CHUNK)])
