"""Previews while a subject or a motion is learned: the training batch, and prompts of the user's own."""
import logging
from collections.abc import Sequence
from pathlib import Path

from tools import noise
from tools.datasets.lists import Item, read_pairs
from tools.errors import UserError
from tools.media import contact_sheet, to_uint8, write_png, write_video
from tools.registry import VISUAL
from tools.visuals.previews import MOST, VisualTrainTextImageToVideo

log = logging.getLogger(__name__)


@VISUAL.register(ignored=("guidances",))
class VisualTrainDreamVideo(VisualTrainTextImageToVideo):
    """As `VisualTrainTextImageToVideo`; photos are previewed as videos of `gen_frames` frames.

    Args:
        infer_with_custom_text: also sample the prompts of `data_list`, with the run's `guide_scale`.
        data_list: lists of `picture|||prompt` lines. data_dir_list: for each, the folder that its pictures are in.
    """

    def __init__(self, partial_keys: Sequence[Sequence[str]] = (), guide_scale: float = 9.0,
                 use_offset_noise: bool | None = None, viz_num: int = MOST, infer_with_custom_text: bool = False,
                 data_list: Sequence[str] = (), data_dir_list: Sequence[str] = ()):
        super().__init__(partial_keys, guide_scale, use_offset_noise, viz_num)
        if len(data_list) != len(data_dir_list):
            raise UserError(f"visual_train: data_list names {len(data_list)} lists and data_dir_list "
                            f"{len(data_dir_list)} folders; give one folder for each list")
        pairs = zip(data_list, data_dir_list, strict=True) if infer_with_custom_text else ()
        self.prompts = [(Path(folder), item) for file, folder in pairs for item in read_pairs(file)]

    def run(self, engine, step: int, batch: dict) -> None:
        """Write the batch's preview and `sample_{step}/{prompt}_{seed}_{number}.mp4` of every prompt."""
        super().run(engine, step, self._as_clips(engine, batch))
        for number, (folder, item) in enumerate(self.prompts):
            self._sample(engine, step, number, folder, item)

    def _as_clips(self, engine, batch: dict) -> dict:
        """Photos [B, 1, ...] as still clips."""
        latents = batch["latents"] if "latents" in batch else engine.encode(batch["video"])
        if latents.shape[2] == 1:
            latents = latents.expand(-1, -1, engine.cfg.gen_frames, -1, -1)
        return batch | {"latents": latents}

    def _sample(self, engine, step: int, number: int, folder: Path, item: Item) -> None:
        cfg = engine.cfg
        conditions = engine.conditions(engine.request([item], [None], folder), training=False)
        channels, _, height, width = engine.latent_shape()
        start = noise.cpu_randn((1, channels, cfg.gen_frames, height, width)).to(engine.runtime.device)
        start = engine.with_offset(start, [None], cfg.noise_strength)
        latents = engine.preview_latents(start, list(conditions), cfg.guide_scale)
        video = to_uint8(engine.decode(latents)[0].transpose(0, 1), cfg.mean, cfg.std)
        path = engine.folder / f"sample_{step:06d}" / f"{engine.video_name(item, number)}.mp4"
        write_video(path, video, cfg.output_fps)
        write_png(path.with_suffix(".png"), contact_sheet([video], [item.caption]))
        log.info("preview: %s", path)
