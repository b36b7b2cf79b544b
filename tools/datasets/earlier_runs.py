"""Videos that an earlier run has written: where they lie, and the prompt that the JSON beside each tells."""
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from tools.datasets.lists import Item, clean_name
from tools.errors import UserError

log = logging.getLogger(__name__)

MARK = "_sr"  # at the end of the names of refined videos


def videos_of(folder: Path) -> list[Path]:
    """The videos of a folder that are not refined ones, by name.

    Raises:
        UserError: there are none.
    """
    videos = sorted(path for path in folder.glob("*.mp4") if not path.stem.endswith(MARK))
    if not videos:
        raise UserError(f"'{folder}' holds no video (*.mp4) to refine; name the folder that an earlier run wrote as "
                        f"refine_dir")
    return videos


def video_of(folder: Path, index: int, caption: str, rank: int, ranks: int) -> Path:
    """Where a run put the video of a request, by the original's name for it, which need not be there.

    Args:
        folder: that the run wrote.
        index, caption: of the request.
        rank, ranks: of this process; another number of processes may have made the video.
    """
    expected = folder / f"rank_{ranks:02d}_{rank:02d}_{index:04d}_{clean_name(caption)}.mp4"
    found = sorted(p for p in folder.glob(f"rank_*_*_{index:04d}_*.mp4") if not p.stem.endswith(MARK))
    return found[0] if found and not expected.exists() else expected


def captioned(videos: Iterable[Path]) -> list[Item]:
    """Items of videos, with the prompts that the JSON beside each tells; videos without one are left out.

    Raises:
        UserError: none of them has one.
    """
    found, silent = [], []
    for number, path in enumerate(videos, start=1):
        prompt = told_prompt(path)
        if prompt:
            found.append(Item(number, prompt, str(path)))
        else:
            silent.append(path)
    reason = "has no JSON beside it that tells its prompt; list it as video|||caption in test_list_path instead"
    if not found:
        raise UserError(f"video '{silent[0]}' {reason}")
    for path in silent:
        log.error("left out: video '%s' %s", path, reason)
    return found


def told_prompt(video: Path) -> str | None:
    """The prompt in a video's sidecar; None where there is no sidecar or it tells none."""
    sidecar = video.with_suffix(".json")
    try:
        return json.loads(sidecar.read_text(encoding="utf-8")).get("prompt")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        log.warning("'%s' is no sidecar of a video (%s)", sidecar, error)
        return None
