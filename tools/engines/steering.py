"""From the frames of a clip to what steers its remake: one producer per condition of the compositional model."""
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from tools.annotators.base import as_pictures, in_grey
from tools.annotators.depth import by_nearness
from tools.annotators.masks import mask_out, remains
from tools.annotators.motion_vectors import FULL_COLOR
from tools.datasets.steered_clips import Clip
from tools.errors import UserError, nearest
from tools.registry import ANNOTATOR
from tools.world import conditions as world

# Condition -> name of the annotator that reads it off frames.
ANNOTATORS = {"depth": "depth", "sketch": "sketch", "single_sketch": "sketch", "canny": "canny",
              "motion": "motion_vectors", "histogram": "palette"}
# Condition -> how it is drawn; motion and palettes are drawn by what reads them off frames, all others in grey.
DRAWN = {"depth": by_nearness, "local_image": as_pictures, "masked": remains}


class Steering:
    """Makes conditions of clips by annotators.

    Args:
        options: annotator -> its options.

    Raises:
        UserError: options for an annotator that does not exist or is not used here.
    """

    def __init__(self, options: Mapping[str, Mapping]):
        known = sorted(set(ANNOTATORS.values()))
        for name in options:
            if name not in known:
                raise UserError(f"annotators: no '{name}'{nearest(name, known)}; there are: {', '.join(known)}")
        self.options = options
        self._built: dict[str, Callable] = {}
        self._failed: dict[str, UserError] = {}
        self.producers = {"depth": self.depth, "motion": self.motion, "canny": self.canny, "masked": self.masked,
                          "sketch": self.sketch, "single_sketch": self.single_sketch,
                          "local_image": self.local_image, "histogram": self.histogram}

    def __call__(self, keys: Iterable[str], clip: Clip) -> dict[str, Tensor]:
        """Conditions of a clip by keyword: maps [C, F, H, W], palettes [F, colours]; text and image vector are not
        among them."""
        told = {}
        for key in keys:
            if key in self.producers:
                value = clip.given[key] if key in clip.given else self.producers[key](clip)
                value = value.expand(clip.length, *value.shape[1:])
                told[key] = value if key == "histogram" else value.transpose(0, 1)
        return told

    def draw(self, key: str, told: Tensor) -> np.ndarray:
        """A condition as `__call__` gives it, [C, F, H, W] or [F, colours], for the eye: uint8 [F, H, W, 3].

        The longest motion of a clip, of a pixel at least, has the fullest colour.
        """
        if key == "histogram":
            return self.annotator(ANNOTATORS[key]).draw(told)
        maps = told.transpose(0, 1)
        if key == "motion":
            longest = maps.norm(dim=1).amax().clamp_min(1.0)
            return self.annotator(ANNOTATORS[key]).draw(maps * FULL_COLOR / longest)
        return DRAWN.get(key, in_grey)(maps)

    def require(self, key: str) -> None:
        """Have what reads a condition off frames ready; UserError where its weights are missing."""
        if key in ANNOTATORS:
            self.annotator(ANNOTATORS[key])

    def annotator(self, name: str) -> Callable[[Tensor], Tensor]:
        """The annotator called `name`, built on first use; UserError as often as asked for where it cannot be."""
        if name in self._failed:
            raise self._failed[name]
        if name not in self._built:
            try:
                self._built[name] = ANNOTATOR.build({"type": name, **self.options.get(name, {})})
            except UserError as error:
                self._failed[name] = error
                raise
        return self._built[name]

    def pixels(self, key: str, clip: Clip) -> Tensor:
        """What a condition is read off, [F or 1, 3, H, W] in 0..1."""
        return clip.pixels(key)

    # One producer per condition: [F or 1, C, H, W], where 1 stands for all frames.

    def depth(self, clip: Clip) -> Tensor:
        return self.annotator("depth")(self.pixels("depth", clip))

    def motion(self, clip: Clip) -> Tensor:
        return self.annotator("motion_vectors")(self.pixels("motion", clip))

    def canny(self, clip: Clip) -> Tensor:
        return self.annotator("canny")(self.pixels("canny", clip))

    def sketch(self, clip: Clip) -> Tensor:
        return self.annotator("sketch")(self.pixels("sketch", clip))

    def single_sketch(self, clip: Clip) -> Tensor:
        return self.annotator("sketch")(self.pixels("single_sketch", clip)[:1])

    def local_image(self, clip: Clip) -> Tensor:
        return self.pixels("local_image", clip)[:1]

    def masked(self, clip: Clip) -> Tensor:
        return take_out(self.pixels("masked", clip), clip.mask)

    def histogram(self, clip: Clip) -> Tensor:
        """[F or 1, colours]."""
        return self.annotator("palette")(self.pixels("histogram", clip))


class TruthSteering(Steering):
    """Makes depth, sketches, motion and the mask of clips of the small world from their truth.

    Pixels are drawn anew, so that a clip of which only latents were kept is enough.
    """

    def pixels(self, key: str, clip: Clip) -> Tensor:
        return torch.from_numpy(clip.scene.pixels).permute(0, 3, 1, 2).float() / 255

    def depth(self, clip: Clip) -> Tensor:
        return _channel(world.depth(clip.scene.distances))

    def motion(self, clip: Clip) -> Tensor:
        return torch.from_numpy(world.motion(clip.scene.distances, clip.scene.path))

    def sketch(self, clip: Clip) -> Tensor:
        return _channel(world.sketch(clip.scene.distances))

    def single_sketch(self, clip: Clip) -> Tensor:
        return self.sketch(clip)[:1]

    def masked(self, clip: Clip) -> Tensor:
        return take_out(self.pixels("masked", clip), _channel(world.hole(clip.scene.distances)))

    def require(self, key: str) -> None:
        if key in ("canny", "histogram"):
            super().require(key)


def take_out(frames: Tensor, mask: Tensor) -> Tensor:
    """Condition `masked` [F, 4, H, W] of frames [F or 1, 3, H, W] and a mask [F or 1, 1, H, W]."""
    count = max(len(frames), len(mask))
    return mask_out(frames.expand(count, -1, -1, -1), mask.to(frames).expand(count, -1, -1, -1))


def _channel(maps: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(maps, np.float32))[:, None]
