"""What can be measured of a video, one class per group of figures.

A measure's `of(path, frames)` gives the figures of one video by name and raises UserError where it has none of them;
`frames` are uint8 [F, H, W, 3].
"""
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from tools.datasets.transforms import CenterCropWide
from tools.errors import UserError
from tools.media import probe_video, read_frames, read_image
from tools.metrics import fidelity, steadiness
from tools.metrics.attributes import judge
from tools.metrics.inputs import Asked, caption_for, find_pictures, picture_for, said_of


class Measure(Protocol):
    """One group of figures."""

    def of(self, path: Path, frames: np.ndarray) -> dict: ...


def all_frames(path: Path) -> np.ndarray:
    """Every frame of a video, uint8 [F, H, W, 3]; UserError where it cannot be read."""
    return read_frames(path, range(probe_video(path).frames))


def told(path: Path, function: Callable, *arguments):
    """`function(*arguments)`; its ValueErrors, which speak of the clip, become UserErrors that name the file."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise UserError(f"'{path}': {error}") from error


class World:
    """Did a video of the small world show what its caption asked for? The caption, what is seen, what is right."""

    def __init__(self, captions: dict[str, str] | None):
        self.captions = captions

    def of(self, path: Path, frames: np.ndarray) -> dict:
        judgement = told(path, judge, frames, caption_for(path, self.captions))
        return {"caption": judgement.caption, "seen": judgement.seen, "right": judgement.right}


class Motion:
    """Change, flicker and motion, and whether the video moves at all (`dynamic`, 0 or 1)."""

    def of(self, path: Path, frames: np.ndarray) -> dict:
        found = told(path, steadiness.measure, frames)
        return found._asdict() | {"dynamic": float(found.dynamic)}


class Fidelity:
    """PSNR in dB and SSIM against the video of the same name in another folder."""

    def __init__(self, folder: str):
        if not Path(folder).is_dir():
            raise UserError(f"no folder '{folder}' of reference videos (--reference)")
        self.folder = Path(folder)

    def of(self, path: Path, frames: np.ndarray) -> dict:
        truth = all_frames(self.folder / path.name)
        return {"psnr": told(path, fidelity.psnr, frames, truth), "ssim": told(path, fidelity.ssim, frames, truth)}


class FirstFrame:
    """PSNR in dB and SSIM of the first frame against the picture that the video was to start from, cropped alike."""

    def __init__(self, pictures: dict[str, str] | None):
        self.pictures = pictures

    def of(self, path: Path, frames: np.ndarray) -> dict:
        height, width = frames.shape[1:3]
        picture = np.asarray(CenterCropWide((width, height))(read_image(picture_for(path, self.pictures))))
        return {"first_frame_psnr": fidelity.first_frame_psnr(frames, picture),
                "first_frame_ssim": told(path, fidelity.ssim, frames[0], picture)}


class DreamVideo:
    """CLIP-T, CLIP-I, DINO-I and temporal consistency; the two -I only where the video has reference pictures.

    Args:
        prompts: by file name; None for the prompts of the JSONs beside the videos.
        clip: `ClipFeatures`.
        dino: `DinoFeatures`, or None where no references are to be compared by it.
    """

    def __init__(self, prompts: dict[str, Asked] | None, clip, dino):
        self.prompts, self.clip, self.dino = prompts, clip, dino

    def of(self, path: Path, frames: np.ndarray) -> dict:
        from tools.metrics import similarity  # imports torch, which the other measures do without
        asked = said_of(path, self.prompts, "prompt", "--prompts") or Asked(caption_for(path, None))
        seen = self.clip.images(frames)
        scores = {"clip_t": similarity.text_similarity(seen, self.clip.text(asked.prompt)),
                  "temporal_consistency": told(path, similarity.temporal_consistency, seen)}
        if asked.references:
            pictures = [read_image(file) for file in find_pictures(asked.references)]
            scores["clip_i"] = similarity.image_similarity(seen, self.clip.images(pictures))
            if self.dino:
                scores["dino_i"] = similarity.image_similarity(self.dino.images(frames), self.dino.images(pictures))
        return scores
