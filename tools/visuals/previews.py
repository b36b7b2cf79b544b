"""Previews during training: what went in and what the model samples now, as a grid video and a contact sheet."""
import logging

import numpy as np
import torch

from tools import noise
from tools.media import contact_sheet, to_uint8, video_grid, write_png, write_video
from tools.registry import VISUAL

log = logging.getLogger(__name__)

MOST = 8  # clips in a preview


@VISUAL.register(ignored=("guidances",))
class VisualTrainTextImageToVideo:
    """Samples from the conditions of the training batch.

    Args:
        partial_keys: lists of condition names; one preview each with those conditions alone. All conditions when empty.
        guide_scale: guidance of the previews; None: the run's own.
        use_offset_noise: add the offset noise of `noise_strength` to the initial latents.
        viz_num: most clips in a preview.
    """

    def __init__(self, partial_keys: list[list[str]] = (), guide_scale: float | None = 9.0,
                 use_offset_noise: bool | None = None, viz_num: int = MOST):
        self.partial_keys = [list(keys) for keys in partial_keys]
        self.guide_scale, self.use_offset_noise, self.viz_num = guide_scale, use_offset_noise, viz_num

    def run(self, engine, step: int, batch: dict) -> None:
        """Write `sample_{step}/rank_{world}_{rank}_{fps}_{keys}.mp4` and the same as .png below the run's folder."""
        count = min(len(batch["caption"]), self.viz_num)
        batch = {key: value[:count] for key, value in batch.items() if isinstance(value, (torch.Tensor, list))}
        if "latents" not in batch:
            batch["latents"] = engine.encode(batch["video"])
        latents = batch["latents"]
        start = noise.cpu_randn(latents.shape).to(latents)
        if self.use_offset_noise:
            start += engine.cfg.noise_strength * noise.cpu_randn((*latents.shape[:3], 1, 1)).to(latents)
        conditions = engine.conditions(batch, training=False)
        source = self._pixels(engine, latents)
        for keys in self.partial_keys or [list(conditions[0])]:
            chosen = [{key: value for key, value in part.items() if key in keys} for part in conditions]
            scale = engine.cfg.guide_scale if self.guide_scale is None else self.guide_scale
            sampled = self._pixels(engine, engine.preview_latents(start, chosen, scale))
            self._write(engine, step, keys, batch["caption"], source, sampled)

    def _pixels(self, engine, latents: torch.Tensor) -> list[np.ndarray]:
        cfg = engine.cfg
        return [to_uint8(video, cfg.mean, cfg.std) for video in engine.decode(latents).transpose(1, 2)]

    def _write(self, engine, step, keys, captions, source, sampled) -> None:
        fps = engine.rank_plan()[2]
        runtime = engine.runtime
        name = f"rank_{runtime.world_size:02d}_{runtime.rank:02d}_{fps:02d}_{'_'.join(keys)}"
        path = engine.folder / f"sample_{step:06d}" / f"{name}.mp4"
        pairs = [np.concatenate([before, after], axis=2) for before, after in zip(source, sampled, strict=True)]
        if len(pairs[0]) > 1:
            write_video(path, video_grid(pairs, captions), engine.cfg.output_fps)
        write_png(path.with_suffix(".png"), contact_sheet(pairs, captions))
        log.info("preview: %s", path.with_suffix(".png"))


@VISUAL.register()
class VisualVideoTextDuringTrainUnClip(VisualTrainTextImageToVideo):
    """InstructVideo's previews: all conditions, by default with the run's guidance.

    Args:
        guide_scale: guidance of the previews; None: the run's own.
        viz_num: most clips in a preview.
    """

    def __init__(self, guide_scale: float | None = None, viz_num: int = MOST):
        super().__init__(guide_scale=guide_scale, viz_num=viz_num)
