"""HiGen (arXiv 2312.04483): text to a key frame, then text and key frame to a video, by one network.

Sampling is the original's. Its training was named (`train_t2v_higen_entrance`) and never released; what the paper and
the published network leave open is decided here:

- every update has two terms, the two passes of sampling: the key frame of each clip alone, with the prior at zero,
  motion 0 and appearance all ones (spatial reasoning), and the whole clip with the key frame's latents as prior
  (temporal reasoning); ranks that train on pictures have the first term alone. `spatial_weight` weighs it;
- the key frame is the clip's middle one (`key_frame`), the nearest to all others;
- motion is the mean absolute difference of neighbouring frames, pixels in 0..1, times `motion_scale`, a whole number
  up to 1000. The default 10000 gives a slow landscape at 8 frames per second about 50 and a car that turns about 570,
  so that the published sampling default, 500, is lively motion;
- appearance is the cosine similarity of CLIP's image vectors of the frames, stretched so that a fall by
  `appearance_range` is a complete change, 0: the table that sampling makes of `appearance_factor` 1 spans 0 to 1;
  DINO's features, which the paper joins, would need weights that no recipe names;
- text is dropped to the empty text with `p_zero`, as the unguided branch of sampling has it; the key frame, motion and
  appearance are never dropped, since both branches see them.
"""
from functools import cached_property

import torch

from tools.engines.content import (
    appearance_of,
    appearance_table,
    frame_differences,
    frame_similarities,
    frame_vectors,
    motion_of,
)
from tools.engines.controls import Control
from tools.engines.engine import tasks
from tools.engines.latent_diffusion import part_of, source_of
from tools.engines.text2video import TextToVideo


@tasks(train=("train_t2v_higen_entrance",), sample=("inference_higen_entrance",))
class HiGen(TextToVideo):
    """Text, the key frame's latents, motion and appearance are the conditions; the null text is the empty one."""

    pixel_features = ("differences", "similarities")
    controls = (Control("motion_factor", "motion", maximum=1000, step=10),
                Control("appearance_factor", "change of appearance", maximum=1, step=0.05))

    @cached_property
    def null_words(self) -> torch.Tensor:
        return self.words([""])

    def conditions(self, batch: dict, training: bool) -> tuple[dict, dict]:
        told = {"y", "fps"} if self.cfg.UNet.get("use_fps_condition") else {"y"}
        content = batch.get("content") or self.temporal_content(self.with_latents(batch))
        positive, negative = ({key: value for key, value in part.items() if key in told} | content
                              for part in super().conditions(batch, training))
        return positive, negative

    @property
    def columns(self) -> int:
        """How many frames every frame's appearance is compared with."""
        return getattr(self.model, "appearance_frames", max(self.cfg.frame_lens))

    # What the two passes are told.

    def spatial_content(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of a key frame [B, c, 1, h, w] alone."""
        batch = len(latents)
        return {"spat_prior": torch.zeros_like(latents[:, :, 0]),
                "motion_cond": torch.zeros(batch, dtype=torch.long, device=latents.device),
                "appearance_cond": torch.ones(batch, 1, self.columns, device=latents.device)}

    def wished_content(self, prior: torch.Tensor, frames: int) -> dict[str, torch.Tensor]:
        """Of a video of `frames` frames with the key frame `prior` [B, c, h, w] and the factors asked for."""
        cfg, batch, device = self.cfg, len(prior), prior.device
        if frames == 1:
            motion = torch.zeros(batch, dtype=torch.long, device=device)
        else:
            motion = torch.full((batch, frames - 1), cfg.motion_factor, device=device)
        appearance = appearance_table(cfg.appearance_factor, frames, self.columns).to(device)
        return {"spat_prior": prior, "motion_cond": motion, "appearance_cond": appearance.expand(batch, -1, -1)}

    def temporal_content(self, batch: dict) -> dict[str, torch.Tensor]:
        """Of the clips of a training batch, measured."""
        cfg, latents = self.cfg, batch["latents"]
        if latents.shape[2] == 1:
            return self.spatial_content(latents)
        return {"spat_prior": self.key_frames(latents)[:, :, 0],
                "motion_cond": motion_of(batch["differences"], cfg.motion_scale),
                "appearance_cond": appearance_of(batch["similarities"], cfg.appearance_range, self.columns)}

    def key_frames(self, latents: torch.Tensor) -> torch.Tensor:
        """One frame [B, c, 1, h, w] of each clip [B, c, F, h, w]."""
        index = 0 if self.cfg.key_frame == "first" else latents.shape[2] // 2
        return latents[:, :, index:index + 1]

    # Training.

    @torch.no_grad()
    def features(self, batch: dict) -> dict[str, torch.Tensor]:
        cfg, video = self.cfg, batch["video"]
        if video.shape[1] == 1:
            return {}
        pixels = self.unit_range(video)
        with self.runtime.full_precision():
            vectors = frame_vectors(self.embedder, pixels, cfg.vit_mean, cfg.vit_std, cfg.vit_resolution,
                                    cfg.chunk_size)
        return {"differences": frame_differences(pixels), "similarities": frame_similarities(vectors)}

    def batch_loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = self.with_latents(batch)
        key = self.key_frames(batch["latents"])
        spatial, _ = super().batch_loss(batch | {"latents": key, "content": self.spatial_content(key)})
        if batch["latents"].shape[2] == 1:
            return spatial, {}
        temporal, _ = super().batch_loss(batch)
        return temporal + self.cfg.spatial_weight * spatial, {"temporal_loss": temporal, "spatial_loss": spatial}

    # Sampling.

    def stream_seed(self, request) -> int:
        """The original seeds every line anew, by its own number where it has one."""
        cfg = self.cfg
        return cfg.seed + self.runtime.rank + request.index % cfg.round + (request.item.seed or 0)

    @torch.no_grad()
    def generate(self, items: list, generators: list, progress=None) -> list[torch.Tensor]:
        batch = self.request(items, generators)
        start = self.initial_noise(generators, frames=1)
        key = self.run_pass(batch, self.spatial_content(start), start, generators, part_of(progress, 0, 2))
        start = self.with_offset(self.start_noise(batch, generators), generators, self.cfg.noise_strength)
        content = self.wished_content(key[:, :, 0], start.shape[2])
        latents = self.run_pass(batch, content, start, generators, part_of(progress, 1, 2))
        return list(self.decode(latents).transpose(1, 2))

    def run_pass(self, batch: dict, content: dict, start: torch.Tensor, generators: list, progress) -> torch.Tensor:
        """Latents of one of the two passes."""
        conditions = self.conditions(batch | {"content": content}, training=False)
        return self.denoise(start, conditions, source_of(generators), progress)
