"""What `python -m tools.metrics` reads: videos, and the lists and sidecars that say what they should show."""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.datasets.lists import read_fields, read_pairs
from tools.errors import UserError

VIDEOS = (".mp4", ".gif")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Asked(NamedTuple):
    """One line of a list of prompts: the prompt, and the folder of reference pictures or ''."""

    prompt: str
    references: str = ""


def find_videos(paths: list[str]) -> Iterator[Path]:
    """MP4 and GIF files named by `paths`, those of folders in alphabetical order.

    Raises:
        UserError: a path does not exist, or a folder holds no video.
    """
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in VIDEOS)
            if not files:
                raise UserError(f"no MP4 in folder '{path}', nor a GIF")
            yield from files
        elif path.is_file():
            yield path
        else:
            raise UserError(f"no file or folder '{path}'")


def find_pictures(folder: str) -> list[Path]:
    """Pictures of a folder in alphabetical order.

    Raises:
        UserError: the folder does not exist or holds none.
    """
    if not Path(folder).is_dir():
        raise UserError(f"no folder '{folder}' of reference pictures")
    pictures = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in PICTURES)
    if not pictures:
        raise UserError(f"no picture in folder '{folder}' ({', '.join(PICTURES)})")
    return pictures


def listed(file: str) -> dict[str, str]:
    """What a list of `video|||text` lines says of each video, by the video's file name."""
    return {Path(item.path).name: item.caption for item in read_pairs(file)}


def listed_prompts(file: str) -> dict[str, Asked]:
    """A list of `video|||folder of reference pictures|||prompt` lines, by the video's file name; the folder may be ''.

    Raises:
        UserError: the file is missing, not UTF-8 or empty, or a line has not three fields.
    """
    fields = read_fields(file, "video|||folder of reference pictures|||prompt")
    return {Path(video).name: Asked(prompt, folder) for video, folder, prompt in fields}


def said_of(path: Path, said: dict | None, what: str, option: str):
    """What a list says of a video; None without a list.

    Raises:
        UserError: the list does not name it.
    """
    if said is not None and path.name not in said:
        raise UserError(f"the {what} list of {option} does not name '{path.name}'")
    return said and said[path.name]


def caption_for(path: Path, captions: dict[str, str] | None) -> str:
    """The caption that the list has for a video's name; without a list, the "prompt" of the JSON beside it.

    Raises:
        UserError: there is none.
    """
    listed_caption = said_of(path, captions, "caption", "--captions")
    if listed_caption is not None:
        return listed_caption
    try:
        return sidecar(path)["prompt"]
    except FileNotFoundError as error:
        raise UserError(f"'{path}' has no '{path.with_suffix('.json').name}' beside it; give its caption by "
                        "--captions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path.with_suffix('.json')}' is not a JSON object with a \"prompt\"") from error


def picture_for(path: Path, pictures: dict[str, str] | None) -> str:
    """The picture that a video was to start from, by the list; without one, the path in the JSON beside the video.

    Raises:
        UserError: there is none.
    """
    picture = said_of(path, pictures, "picture", "--pictures")
    if picture is not None:
        return picture
    try:
        found = sidecar(path)["item"]["path"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        found = None
    if not found or Path(found).suffix.lower() not in PICTURES:
        raise UserError(f"no picture is known that '{path}' should start from; name it by --pictures")
    return found


def sidecar(path: Path) -> dict:
    """The JSON beside a video."""
    return json.loads(path.with_suffix(".json").read_text())
