"""Training of the image autoencoder on frames."""
import torch
from torch.nn.functional import interpolate, mse_loss

from tools import noise
from tools.engines.engine import Engine, tasks
from tools.errors import UserError
from tools.media import to_uint8, write_png
from tools.registry import AUTO_ENCODER


@tasks(train=("train_autoencoder_entrance",))
class Autoencoder(Engine):
    """Reconstruction plus a small KL term (Rombach et al., arXiv 2112.10752, without the adversarial part).

    loss = l1_weight mean |x - x'| + mse_weight mean (x - x')^2 + kl_weight mean KL(q(z|x) || N(0, 1)) per element of z
           + teacher_weight mean (mean of q(z|x) - mean of q_teacher(z|x))^2, where there is a `latent_teacher`.

    A teacher sees the pictures at the size that gives it as many latents as the trained network has: another resolution
    gets the latents that a denoiser already knows.

    Training on random crops (`crop` pixels, 0 for whole frames) costs less and puts more edges into a batch; the
    network is convolutional. Finish on whole frames (a second run with crop 0): their group norms see other statistics.
    """

    sections = ("auto_encoder",)

    def build(self) -> None:
        cfg = self.cfg
        self.model = AUTO_ENCODER.build(cfg.auto_encoder).to(self.runtime.device)
        if cfg.initial_logvar is not None and not cfg.auto_encoder.get("pretrained"):
            set_logvar(self.model, cfg.initial_logvar)
        if cfg.fix_encoder:
            for part in (self.model.encoder, self.model.quant_conv):
                part.requires_grad_(False)
        if cfg.latent_teacher is not None:
            self.teacher = AUTO_ENCODER.build(cfg.latent_teacher).to(self.runtime.device).eval().requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)

    def check(self) -> None:
        cfg = self.cfg
        if cfg.crop > min(cfg.resolution) or cfg.crop % cfg.scale:
            raise UserError(f"crop {cfg.crop} must be a multiple of {cfg.scale} and no larger than the resolution "
                            f"{cfg.resolution}")

    def trainable(self) -> torch.nn.Module:
        return self.model

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        frames = batch["video"].flatten(0, 1)
        if self.cfg.crop:
            frames = random_crops(frames, self.cfg.crop)
        frames = frames.to(memory_format=torch.channels_last)
        reconstruction, posterior = self.network(frames)
        error = reconstruction - frames
        absolute, square = error.abs().mean(), error.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        cfg = self.cfg
        loss = cfg.l1_weight * absolute + cfg.mse_weight * square + cfg.kl_weight * kl
        # The signal spans [-1, 1]: a peak of 2.
        psnr = 10 * torch.log10(4 / square.detach())
        values = {"l1": absolute, "kl": kl, "psnr": psnr, "latent_std": posterior.mean.std()}
        if cfg.latent_teacher is not None:
            distance = mse_loss(posterior.mean, self.teacher_latents(frames, posterior.mean.shape[-2:]))
            loss = loss + cfg.teacher_weight * distance
            values["teacher"] = distance
        return loss, values

    @torch.no_grad()
    def teacher_latents(self, frames: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """What the teacher makes of frames [N, 3, H, W] on a grid of (rows, columns) latents: [N, c, rows, columns]."""
        size = [side * self.cfg.teacher_scale for side in grid]
        frames = interpolate(frames, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.teacher.encode(frames).mode()

    def preview(self, step: int, batch: dict) -> None:
        if not self.runtime.is_main:
            return
        frames = batch["video"].flatten(0, 1)[:8]
        reconstruction, _ = self.model(frames, sample_posterior=False)
        rows = torch.cat([torch.cat(list(frames), dim=-1), torch.cat(list(reconstruction), dim=-1)], dim=-2)
        write_png(self.folder / f"sample_{step:06d}.png", to_uint8(rows[None], self.cfg.mean, self.cfg.std)[0])


@torch.no_grad()
def set_logvar(autoencoder: torch.nn.Module, value: float) -> None:
    """Let the posterior's log variance start at one value everywhere.

    At a fresh network's 0 the posterior's noise drowns the code until training has widened it, which takes longer
    than all the rest of a short run.
    """
    half = autoencoder.quant_conv.weight.shape[0] // 2
    autoencoder.quant_conv.weight[half:] = 0
    autoencoder.quant_conv.bias[half:] = value


def random_crops(frames: torch.Tensor, size: int) -> torch.Tensor:
    """One random square crop per frame.

    Args:
        frames: [N, C, H, W], H and W at least `size`.
        size: side of the crop in pixels.

    Returns:
        [N, C, size, size].
    """
    n, _, height, width = frames.shape
    top = noise.device_randint(0, height - size + 1, (n,), device="cpu").tolist()
    left = noise.device_randint(0, width - size + 1, (n,), device="cpu").tolist()
    return torch.stack([f[:, y:y + size, x:x + size] for f, y, x in zip(frames, top, left, strict=True)])
