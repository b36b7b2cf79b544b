"""Small networks and inputs that the tests share.

Every weight is filled, so that no zero-initialised branch is silent.
"""
import torch

from tests.goldens.reader import fill_module, uniform
from tools.models import i2vgen, t2v  # noqa: F401  register
from tools.registry import MODEL

CONTEXT, TOKENS, FRAMES = 24, 5, 3
SMALL = {"in_dim": 4, "dim": 32, "context_dim": CONTEXT, "out_dim": 4, "dim_mult": [1, 2], "num_heads": 8,
         "head_dim": 16, "num_res_blocks": 1, "attn_scales": [1.0]}


def small_unet(name: str = "UNetSD_T2VBase", fill: bool = True, **options) -> torch.nn.Module:
    """A UNet of 0.4 million parameters in evaluation mode."""
    if name == "UNetSD_I2VGen":
        options = {"y_dim": CONTEXT, **options}
    unet = MODEL.build({"type": name, **SMALL, **options}).eval()
    return fill_module(unet) if fill else unet


def rand(name: str, *shape: int) -> torch.Tensor:
    """Unit-variance tensor fixed by its name."""
    return torch.from_numpy(uniform(name, shape))


def call_inputs(name: str = "UNetSD_T2VBase", batch: int = 2, frames: int = FRAMES, height: int = 4,
                width: int = 6) -> dict[str, torch.Tensor]:
    """Keyword arguments of one call."""
    inputs = {"x": rand("x", batch, 4, frames, height, width), "t": torch.tensor([981, 20])[:batch],
              "y": rand("y", batch, TOKENS, CONTEXT), "fps": torch.tensor([8, 16])[:batch]}
    if name == "UNetSD_I2VGen":
        inputs |= {"image": rand("image", batch, 1, CONTEXT), "local_image": rand("local", batch, 4, height, width)}
    return inputs
