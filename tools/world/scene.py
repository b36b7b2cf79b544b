"""The truth of a clip: drawn from (seed, index), independent of resolution and number of frames."""
import dataclasses
import math

import numpy as np

from tools.world.vocabulary import EVERYTHING, MOTIONS, NEW_MOTIONS, World

HUE_STREAM = 2
MARGIN = 0.02  # least gap between object and frame, in units of the shorter side: a good pixel at 64


@dataclasses.dataclass(frozen=True)
class Truth:
    """One clip of the world.

    Positions are relative to the middle of the frame (x to the right, y down); these and the radii are in units of
    the frame's shorter side, so that the object stays inside a frame of any shape. Angles are in radians, clockwise.
    Each pair holds the first and the last frame's value.
    """

    shape: str
    color: str
    background: str
    motion: str
    x: tuple[float, float]
    y: tuple[float, float]
    radius: tuple[float, float]
    angle: tuple[float, float]
    hue: float = 0.0  # degrees by which the colour goes around the colour circle, evenly, from the one that is named


@dataclasses.dataclass(frozen=True)
class Track:
    """Where the object is in every frame.

    Attributes:
        centers: float32 [F, 2], (x, y) in pixels; pixel (row i, column j) covers j..j+1 by i..i+1.
        radii: float32 [F], circumradius in pixels.
        angles: float32 [F], radians clockwise; 0 is upright (a tip on top; a square: an edge).
    """

    centers: np.ndarray
    radii: np.ndarray
    angles: np.ndarray


def sample_truth(seed: int, index: int, world: World = EVERYTHING) -> Truth:
    """Clip number `index` of the endless series `seed`; a pure function of its arguments.

    Args:
        seed, index: non-negative.
    """
    draws = iter(np.random.default_rng([seed, index]).random(12).tolist())

    def pick(names):
        return names[int(next(draws) * len(names))]

    def uniform(low, high):
        return low + (high - low) * next(draws)

    motion, color, background = pick(world.motions), pick(world.colors), pick(world.backgrounds)
    shape = pick([s for s in world.shapes if motion != "turning" or s != "circle"])
    radius = uniform(*world.radius)
    spread = math.sqrt(uniform(*world.growth))
    radii = {"growing": (radius / spread, radius * spread),
             "shrinking": (radius * spread, radius / spread)}.get(motion, (radius, radius))
    direction, travel = (MOTIONS | NEW_MOTIONS)[motion] or (0, 0), uniform(*world.travel)
    room = 0.5 - MARGIN - max(radii)
    jitter = uniform(-1, 1), uniform(-1, 1)
    x, y = (_path(step * travel, room, off) for step, off in zip(direction, jitter, strict=True))
    angle = uniform(-world.tilt, world.tilt)
    turn = math.copysign(uniform(*world.turn), next(draws) - 0.5) if motion == "turning" else 0.0
    # From a stream of its own: worlds without it keep their clips.
    hue = np.random.default_rng([seed, index, HUE_STREAM]).uniform(*world.hue) if any(world.hue) else 0.0
    return Truth(shape, color, background, motion, x, y, radii, (angle, angle + turn), hue)


def _path(distance: float, room: float, jitter: float) -> tuple[float, float]:
    """First and last coordinate of a way of signed length `distance` whose middle is off by `jitter` (-1..1) of what
    room is left; a world whose objects are too large to travel that far moves them as far as there is room."""
    half = min(abs(distance) / 2, room)
    middle = jitter * (room - half)
    half = math.copysign(half, distance)
    return middle - half, middle + half


def track(truth: Truth, frames: int, size: tuple[int, int]) -> Track:
    """Positions, radii and angles of `frames` frames of `size` = (width, height) pixels.

    Position and angle change linearly, the radius geometrically; a single frame shows the start.
    """
    width, height = size
    unit = min(width, height)
    time = np.linspace(0.0, 1.0, frames)

    def between(pair):
        return pair[0] + (pair[1] - pair[0]) * time

    centers = np.stack([width / 2 + unit * between(truth.x), height / 2 + unit * between(truth.y)], axis=1)
    radii = unit * truth.radius[0] * (truth.radius[1] / truth.radius[0]) ** time
    return Track(centers.astype(np.float32), radii.astype(np.float32), between(truth.angle).astype(np.float32))
