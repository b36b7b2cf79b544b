"""SR600: refinement of an earlier run's videos to 1280x720, by inversion to a noise level and denoising from there.

No paper and no training of it were published. Decided here:

- training is that of text to video, on clips of the size that is refined to, with times drawn below
  `total_noise_levels` alone and by the process that denoises (`Diffusion.forward_diffusion`): higher ones never occur;
- `sr_degradation` is the share of clips that start from what a file of half the size leaves of them. With d the
  difference of their latents and k = sigma/alpha at the highest level, the noise becomes n + d/k: at that level x_t is
  the degraded clip with noise, below it is what the deterministic sampler makes of it on the way to the clean one, at
  every level the target is the clean clip. Such a network is sampled with `sr_start noise`. 0: plain text to video;
- a start by inversion is shrunk as the original's solver shrinks it, `sr_start noise` is not (`exact_start` in
  `tools/diffusions/gaussian.py`);
- videos keep their own shape (`enlarging.refined_size`); the latent height that the network wants is met by repeating
  the last rows of pixels, which are cut off afterwards.
"""
import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from tools import media, noise, runtime
from tools.autoencoders.video import encode_video
from tools.config import Section
from tools.datasets.earlier_runs import MARK, captioned, video_of, videos_of
from tools.datasets.lists import Item, read_prompts_or_pairs
from tools.diffusions.ddim_sr import DiffusionDDIMSR
from tools.engines.engine import tasks
from tools.engines.enlarging import degraded, enlarged, padded, pieces, refined_size
from tools.engines.text2video import TextToVideo
from tools.errors import BadItem, UserError

PROMPTS = ("positive_prompt", "negative_prompt")  # in the embedder's section of the published files
ENCODED_TOGETHER = 2  # frames; whatever chunk_size says, as in the original
FEW_FRAMES = 16
SHARED_SEED = 0  # of every video, where `seeding` is the original's


@tasks(train=("train_sr600_entrance",), sample=("inference_sr600_entrance", "inference_tft2v_sr600_entrance"))
class VideoRefinement(TextToVideo):
    """The text is the only condition; what is refined are the videos of a folder, of a list, or of an earlier run.

    Attributes:
        videos: what is refined, where another stage of the same run says so; else the configuration does.
    """

    from_prompt = False
    videos: list[Path] | None = None
    numbered = False  # names carry the request's number: a list may name one video twice

    # Texts.

    @classmethod
    def section(cls, cfg, name: str):
        section = super().section(cfg, name)
        if name != "embedder":
            return section
        return Section({key: value for key, value in section.items() if key not in PROMPTS}, section.origins)

    def prompt(self, item) -> str:
        return item.caption + self.cfg.embedder.get("positive_prompt", self.cfg.positive_prompt)

    @functools.cached_property
    def null_words(self) -> torch.Tensor:
        return self.words([self.cfg.embedder.get("negative_prompt", self.cfg.negative_prompt)])

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        positive, negative = super().conditions(batch, training)
        return {"y": positive["y"]}, {"y": negative["y"]}

    # Checks.

    @classmethod
    def sample_size(cls, cfg) -> tuple[int, int, int, int]:
        return 1, cfg.sr_frames, *cfg.sr_resolution

    def check(self) -> None:
        super().check()
        cfg = self.cfg
        if any(side % cfg.scale for side in cfg.sr_resolution):
            raise UserError(f"sr_resolution {list(cfg.sr_resolution)} is not a multiple of {cfg.scale} both ways")

    def process(self):
        process = super().process()
        if not isinstance(process, DiffusionDDIMSR):
            raise UserError(f"refinement needs Diffusion.type DiffusionDDIMSR, not {self.cfg.Diffusion['type']}")
        if self.cfg.total_noise_levels > process.num_timesteps:
            raise UserError(f"total_noise_levels {self.cfg.total_noise_levels} is more than the schedule's "
                            f"{process.num_timesteps} steps")
        return process

    # What is refined.

    @property
    def earlier_folder(self) -> Path | None:
        """The folder all videos of which are refined; None where a list says which."""
        cfg = self.cfg
        if self.videos is not None:
            return None
        if cfg.refine_dir:
            return Path(cfg.refine_dir)
        # The compositional model makes several videos of one line, under names that list them.
        return Path(cfg.log_dir) / super().list_name if cfg.video_compositions else None

    @property
    def list_name(self) -> str:
        return self.earlier_folder.name if self.earlier_folder else super().list_name

    def items(self) -> list[Item]:
        """Videos with their captions, or captions of an earlier run's list."""
        folder, videos = self.earlier_folder, self.videos
        if videos is None and folder:
            videos = videos_of(folder)
        if videos is not None:
            self.numbered = self.cfg.round > 1
            return captioned(videos)
        items = read_prompts_or_pairs(self.cfg.test_list_path)
        self.numbered = items[0].path is not None
        return items

    def resolved(self, request):
        item, folder = request.item, Path(self.cfg.log_dir) / self.list_name
        path = item.path or video_of(folder, request.index, item.caption, self.runtime.rank, self.runtime.world_size)
        media.probe_video(path)
        return replace(request, item=replace(item, path=str(path)))

    def output_name(self, request, rank: int, world_size: int) -> str:
        number = f"_{request.index:04d}" if self.numbered else ""
        return f"{Path(request.item.path).stem}{number}{MARK}.mp4"

    # Sampling.

    @torch.no_grad()
    def generate(self, items: list, generators: list, progress=None) -> list[torch.Tensor]:
        return [self.refine(item, generator, progress) for item, generator in zip(items, generators, strict=True)]

    def refine(self, item: Item, generator: torch.Generator | None, progress=None) -> torch.Tensor:
        """The video of an item, refined: [F, 3, H, W] in [-1, 1]."""
        cfg = self.cfg
        frames = self.read(item.path)
        repeats = 2 if cfg.double_frames_sr is True or (
            cfg.double_frames_sr == "auto" and len(frames) <= FEW_FRAMES) else 1
        conditions = self.conditions(self.request([item], [generator]), training=False)
        parts = pieces(frames, max(cfg.sr_frames // repeats, 1))
        refined = []
        for number, part in enumerate(parts):
            told = Progress(progress, before=number, parts=len(parts))
            part = self.refine_clip(part.repeat_interleave(repeats, dim=0), conditions, generator, told)
            refined.append(part[::repeats])
        return torch.cat(refined)

    def read(self, path: str) -> torch.Tensor:
        """All frames [F, 3, H, W] of a video, normalised, at the size to refine to."""
        cfg = self.cfg
        try:
            info = media.probe_video(path)
            pixels = media.read_frames(path, range(info.frames))
        except UserError as error:
            raise BadItem(str(error)) from error
        frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cfg.mean, cfg.std))
        size = refined_size(frames.shape[-1], frames.shape[-2], cfg.sr_resolution, cfg.scale)
        return enlarged((frames - mean) / std, *size)

    def refine_clip(self, clip: torch.Tensor, conditions: tuple[dict, dict], generator, progress) -> torch.Tensor:
        """A clip [F, 3, H, W] at its final size, refined on the device; returned on the CPU."""
        cfg = self.cfg
        height, width = clip.shape[-2:]
        rows, columns = self.fitting_latents(height // cfg.scale, width // cfg.scale)
        clip = padded(clip, columns * cfg.scale, rows * cfg.scale)[None].to(self.runtime.device)
        with self.runtime.full_precision():
            latents = encode_video(self.autoencoder, clip, cfg.scale_factor, ENCODED_TOGETHER, generator)
        if generator is None:
            runtime.seed_everything(SHARED_SEED)
        noisy = self.noised(latents, conditions[1], generator, progress.of(0))
        refined = self.denoise(noisy, conditions, generator, progress.of(1))
        return self.decode(refined)[0].transpose(0, 1)[..., :height, :width].cpu()

    def fitting_latents(self, rows: int, columns: int) -> tuple[int, int]:
        """The least latent size that holds the given one and suits the network."""
        fitting = getattr(self.model, "fitting_size", None)
        return fitting(rows, columns) if fitting else (rows, columns)

    def noised(self, latents: torch.Tensor, null: dict, generator, progress=None) -> torch.Tensor:
        """Latents at the highest noise level: inverted without guidance, or with noise added."""
        cfg, process = self.cfg, self.diffusion
        if cfg.sr_start == "noise":
            start = noise.device_randn(latents.shape, device=latents.device, generator=generator)
            return process.forward_diffusion.diffuse(latents, self.highest_level(latents), start)
        with self.runtime.autocast(), self.condition_cache():
            return process.reverse_diffusion.ddim_reverse_sample_loop(
                latents, self.model, null, ddim_timesteps=cfg.sr_steps, reverse_steps=cfg.total_noise_levels,
                progress=progress)

    def denoise(self, start: torch.Tensor, conditions: tuple[dict, dict], generator=None,
                progress=None) -> torch.Tensor:
        cfg = self.cfg
        return self.solve(start, conditions, cfg.sr_guide_scale, cfg.sr_guide_rescale, generator, progress)

    def solve(self, start: torch.Tensor, conditions: Iterable[dict], guide_scale: float, guide_rescale: float = 0.0,
              generator=None, progress=None) -> torch.Tensor:
        """Latents from the highest noise level."""
        cfg = self.cfg

        def sample(batched: bool) -> torch.Tensor:
            with self.runtime.autocast(), self.condition_cache():
                return self.diffusion.forward_diffusion.sample(
                    start, self.model, list(conditions), guide_scale=guide_scale, guide_rescale=guide_rescale,
                    solver="dpmpp_2m_sde", steps=cfg.sr_steps, t_max=cfg.total_noise_levels - 1, t_min=0,
                    discretization="trailing", eta=cfg.sr_eta, exact_start=cfg.sr_start == "noise",
                    generator=generator, progress=progress, batched_guidance=batched)

        return self.within_memory(sample)

    def highest_level(self, latents: torch.Tensor) -> torch.Tensor:
        """The time at which denoising starts, one for every sample: int64 [B]."""
        return torch.full((len(latents),), self.cfg.total_noise_levels - 1, device=latents.device)

    # Training.

    @property
    def pixel_features(self) -> tuple[str, ...]:
        return ("degraded",) if self.cfg.sr_degradation else ()

    def features(self, batch: dict) -> dict[str, torch.Tensor]:
        return {"degraded": self.encode(degraded(batch["video"]))} if self.cfg.sr_degradation else {}

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = self.with_latents(batch)
        positive, _ = self.conditions(batch, training=True)
        latents = batch["latents"]
        t = noise.device_randint(0, self.cfg.total_noise_levels, (len(latents),), device=latents.device)
        n = noise.device_randn(latents.shape, device=latents.device)
        if self.cfg.sr_degradation:
            n = n + self.share_of_noise(batch["degraded"] - latents)
        return self.diffusion.loss(latents, t, self.network, positive, n).mean(), {}

    def share_of_noise(self, lost: torch.Tensor) -> torch.Tensor:
        """What the noise of training gains by latents [B, ...] that degradation changed by `lost`."""
        alpha, sigma = self.diffusion.forward_diffusion.alpha_sigma(self.highest_level(lost), lost)
        chosen = torch.rand(len(lost)) < self.cfg.sr_degradation
        return chosen.view(-1, *[1] * (lost.dim() - 1)).to(lost) * lost * alpha / sigma

    def preview(self, step: int, batch: dict) -> None:
        batch = self.with_latents(batch)
        self.previewed = batch.get("degraded", batch["latents"])
        super().preview(step, batch)

    def preview_latents(self, start: torch.Tensor, conditions: list[dict], guide_scale: float | None) -> torch.Tensor:
        """Clips of the batch, brought to the highest level with the noise `start` and refined."""
        latents = self.previewed[:len(start)]
        noisy = self.diffusion.forward_diffusion.diffuse(latents, self.highest_level(latents), start)
        return self.solve(noisy, conditions, guide_scale)


class Progress:
    """Steps of both halves (inversion, denoising) of one of several pieces, told as those of the whole."""

    def __init__(self, progress, before: int, parts: int):
        self.progress, self.before, self.parts = progress, before, parts

    def of(self, half: int):
        """What a sampler of one half calls; None where nobody listens."""
        if self.progress is None:
            return None
        return lambda done, total: self.progress((2 * self.before + half) * total + done, 2 * self.parts * total)
