"""What the small world holds, and the one grammar of its captions."""
import dataclasses
import math
import re
from typing import NamedTuple

from tools.errors import UserError, nearest

# name -> sRGB. Hues lie at least 27 degrees apart and every colour is saturated, unlike any background.
COLORS = {
    "red": (225, 25, 40),
    "orange": (250, 130, 10),
    "yellow": (245, 235, 25),
    "green": (25, 165, 60),
    "blue": (35, 80, 235),
    "purple": (170, 40, 215),
}


class Tips(NamedTuple):
    """A regular shape: `count` tips, between them notches at `notch` times the radius of the tips (for a convex
    polygon the middle of an edge, cos(pi / count)); one tip points `upright` radians clockwise from the top."""

    count: int
    notch: float
    upright: float = 0.0


# name -> outline; None: round.
SHAPES = {
    "circle": None,
    "square": Tips(4, math.cos(math.pi / 4), upright=math.pi / 4),
    "triangle": Tips(3, math.cos(math.pi / 3)),
    "star": Tips(5, 0.42),
}

# name -> grey levels from top to bottom, repeated in equal bands (8 bands over the height); one level: flat.
BACKGROUNDS = {
    "white": (255,),
    "black": (0,),
    "gray": (128,),
    "striped": (225, 170),
}

# name -> direction of travel (x to the right, y down); None where the object stays in its place.
MOTIONS = {
    "moving left": (-1, 0),
    "moving right": (1, 0),
    "moving up": (0, -1),
    "moving down": (0, 1),
    "growing": None,
    "shrinking": None,
    "turning": None,
}

# What no base model has seen: a subject and a motion to customise one with. A world draws them only where asked to.
NEW_SHAPES = {"hexagon": Tips(6, math.cos(math.pi / 6))}
NEW_COLORS = {"red-and-yellow": ("red", "yellow")}  # in turn, from the top, in `STRIPES` bands across the object
NEW_MOTIONS = {"moving aslant": (math.sqrt(0.5), math.sqrt(0.5))}  # down and to the right
STRIPES = 3

OUTLINES = SHAPES | NEW_SHAPES
VOCABULARY = {"shapes": OUTLINES, "colors": COLORS | NEW_COLORS, "backgrounds": BACKGROUNDS,
              "motions": MOTIONS | NEW_MOTIONS}


@dataclasses.dataclass(frozen=True)
class World:
    """The part of the vocabulary that clips are drawn from, and how much they vary.

    Lengths are in units of the frame's shorter side, so that a world has no resolution. A range is (low, high), drawn
    uniformly.

    Attributes:
        shapes, colors, backgrounds, motions: names out of `VOCABULARY`.
        radius: circumradius of the object (its geometric mean over the clip).
        travel: distance covered during the whole clip, whatever its number of frames.
        growth: last radius over first radius (first over last when shrinking).
        turn: angle covered during the whole clip, in radians.
        tilt: the object stands upright up to this angle either way, in radians.
        hue: degrees by which the object's colour goes around the colour circle during the clip.

    Raises:
        UserError: a name that the vocabulary lacks, an empty list, a range that is none, or only circles where objects
            turn.
    """

    shapes: tuple[str, ...] = tuple(SHAPES)
    colors: tuple[str, ...] = tuple(COLORS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    motions: tuple[str, ...] = tuple(m for m in MOTIONS if m != "turning")
    radius: tuple[float, float] = (0.172, 0.219)
    travel: tuple[float, float] = (0.344, 0.438)
    growth: tuple[float, float] = (1.8, 2.2)
    turn: tuple[float, float] = (0.9, 1.3)
    tilt: float = 0.15
    hue: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        for field, known in VOCABULARY.items():
            names = getattr(self, field)
            if isinstance(names, str) or not names:
                raise UserError(f"world: '{field}' must be a list of at least one of: {', '.join(known)}")
            for name in names:
                if name not in known:
                    raise UserError(f"world: no '{name}' in {field}{nearest(name, known)}; known: {', '.join(known)}")
            object.__setattr__(self, field, tuple(names))
        for field in ("radius", "travel"):
            pair = tuple(getattr(self, field))
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] < 0.5:
                raise UserError(f"world: {field} must be [low, high] with 0 < low <= high < 0.5 of the frame's shorter "
                                f"side, not {list(pair)}")
            object.__setattr__(self, field, pair)
        object.__setattr__(self, "hue", tuple(self.hue))
        if len(self.hue) != 2 or not 0 <= self.hue[0] <= self.hue[1] <= 180:
            raise UserError(f"world: hue must be [low, high] with 0 <= low <= high <= 180 degrees, not "
                            f"{list(self.hue)}")
        if any(self.hue) and not set(self.colors) <= set(COLORS):
            raise UserError(f"world: hue turns plain colours only ({', '.join(COLORS)})")
        if "turning" in self.motions and set(self.shapes) == {"circle"}:
            raise UserError("world: nobody sees a circle turn; add a shape with corners or leave out 'turning'")


EVERYTHING = World()


def caption_of(truth) -> str:
    """The caption of anything with `shape`, `color`, `background` and `motion`: "a red star moving left on a white
    background"."""
    article = "an" if truth.color[0] in "aeiou" else "a"
    return f"{article} {truth.color} {truth.shape} {truth.motion} on a {truth.background} background"


@dataclasses.dataclass(frozen=True)
class Attributes:
    """What a caption says."""

    shape: str
    color: str
    background: str
    motion: str


_CAPTION = re.compile(r"an? (?P<color>\S+) (?P<shape>\S+) (?P<motion>\S+(?: \S+)?) "
                      r"on an? (?P<background>\S+) background\.?")


def parse_caption(caption: str) -> Attributes:
    """Inverse of `caption_of`; case and runs of blanks do not matter.

    Raises:
        ValueError: another sentence, or a word that the vocabulary lacks (with the nearest one).
    """
    match = _CAPTION.fullmatch(" ".join(caption.lower().split()))
    if not match:
        raise ValueError(f"caption {caption!r} is not of the form 'a COLOR SHAPE MOTION on a BACKGROUND background'")
    words = match.groupdict()
    for role, word in words.items():
        known = VOCABULARY[role + "s"]
        if word not in known:
            raise ValueError(f"caption {caption!r}: no {role} '{word}'{nearest(word, known)}; "
                             f"known: {', '.join(known)}")
    return Attributes(**words)
