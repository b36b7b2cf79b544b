"""DINO's vision transformer (arXiv 2104.14294), on timm's, with the positions that DINO itself gives other sizes."""
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

NUDGE = 0.1  # patches; added to the size so that rounding never loses one


class DinoViT(VisionTransformer):
    """Class tokens of pictures; keys are those of the published files.

    Args:
        img_size: side of the pictures that the positions were learned for (or a list of it).
        patch_size, embed_dim, depth, num_heads, mlp_ratio, qkv_bias: of the transformer, ViT-S/16 by default.
    """

    def __init__(self, img_size=224, patch_size: int = 16, embed_dim: int = 384, depth: int = 12, num_heads: int = 6,
                 mlp_ratio: float = 4, qkv_bias: bool = True):
        img_size = img_size if isinstance(img_size, int) else img_size[0]
        super().__init__(img_size=img_size, patch_size=patch_size, embed_dim=embed_dim, depth=depth,
                         num_heads=num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, num_classes=0,
                         dynamic_img_size=True)

    def tokens(self, pictures: Tensor) -> Tensor:
        """What the first block sees, [n, 1 + patches, embed_dim], of pictures [n, 3, H, W] in multiples of a patch."""
        return self._pos_embed(self.patch_embed(pictures))

    def forward(self, pictures: Tensor) -> Tensor:
        """Class tokens after the last norm, [n, embed_dim]."""
        return self.forward_features(pictures)[:, 0]

    def _pos_embed(self, x: Tensor) -> Tensor:
        """timm's hook: patches [n, rows, columns, d] to tokens with positions; interpolated as DINO does it."""
        size, known = x.shape[1:3], self.patch_embed.grid_size
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if size != known:
            scale = [(side + NUDGE) / before for side, before in zip(size, known, strict=True)]
            grid = grid.unflatten(1, known).permute(0, 3, 1, 2)
            grid = interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        return tokens + torch.cat([first, grid], dim=1)
