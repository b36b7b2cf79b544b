"""`python -m tools.metrics`: measure generated videos of the small world against their captions."""
import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.errors import UserError
from tools.files import replacing

DESCRIPTION = """\
Reads shape, colour, background, motion and position of videos of the small world from their pixels, by geometry, and
compares them with their captions. Captions come from the JSON beside each video ("prompt") or from --captions.
"""


def main(argv: list[str]) -> None:
    """Judge the videos that the command line names; print a table and write what --json asks for.

    Raises:
        UserError: nothing to judge, or a path or list that cannot be read.
    """
    arguments = _parse(argv)
    judged, skipped = [], 0
    captions = _listed_captions(arguments.captions) if arguments.captions else None
    for path in find_videos(arguments.paths):
        try:
            judged.append((path, _judge_file(path, caption_for(path, captions))))
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped += 1
    if not judged:
        raise UserError(f"none of the {skipped} videos could be judged")
    report = _report(judged, skipped)
    print(_table(report))
    if arguments.json:
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.metrics", description=DESCRIPTION,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="MP4 files, or folders that hold some (at any depth)")
    parser.add_argument("--captions", metavar="LIST",
                        help="list of `video|||caption` lines; a video is found by its file name")
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    return parser.parse_args(argv)


def find_videos(paths: list[str]) -> Iterator[Path]:
    """MP4 files named by `paths`, those of folders in alphabetical order.

    Raises:
        UserError: a path does not exist, or a folder holds no MP4.
    """
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.rglob("*.mp4"))
            if not files:
                raise UserError(f"no MP4 in folder '{path}'")
            yield from files
        elif path.is_file():
            yield path
        else:
            raise UserError(f"no file or folder '{path}'")


def caption_for(path: Path, captions: dict[str, str] | None) -> str:
    """The caption that the list has for a video's name; without a list, the "prompt" of the JSON beside it.

    Raises:
        UserError: there is none.
    """
    if captions is not None:
        if path.name not in captions:
            raise UserError(f"the caption list does not name '{path.name}'")
        return captions[path.name]
    sidecar = path.with_suffix(".json")
    try:
        return json.loads(sidecar.read_text())["prompt"]
    except FileNotFoundError as error:
        raise UserError(f"'{path}' has no '{sidecar.name}' beside it; give its caption by --captions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{sidecar}' is not a JSON object with a \"prompt\"") from error


def _listed_captions(file: str) -> dict[str, str]:
    from tools.datasets.lists import read_pairs
    return {Path(item.path).name: item.caption for item in read_pairs(file)}


def _judge_file(path: Path, caption: str):
    from tools.media import probe_video, read_frames  # here, so that --help need not wait for them
    from tools.metrics.attributes import judge
    try:
        return judge(read_frames(path, range(probe_video(path).frames)), caption)
    except ValueError as error:
        raise UserError(f"'{path}': {error}") from error


def _report(judged: list, skipped: int) -> dict:
    from tools.metrics.attributes import accuracies
    videos = [{"file": str(path), "caption": j.caption, "seen": j.seen, "right": j.right} for path, j in judged]
    return {"accuracies": accuracies(j for _, j in judged), "skipped": skipped, "videos": videos}


def _table(report: dict) -> str:
    shares = dict(report["accuracies"])
    clips = shares.pop("clips")
    lines = [f"wrong: {video['file']}: asked '{video['caption']}', seen '{video['seen']}'"
             for video in report["videos"] if not (video["right"]["all"] and video["right"]["kept"])]
    lines += [f"{'attribute':<12}{'right':>6}{'of':>6}{'share':>9}"]
    lines += [f"{name:<12}{round(share * clips):>6}{clips:>6}{share:>9.1%}" for name, share in shares.items()]
    return "\n".join(lines + ([f"skipped: {report['skipped']}"] if report["skipped"] else []))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
