"""Diagonal Gaussian posterior of the image autoencoder (Kingma & Welling 2014, arXiv:1312.6114)."""
import math

import torch
from torch import Tensor

from tools import noise

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class DiagonalGaussianDistribution:
    """N(mean, diag(std^2)) over the channels, rows and columns of each sample.

    Args:
        parameters: [N, 2c, h, w]; the first half of the channels is the mean, the second the log-variance, which is
            clamped to [-30, 20].
        deterministic: take the mean as certain: std is 0, `kl` and `nll` are [0].
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False):
        self.parameters = parameters
        self.deterministic = deterministic
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(*LOG_VARIANCE_RANGE)
        if deterministic:
            self.var = self.std = torch.zeros_like(self.mean)
        else:
            self.std = torch.exp(0.5 * self.logvar)
            self.var = torch.exp(self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw [N, c, h, w]; the normal numbers come from the CPU, so that devices agree."""
        draw = noise.cpu_randn(self.mean.shape, generator=generator)
        return self.mean + self.std * draw.to(self.mean)

    def mode(self) -> Tensor:
        """The most likely latent, which is the mean, [N, c, h, w]."""
        return self.mean

    def kl(self, other: "DiagonalGaussianDistribution | None" = None) -> Tensor:
        """KL(self || other) per sample, [N], in nats; against the standard normal when `other` is not given."""
        if self.deterministic:
            return self.mean.new_zeros(1)
        if other is None:
            terms = self.mean.square() + self.var - 1.0 - self.logvar
        else:
            distance = (self.mean - other.mean).square() / other.var
            terms = distance + self.var / other.var - 1.0 - self.logvar + other.logvar
        return 0.5 * terms.sum(dim=(1, 2, 3))

    def nll(self, sample: Tensor) -> Tensor:
        """Negative log-likelihood of `sample` [N, c, h, w] per sample, [N], in nats."""
        if self.deterministic:
            return self.mean.new_zeros(1)
        terms = math.log(2.0 * math.pi) + self.logvar + (sample - self.mean).square() / self.var
        return 0.5 * terms.sum(dim=(1, 2, 3))
