"""Human preference score v2 (arXiv 2306.09341): how much people like a picture for a text, by a fine-tuned CLIP."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.datasets.transforms import CLIP_MEAN, CLIP_STD
from tools.embedders.open_clip import FrozenOpenCLIPTextVisualEmbedder
from tools.embedders.tokens import tokenize
from tools.registry import REWARD


@REWARD.register()
class HPSv2(nn.Module):
    """Cosine between picture and text, about 0.2 to 0.35, without CLIP's temperature.

    Args:
        pretrained: the published weights, `{'state_dict': ...}` or bare; '' leaves the model at random.
        arch: OpenCLIP name or JSON file of the architecture.
    """

    maximum = 1.0

    def __init__(self, pretrained: str = "models/HPS_v2.pt", arch: str = "ViT-H-14"):
        super().__init__()
        self.model = FrozenOpenCLIPTextVisualEmbedder(pretrained, arch=arch).model

    def forward(self, frames: Tensor, captions: list[str]) -> Tensor:
        """frames [B, S, 3, H, W] in 0..1 -> [B, S]."""
        device = self.model.logit_scale.device
        pictures = clip_normal(shorter_side_to(frames.flatten(0, 1), self.image_side))
        text = self.model.encode_text(tokenize(captions, self.model.context_length).to(device), normalize=True)
        images = self.model.encode_image(pictures, normalize=True).unflatten(0, frames.shape[:2])
        return (images * text[:, None]).sum(dim=-1)

    @property
    def image_side(self) -> int:
        """Pixels along each side of what the image encoder takes."""
        size = self.model.visual.image_size
        return size[0] if isinstance(size, (tuple, list)) else size


def clip_normal(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] in 0..1, normalised as CLIP's encoder takes them."""
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device).view(3, 1, 1)
                 for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def shorter_side_to(images: Tensor, side: int) -> Tensor:
    """Images [N, 3, H, W] resized so that the shorter side is `side`, cut to a square around the middle.

    Bilinear without antialiasing, as torchvision 0.15 resized tensors when the published weights were trained with.
    """
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = [side if edge == min(height, width) else max(int(edge * scale), side) for edge in (height, width)]
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[..., top:top + side, left:left + side]
