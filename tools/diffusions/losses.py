"""Training losses of a discrete diffusion process: simple ones, and the variational bound in bits per element."""
import math

import torch

from tools.diffusions.predictions import eps_from_x0, v_from_x0
from tools.diffusions.samplers import batch_of, randn_like

LOSS_TYPES = ("mse", "rescaled_mse", "kl", "rescaled_kl", "l1", "rescaled_l1", "charbonnier")

PIXEL_HALF_WIDTH = 1 / 255  # half of one of 256 grey levels on [-1, 1]
DIVERSITY_GAIN = 0.001


def training_loss(process, x0, t, model, model_kwargs=None, noise=None, weight=None, use_div_loss=False,
                  loss_mask=None) -> torch.Tensor:
    """Loss of each sample; see `DiffusionDDIM.loss`."""
    noise = process.sample_noise(x0) if noise is None else noise
    xt = process.q_sample(x0, t, noise)
    out = model(xt, process.model_time(t), **(model_kwargs or {}))
    if process.loss_type.endswith("kl"):
        bits = vlb(process, x0, xt, t, out)[0]
        return _weighted(bits * process.num_timesteps if process.loss_type == "rescaled_kl" else bits, weight)

    mean_out, variance_out = process.split(out)
    target = _target(process, x0, xt, t, noise)
    loss = _weighted(_distance(process, mean_out, target, loss_mask), weight)
    if process.coherence and x0.shape[2] > 1:
        loss = loss + process.coherence * _weighted(incoherence(mean_out, target), weight)
    if use_div_loss and process.mean_type == "eps" and x0.shape[2] > 1:
        loss = loss + _diversity(process.predict_x0(out, xt, t))
    if variance_out is not None:
        # The mean branch is detached: the bound trains the variance alone (Nichol & Dhariwal 2021, section 3.1).
        bits = vlb(process, x0, xt, t, torch.cat([mean_out.detach(), variance_out], dim=1))[0]
        loss = loss + bits * (process.num_timesteps / 1000 if process.loss_type.startswith("rescaled") else 1)
    return loss


def _weighted(loss, weight):
    return loss if weight is None else loss * weight


def _target(process, x0, xt, t, noise):
    """What the network should have said, by mean_type."""
    if process.mean_type == "eps":
        return noise
    if process.mean_type == "x0":
        return x0
    if process.mean_type == "v":
        return v_from_x0(x0, noise, *process.alpha_sigma(t, x0))
    return process.q_posterior_mean_variance(x0, xt, t)[0]


def _distance(process, out, target, mask):
    """Mean distance of each sample over all elements, those outside the mask (where both are 0) included."""
    if mask is not None:
        mask = mask[:, :, 0].unsqueeze(1)  # [B, F, 3, h, w], equal channels -> [B, 1, F, h, w]
        out, target = out * mask, target * mask
    difference = out - target
    if process.loss_type == "charbonnier":
        elements = torch.sqrt(difference**2 + process.epsilon)
    elif process.loss_type.endswith("l1"):
        elements = difference.abs()
    else:
        elements = difference**2
    return elements.flatten(1).mean(dim=1)


def incoherence(out, target):
    """Squared error of the changes from frame to frame, mean of each sample [B]; out, target: [B, C, F, h, w]."""
    return ((out - target).diff(dim=2) ** 2).flatten(1).mean(dim=1)


def _diversity(x0):
    """Penalty on frames that are all alike; x0: predicted, [B, C, F, h, w]."""
    return DIVERSITY_GAIN / (x0.std(dim=2).flatten(1).mean(dim=1) + 1e-4)


def vlb(process, x0, xt, t, out, clamp=None, percentile=None) -> tuple[torch.Tensor, torch.Tensor]:
    """One term of the variational bound (Ho et al. 2020, eq. 5): KL at t > 0, negative log-likelihood at t = 0.

    At t = 0 the likelihood is that of the *predicted* x_0, as in the reference, whose learned variances were trained
    that way.

    Returns:
        bits per element [B], predicted x_0.
    """
    true_mean, _, true_log_var = process.q_posterior_mean_variance(x0, xt, t)
    mean, _, log_var, predicted = process.mean_variance(out, xt, t, clamp, percentile)
    kl = kl_divergence(true_mean, true_log_var, mean, log_var)
    nll = -discretized_gaussian_log_likelihood(predicted, mean, 0.5 * log_var)
    bits = torch.where(t == 0, nll.flatten(1).mean(dim=1), kl.flatten(1).mean(dim=1)) / math.log(2)
    return bits, predicted


def kl_divergence(mean1, log_var1, mean2, log_var2) -> torch.Tensor:
    """KL(N(mean1, e^log_var1) || N(mean2, e^log_var2)) of each element, in nats."""
    return 0.5 * (log_var2 - log_var1 - 1 + torch.exp(log_var1 - log_var2)
                  + (mean1 - mean2) ** 2 * torch.exp(-log_var2))


def discretized_gaussian_log_likelihood(x, mean, log_std) -> torch.Tensor:
    """Log-probability that N(mean, e^log_std) gives to x's grey level (Ho et al. 2020, eq. 13).

    Args:
        x, mean: [B, ...], x in [-1, 1]; the outermost levels reach to infinity.
    """
    upper = _normal_cdf((x - mean + PIXEL_HALF_WIDTH) * torch.exp(-log_std))
    lower = _normal_cdf((x - mean - PIXEL_HALF_WIDTH) * torch.exp(-log_std))
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return torch.log(mass.clamp(min=1e-12))


def _normal_cdf(x):
    """Tanh approximation of the standard normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def variational_bound(process, x0, model, model_kwargs=None, clamp=None, percentile=None) -> dict[str, torch.Tensor]:
    """All terms of the bound; see `DiffusionDDIM.variational_lower_bound_loop`."""
    terms = {"vlb": [], "x0_mse": [], "mse": []}
    for step in reversed(range(process.num_timesteps)):
        t = batch_of(step, x0)
        n = randn_like(x0)
        xt = process.q_sample(x0, t, n)
        out = model(xt, process.model_time(t), **(model_kwargs or {}))
        bits, predicted = vlb(process, x0, xt, t, out, clamp, percentile)
        eps = eps_from_x0(xt, predicted, *process.alpha_sigma(t, xt))
        terms["vlb"].append(bits)
        terms["x0_mse"].append(((predicted - x0) ** 2).flatten(1).mean(dim=1))
        terms["mse"].append(((eps - n) ** 2).flatten(1).mean(dim=1))
    result = {name: torch.stack(values, dim=1) for name, values in terms.items()}
    result["prior_bits_per_dim"] = prior_bits(process, x0, batch_of(process.num_timesteps - 1, x0))
    result["total_bits_per_dim"] = result["vlb"].sum(dim=1) + result["prior_bits_per_dim"]
    return result


def prior_bits(process, x0, t) -> torch.Tensor:
    """KL(q(x_t | x_0) || N(0, 1)) in bits per element, [B]."""
    mean, _, log_var = process.q_mean_variance(x0, t)
    zero = torch.zeros_like(mean)
    return kl_divergence(mean, log_var, zero, zero).flatten(1).mean(dim=1) / math.log(2)
