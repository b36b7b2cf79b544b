"""Captioned synthetic clips without end, with the ground truth of each."""
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from tools.datasets.transforms import CLIP_MEAN, CLIP_STD, vit_transforms
from tools.errors import UserError
from tools.registry import DATASETS
from tools.world.draw import object_cover, render
from tools.world.scene import Truth, sample_truth, track
from tools.world.vocabulary import World, caption_of

MASKED_SHARE = 0.25
STRAY_SHARE = 0.5  # of the captions name any motion of the world
_FRAME_STREAM = 1  # the choice of a frame must not move when a clip takes more draws
_CAPTION_STREAM = 2


@DATASETS.register()
class ProceduralVideoDataset(Dataset):
    """Clips of the small world (`tools/world`).

    An item is a pure function of (seed, index) and of the arguments below: workers, order and epochs change nothing.
    Every index from 0 on has a clip; `length` is only what samplers take for an epoch. Fresh seeds give fresh clips.

    Args:
        length: clips per epoch.
        resolution: [width, height] in pixels, at least 16 each.
        max_frames: frames of a clip; the motion spans the clip whatever their number.
        sample_fps: frames per second that the clip stands for.
        seed: which of the endless series, not negative.
        shapes, colors, backgrounds, motions: the world's vocabulary; all of it (without 'turning') when omitted.
        radius, travel, hue: (low, high) of the object's size, of its way, and of the change of its colour during the
            clip, as in `tools.world.vocabulary.World`.
        vit_resolution: [width, height] of the picture for CLIP.
        mean, std: normalisation of the pixels (0..1).
        vit_mean, vit_std: normalisation of the picture for CLIP.
        get_first_frame: the reference is the first frame, else the middle one.
        get_random_frame: the reference is a frame drawn at random (also a function of seed and index).
        captioned: False leaves the captions empty, as those of videos that nobody has described.
        caption: form of the captions in place of the world's own: 'a * {motion} on a {background} background'. Besides
            the clip's words it may name {stray_motion}: the clip's own motion in half of the captions, in the others
            any of the world's, for networks that are to trust another condition more than the word.
        masks: items have `mask` too, float32 [F, 3, H // scale, W // scale]: 1 where a quarter of a latent's pixels or
            more show the object.
        scale: pixels along each side of a latent.

    Items:
        video: float32 [F, 3, H, W]; ref_frame: float32 [3, H, W], one of its frames; vit_frame: float32 [3, h, w], the
        same frame for CLIP; caption; key; fps: int; truth: shape, color, background, motion, and per frame
        position [F, 2] (x, y), size [F] (circumradius), both in pixels, and angle [F] in radians.
    """

    def __init__(self, length: int = 100000, resolution: Sequence[int] = (64, 64), max_frames: int = 16,
                 sample_fps: int = 8, seed: int = 0, shapes: Sequence[str] | None = None,
                 colors: Sequence[str] | None = None, backgrounds: Sequence[str] | None = None,
                 motions: Sequence[str] | None = None, radius: Sequence[float] | None = None,
                 travel: Sequence[float] | None = None, hue: Sequence[float] | None = None,
                 vit_resolution: Sequence[int] = (64, 64),
                 mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5),
                 vit_mean: Sequence[float] = CLIP_MEAN, vit_std: Sequence[float] = CLIP_STD,
                 get_first_frame: bool = True, get_random_frame: bool = False, captioned: bool = True,
                 caption: str | None = None, masks: bool = False, scale: int = 8):
        for name, value, least in (("length", length, 1), ("max_frames", max_frames, 1), ("seed", seed, 0),
                                   ("resolution", min(resolution), 16), ("vit_resolution", min(vit_resolution), 1),
                                   ("scale", scale, 1)):
            if value < least:
                raise UserError(f"ProceduralVideoDataset: {name} must be at least {least}, not {value}")
        words = {"shapes": shapes, "colors": colors, "backgrounds": backgrounds, "motions": motions,
                 "radius": radius, "travel": travel, "hue": hue}
        self.world = World(**{name: names for name, names in words.items() if names is not None})
        self.length, self.seed = length, seed
        self.size, self.frames, self.fps = tuple(resolution), max_frames, sample_fps
        self.mean, self.std = mean, std
        self.for_clip = vit_transforms(resolution, vit_resolution, vit_mean, vit_std)
        self.get_first_frame, self.get_random_frame = get_first_frame, get_random_frame
        self.captioned, self.caption_form, self.masks, self.scale = captioned, caption, masks, scale
        try:
            self._caption(self.truth(0), 0)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"ProceduralVideoDataset: caption '{caption}' may name {{shape}}, {{color}}, "
                            f"{{background}}, {{motion}} and {{stray_motion}} in braces and nothing else "
                            f"({error})") from error

    def __len__(self) -> int:
        return self.length

    def truth(self, index: int) -> Truth:
        """What clip `index` shows, without drawing it."""
        return sample_truth(self.seed, index, self.world)

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        truth = self.truth(index)
        frames = render(truth, self.frames, self.size)
        video = _normalise(frames, self.mean, self.std)
        reference = self._reference(index)
        item = {
            "ref_frame": video[reference],
            "vit_frame": self.for_clip(Image.fromarray(frames[reference])),
            "video": video,
            "caption": self._caption(truth, index),
            "key": f"{self.seed}-{index:08d}",
            "fps": self.fps,
            "truth": self._collatable(truth),
        }
        return item | {"mask": self._mask(truth)} if self.masks else item

    def _mask(self, truth: Truth) -> torch.Tensor:
        cover = torch.from_numpy(object_cover(truth, self.frames, self.size))
        shown = (avg_pool2d(cover, self.scale) >= MASKED_SHARE).float()
        return shown[:, None].expand(-1, 3, -1, -1).contiguous()

    def _caption(self, truth: Truth, index: int) -> str:
        if not self.captioned:
            return ""
        if self.caption_form is None:
            return caption_of(truth)
        return self.caption_form.format(**_words(truth), stray_motion=self._stray_motion(truth, index))

    def _stray_motion(self, truth: Truth, index: int) -> str:
        rng = np.random.default_rng([self.seed, index, _CAPTION_STREAM])
        return str(rng.choice(self.world.motions)) if rng.random() < STRAY_SHARE else truth.motion

    def _reference(self, index: int) -> int:
        if self.get_random_frame:
            return int(np.random.default_rng([self.seed, index, _FRAME_STREAM]).random() * self.frames)
        return 0 if self.get_first_frame else self.frames // 2

    def _collatable(self, truth: Truth) -> dict:
        path = track(truth, self.frames, self.size)
        return _words(truth) | {"position": torch.from_numpy(path.centers), "size": torch.from_numpy(path.radii),
                        "angle": torch.from_numpy(path.angles)}


def _words(truth: Truth) -> dict[str, str]:
    """What of a clip has a name."""
    return {key: value for key, value in dataclasses.asdict(truth).items() if isinstance(value, str)}


def _normalise(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [F, H, W, 3] to float32 [F, 3, H, W]."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float().contiguous()
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (mean, std))
    return pixels.sub_(mean * 255).div_(std * 255)

