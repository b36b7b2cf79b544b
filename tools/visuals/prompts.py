"""Previews during training: the same prompts and pictures every time, sampled as a sampling run would."""
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tools.datasets.prompts import make_items
from tools.errors import UserError
from tools.media import plain_grid, to_uint8, write_video
from tools.registry import VISUAL

log = logging.getLogger(__name__)

COLUMNS = 4


@VISUAL.register()
class VisualPrompts:
    """Videos of given prompts.

    Args:
        prompts: the captions.
        path_to_first_frames: the pictures, one each or one for all; where a file is missing, one of the same name with
            another suffix will do.
        n_prompts: negative prompts, likewise.
        num_inference_steps, ddim_eta, guidance_scale_txt, guidance_scale_img, guidance_rescale, frame_stride: as the
            sampling keys `ddim_timesteps`, `eta`, `guide_scale`, `guide_scale_img`, `guide_rescale`, `frame_stride`.
        format: `gif` or `mp4`.

    Raises:
        UserError: a picture is missing; lists of different lengths.
    """

    def __init__(self, prompts: Sequence[str], path_to_first_frames: Sequence[str] | str | None = None,
                 n_prompts: Sequence[str] | str | None = "", num_inference_steps: int = 50, ddim_eta: float = 0.0,
                 guidance_scale_txt: float = 7.5, guidance_scale_img: float = 1.0, guidance_rescale: float = 0.0,
                 frame_stride: int = 3, format: str = "gif"):
        pictures = [path_to_first_frames] if isinstance(path_to_first_frames, str) else path_to_first_frames
        self.items = make_items(list(prompts), n_prompts, pictures and [_existing(path) for path in pictures], None,
                                "visual_train")
        self.settings = {"ddim_timesteps": num_inference_steps, "eta": ddim_eta, "guide_scale": guidance_scale_txt,
                         "guide_scale_img": guidance_scale_img, "guide_rescale": guidance_rescale,
                         "frame_stride": frame_stride, "autoregress_steps": 1}
        self.format = format

    def run(self, engine, step: int, batch: dict) -> None:
        """Write `samples/sample-{step}/{i}.{format}` and `samples/sample-{step}.{format}` below the run's folder."""
        if not engine.runtime.is_main:
            return
        cfg, clips = engine.cfg, []
        folder = engine.folder / "samples" / f"sample-{step}"
        with replaced(cfg, self.settings):
            for number, item in enumerate(self.items):
                video = engine.generate([item], [torch.Generator().manual_seed(cfg.seed)])[0]
                clips.append(to_uint8(video, cfg.mean, cfg.std))
                write_video(folder / f"{number}.{self.format}", clips[-1], cfg.output_fps)
        log.info("preview: %s", write_video(folder.with_suffix(f".{self.format}"), plain_grid(clips, COLUMNS),
                                            cfg.output_fps))


@contextlib.contextmanager
def replaced(cfg: dict, values: dict) -> Iterator[None]:
    """A configuration with other values inside the block."""
    before = {key: cfg[key] for key in values}
    cfg.update(values)
    try:
        yield
    finally:
        cfg.update(before)


def _existing(path: str) -> str:
    file = Path(path)
    if file.is_file():
        return path
    others = sorted(other for other in file.parent.glob(f"{file.stem}.*") if other.suffix in (".png", ".jpg", ".jpeg"))
    if not others:
        raise UserError(f"no image file '{path}' for the previews; name pictures that are there")
    log.warning("no image file '%s'; taking '%s'", path, others[0])
    return str(others[0])
