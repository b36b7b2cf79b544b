"""Small autoencoders that the tests share."""
from tools.autoencoders import kl  # noqa: F401  registers
from tools.registry import AUTO_ENCODER

OPTIONS = {
    "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
    "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}


def small_autoencoder(name: str = "AutoencoderKL", embed_dim: int = 4, pretrained: str | None = None, **options):
    """An autoencoder of 0.5 million parameters that halves the image once, in evaluation mode."""
    section = {"type": name, "ddconfig": OPTIONS | options, "embed_dim": embed_dim, "pretrained": pretrained}
    return AUTO_ENCODER.build(section).eval()
