"""Lists of the compositional model: which files steer a video, and their frames.

A line is `clip.mp4|||caption`: everything that is asked for is read off that video, or off that picture, repeated. Or
it names files for single conditions, `sketch=drawn.png; image=style.jpg|||caption`, alone or beside `video=clip.mp4`:

    video                       what other conditions are read off
    depth, sketch, canny        maps, video or picture in grey (near, or strokes, bright)
    single_sketch, local_image  picture, or a video's first frame
    image, histogram            picture whose style, or colours, the video is to have
    masked                      mask, bright where the video is to be painted anew
    motion                      .npy, [2, H, W] or [F, 2, H, W] in pixels per frame (x, y), or a video to read it off
"""
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools import media
from tools.datasets.lists import Item, read_pairs
from tools.errors import UserError, nearest
from tools.models.composer import ENTRIES

TEXT = "y"
VIDEO = "video"
CONDITIONS = tuple(key for key in ENTRIES if key != TEXT)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
ARRAYS = (".npy",)
STILL = ("image", "local_image", "single_sketch", "histogram")  # one frame is enough
STANDS_IN = {"single_sketch": "sketch"}  # a condition that another one's file can serve
MAX_ASPECT_GAP = 0.05  # relative difference up to which two files can show one video


@dataclass(frozen=True)
class SteeredItem(Item):
    """A line of the list with one set of conditions.

    Attributes:
        keys: what the denoiser is told, as its forward calls it, in the order of `partial_keys`.
        files: 'video' or a condition -> path, below the list's folder.
    """

    keys: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    def file_of(self, key: str) -> str | None:
        """The file that a condition comes from; None where the line names none."""
        return self.files.get(key) or self.files.get(STANDS_IN.get(key)) or self.files.get(VIDEO)

    def is_own(self, key: str) -> bool:
        """Whether the line gives the condition itself, not a video to read it off."""
        return key in self.files or STANDS_IN.get(key) in self.files


class Shape(NamedTuple):
    """Frames, width and height of a file; one frame of a picture, no size of an array."""

    frames: int
    width: int
    height: int
    moving: bool


def read_steered(file: str, folder: str, key_sets: Iterable[Iterable[str]], entries: Iterable[str]
                 ) -> list[SteeredItem]:
    """Every line of a list with every set of conditions, line by line.

    Args:
        file: the list.
        folder: what its paths are below.
        key_sets: sets of conditions, one video each (`partial_keys`).
        entries: conditions that the denoiser knows (`video_compositions`).

    Raises:
        UserError: a set names a condition that does not exist or that the denoiser does not know, or there is none;
            the list is missing or not in this form.
    """
    sets = [tuple(keys) for keys in key_sets]
    if not sets:
        raise UserError("partial_keys is empty; list at least one set of conditions, e.g. [[y, depth]]")
    for key in itertools.chain(*sets):
        if key not in ENTRIES:
            raise UserError(f"partial_keys: no condition '{key}'{nearest(key, ENTRIES)}; there are: "
                            f"{', '.join(ENTRIES)}")
        if ENTRIES[key] not in entries:
            raise UserError(f"partial_keys asks for '{key}', which the denoiser does not know: video_compositions "
                            f"lacks '{ENTRIES[key]}'")
    return [SteeredItem(**vars(item), keys=keys, files=_files(item, file, folder))
            for item in read_pairs(file) for keys in sets]


def _files(item: Item, file: str, folder: str) -> dict[str, str]:
    known = (VIDEO, *CONDITIONS)
    if not re.match(rf"\s*({'|'.join(known)})\s*=", item.path):
        return {VIDEO: str(Path(folder) / item.path)}
    files = {}
    for part in filter(str.strip, item.path.split(";")):
        key, equals, path = (text.strip() for text in part.partition("="))
        if key not in known or not equals or not path:
            raise UserError(f"list file '{file}', line {item.line}: expected condition=path, found '{part.strip()}'"
                            f"{nearest(key, known)}; conditions: {', '.join(known)}")
        if key in files:
            raise UserError(f"list file '{file}', line {item.line}: '{key}' is given twice")
        files[key] = str(Path(folder) / path)
    return files


def check_files(item: SteeredItem, frames: int, pad: bool) -> None:
    """Refuse an item whose files cannot steer a video of `frames` frames; nothing is decoded.

    Args:
        pad: shorter videos are allowed (the original fills up with black).

    Raises:
        UserError: a file is missing, of another kind than it should be, or too short; a condition has no file; files
            contradict each other.
    """
    seen: dict[str, Shape] = {}
    for key in item.keys:
        if key == TEXT:
            continue
        path = item.file_of(key)
        if path is None:
            raise UserError(f"'{key}' is asked for, but the line names no file for it and no video")
        if Path(path).suffix.lower() in ARRAYS and key != "motion":
            raise UserError(f"'{path}' cannot be '{key}'; arrays are for 'motion' alone")
        shape = seen[path] = shape_of(path)
        if key == "motion" and not shape.moving:
            raise UserError(f"'motion' cannot be read off the picture '{path}'; give a video or an array of vectors")
        needed = 1 if key in STILL else frames
        if shape.moving and shape.frames < needed and not pad and Path(path).suffix.lower() not in ARRAYS:
            raise UserError(f"video '{path}' has {shape.frames} frames, '{key}' needs {needed}; give a longer one or "
                            f"set max_frames {shape.frames}")
        if key == "masked" and item.is_own(key) and VIDEO in item.files:
            seen[item.files[VIDEO]] = shape_of(item.files[VIDEO])
        elif key == "masked" and item.is_own(key):
            raise UserError("'masked' is given, but no video whose rest is to be kept; add video=...")
    _check_agreement(item, seen)


def _check_agreement(item: SteeredItem, seen: dict[str, Shape]) -> None:
    """Files that describe every frame must agree in length and shape; style and colours may come from anywhere."""
    free = {item.files.get(key) for key in ("image", "histogram")}
    shown = {path: shape for path, shape in seen.items() if path not in free and shape.width}
    for (one, a), (other, b) in itertools.combinations(shown.items(), 2):
        if a.moving and b.moving and a.frames != b.frames:
            raise UserError(f"conditions contradict each other: '{one}' has {a.frames} frames, '{other}' {b.frames}")
        if abs(a.width * b.height / (a.height * b.width) - 1) > MAX_ASPECT_GAP:
            raise UserError(f"conditions contradict each other: '{one}' is {a.width}x{a.height}, '{other}' "
                            f"{b.width}x{b.height}")


def shape_of(path: str) -> Shape:
    """Frames and size of a picture, a video or an array; UserError where it is none."""
    suffix = Path(path).suffix.lower()
    if suffix in PICTURES:
        return Shape(1, *media.read_image(path).size, moving=False)
    if suffix in ARRAYS:
        return Shape(len(read_vectors(path)), 0, 0, moving=True)
    info = media.probe_video(path)
    return Shape(info.frames, info.width, info.height, moving=True)


def read_vectors(path: str) -> np.ndarray:
    """Motion vectors of an `.npy` file, float32 [F, 2, H, W]; a single field [2, H, W] becomes F = 1.

    Raises:
        UserError: no such file, not an array, or of another shape.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"no array of motion vectors in '{path}' ({' '.join(str(error).split())})") from error
    vectors = vectors[None] if vectors.ndim == 3 else vectors
    if vectors.ndim != 4 or vectors.shape[1] != 2 or vectors.dtype.kind not in "fiu" or not np.isfinite(vectors).all():
        raise UserError(f"'{path}' is {vectors.dtype} {list(vectors.shape)}; motion vectors are finite numbers "
                        "[2, H, W] or [frames, 2, H, W]")
    return vectors.astype(np.float32)
