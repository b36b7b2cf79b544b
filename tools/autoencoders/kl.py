"""The image autoencoder of Stable Diffusion under its VGen names: AutoencoderKL and AutoencoderVideo."""
import torch
from torch import Tensor, nn

from tools.autoencoders.distribution import DiagonalGaussianDistribution
from tools.autoencoders.networks import Decoder, Encoder, NetworkOptions
from tools.checkpoint import load_into, load_state, strip_prefix
from tools.models.diffusers_keys import from_diffusers, is_diffusers
from tools.registry import AUTO_ENCODER

# Where a whole Stable Diffusion checkpoint keeps its autoencoder.
PREFIX = "first_stage_model."
# Arguments of the original constructor that changed nothing.
IGNORED = ("ignore_keys", "image_key", "colorize_nlabels", "monitor", "ema_decay", "learn_logvar", "use_vid_decoder")


class ImageAutoencoder(nn.Module):
    """What engines ask of an autoencoder of images, in terms of `moments` and `decode`, which a class adds."""

    def moments(self, x: Tensor) -> Tensor:
        """Mean and log-variance of the latents, [N, 2 c, h, w]."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Images [N, 3, H, W] of unscaled latents [N, c, h, w]."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """Posterior of the latents of images [N, 3, H, W]."""
        return DiagonalGaussianDistribution(self.moments(x))

    def encode_first_stage(
        self, x: Tensor, scale_factor: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw scaled latents [N, c, h, w] of images [N, 3, H, W]; `generator` must be a CPU generator."""
        return scale_factor * DiagonalGaussianDistribution(self.moments(x)).sample(generator)

    def forward(self, x: Tensor, sample_posterior: bool = True) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """Encode and decode: (reconstruction [N, 3, H, W], posterior)."""
        posterior = self.encode(x)
        return self.decode(posterior.sample() if sample_posterior else posterior.mode()), posterior


@AUTO_ENCODER.register(ignored=IGNORED)
class AutoencoderKL(ImageAutoencoder):
    """Variational autoencoder between images [N, 3, H, W] in [-1, 1] and latents [N, embed_dim, h, w].

    Source: Rombach et al. 2022 (arXiv:2112.10752), section 3.1. Latents are used after multiplication with the
    engine's `scale_factor`, which brings them to about unit variance.

    Args:
        ddconfig: the networks' options, see `NetworkOptions`.
        embed_dim: channels of the latents.
        pretrained: weights: a checkpoint of the autoencoder alone (VGen's or diffusers' layout) or of a whole Stable
            Diffusion model; empty for random weights.

    Raises:
        UserError: an option is unknown or impossible, `pretrained` does not exist or does not fit.
    """

    def __init__(self, ddconfig: dict, embed_dim: int, pretrained: str | None = None):
        super().__init__()
        options = NetworkOptions.from_section(ddconfig)
        self.encoder = Encoder(options)
        self.decoder = Decoder(options)
        self.quant_conv = nn.Conv2d(2 * options.z_channels, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, options.z_channels, 1)
        # Convolutions on CPUs and tensor cores are fastest on this layout; it passes on from the weights to the images.
        self.to(memory_format=torch.channels_last)
        if pretrained:
            self.load_pretrained(pretrained)

    def load_pretrained(self, path: str) -> None:
        """Load every weight from `path`; files of the diffusers library are translated.

        Raises:
            UserError: no such file, or its keys or shapes are not this network's.
        """
        state = strip_prefix(load_state(path), PREFIX)
        if is_diffusers(state):
            state = from_diffusers("AutoencoderKL", state)
        load_into(self, state, f"auto_encoder.pretrained '{path}'")

    def moments(self, x: Tensor) -> Tensor:
        """Mean and log-variance of the latents, [N, 2 embed_dim, h, w]."""
        return self.quant_conv(self.encoder(x))

    def encode_firsr_stage(
        self, x: Tensor, scale_factor: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """`encode_first_stage` under the name that the original gave it."""
        return self.encode_first_stage(x, scale_factor, generator)

    def encode_ms(self, x: Tensor) -> list[Tensor]:
        """Features of the encoder from fine to coarse; in place of the last one, its output [N, 2 z_channels, h, w]."""
        features = list(self.encoder.features(x))
        features[-1] = self.encoder.head(features[-1])
        return features

    def decode(self, z: Tensor) -> Tensor:
        """Images [N, 3, H, W] of unscaled latents [N, embed_dim, h, w]."""
        return self.decoder(self.post_quant_conv(z))


@AUTO_ENCODER.register(ignored=IGNORED)
class AutoencoderVideo(AutoencoderKL):
    """AutoencoderKL whose `encode` and `decode` leave out the 1x1 convolutions around the latents.

    Only `encode_first_stage` still applies `quant_conv`. Frames are coded one by one, as in AutoencoderKL.
    """

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        return DiagonalGaussianDistribution(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)
