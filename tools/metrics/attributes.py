"""Did a video of the small world show what its caption asked for?"""
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from tools.metrics.geometry import Reading, read_clip
from tools.world.vocabulary import parse_caption

ATTRIBUTES = ("shape", "color", "background", "motion")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One clip against its caption.

    Attributes:
        right: for every attribute, "all" (of them) and "kept" (colour and shape as asked in every single frame).
        reading: what the clip shows.
    """

    caption: str
    right: dict[str, bool]
    reading: Reading

    @property
    def seen(self) -> str:
        """The clip in words, "?" for what is not clear."""
        words = (getattr(self.reading, name) or "?" for name in ("color", "shape", "motion", "background"))
        return "{} {} {} on {}".format(*words)


def judge(video: np.ndarray, caption: str) -> Judgement:
    """Compare a clip with a caption.

    Args:
        video: uint8 [F, H, W, 3].
        caption: a sentence of the world's grammar.

    Raises:
        ValueError: the caption is not of the grammar.
    """
    asked = parse_caption(caption)
    reading = read_clip(video)
    right = {name: getattr(reading, name) == getattr(asked, name) for name in ATTRIBUTES}
    right["all"] = all(right.values())
    right["kept"] = object_kept(reading, asked.shape, asked.color)
    return Judgement(caption, right, reading)


def object_kept(reading: Reading, shape: str | None = None, color: str | None = None) -> bool:
    """Is the object of this shape and colour (by default: of the first frame's) in every frame?"""
    shape, color = shape or reading.shapes[0], color or reading.colors[0]
    return set(reading.shapes) == {shape} and set(reading.colors) == {color} and None not in (shape, color)


def accuracies(judgements: Iterable[Judgement]) -> dict[str, float]:
    """`shares` of judged clips."""
    return shares([judgement.right for judgement in judgements])


def shares(rights: Sequence[dict[str, bool]]) -> dict[str, float]:
    """Share of clips (0..1) that are right, per attribute, for "all" and "kept", and the number of "clips".

    Raises:
        ValueError: there are no clips.
    """
    if not rights:
        raise ValueError("accuracies of no clips at all")
    return {name: sum(right[name] for right in rights) / len(rights) for name in rights[0]} | {"clips": len(rights)}


def evaluate(videos: Iterable[np.ndarray], captions: Iterable[str]) -> dict[str, float]:
    """`accuracies` of clips (uint8 [F, H, W, 3] each) against their captions, one for each; ValueError otherwise."""
    return accuracies(judge(video, caption) for video, caption in zip(videos, captions, strict=True))
