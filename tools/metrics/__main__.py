"""`python -m tools.metrics`: figures of a folder of videos, as a table and as JSON."""
import argparse
import json
import math
import sys

from tools.cli import run_main
from tools.errors import UserError
from tools.files import replacing

DESCRIPTION = """\
Measures videos. --measures names what, separated by commas:

  world        shape, colour, background and motion of videos of the small world, read from their pixels by geometry,
               against their captions: the "prompt" of the JSON beside each video, or --captions
  motion       change and flicker between frames, motion in percent of the shorter side per frame, dynamic degree
  fidelity     PSNR and SSIM against the videos of the same names in --reference
  first_frame  PSNR and SSIM of the first frame against the picture that it was to be: the path in the JSON beside the
               video, or --pictures
  dreamvideo   CLIP-T, CLIP-I, DINO-I and temporal consistency as DreamVideo defines them, with `motion` beside them;
               prompts and folders of reference pictures by --prompts, else the prompts of the JSONs alone
"""
EXAMPLES = """\
examples:
  python -m tools.metrics workspace/tiny_prompts
  python -m tools.metrics workspace/my_videos --measures motion,first_frame --json figures.json
  python -m tools.metrics workspace/dog2 --measures dreamvideo --prompts data/dog2_metrics.txt
"""
CLIP = "hf://timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors"
DINO = "hf://timm/vit_small_patch16_224.dino/model.safetensors"
MEASURES = ("world", "motion", "fidelity", "first_frame", "dreamvideo")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m tools.metrics", description=DESCRIPTION, epilog=EXAMPLES,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    whole.add_argument("paths", nargs="+", metavar="PATH", help="MP4 or GIF files, or folders of such at any depth")
    whole.add_argument("--measures", default="world", metavar="NAME,...", help="see above (default %(default)s)")
    whole.add_argument("--captions", metavar="LIST", help="world: `video|||caption` lines; file names count")
    whole.add_argument("--pictures", metavar="LIST", help="first_frame: `video|||picture` lines")
    whole.add_argument("--reference", metavar="FOLDER", help="fidelity: videos to compare with")
    whole.add_argument("--prompts", metavar="LIST",
                       help="dreamvideo: `video|||folder of reference pictures|||prompt` lines; the folder is optional")
    whole.add_argument("--clip", default=CLIP, metavar="FILE", help="OpenCLIP weights (default %(default)s)")
    whole.add_argument("--clip-arch", default="ViT-B-32-quickgelu", metavar="NAME",
                       help="OpenCLIP's name or JSON (default %(default)s)")
    whole.add_argument("--dino", default=DINO, metavar="FILE",
                       help="DINO's dino_deitsmall16_pretrain.pth, or %(default)s (default)")
    whole.add_argument("--device", default="cpu", help="where CLIP and DINO run (default %(default)s)")
    whole.add_argument("--json", metavar="FILE", help="write all figures to this file")
    return whole


def main(argv: list[str]) -> None:
    """Measure the videos that the command line names; print tables and write what --json asks for.

    A video of which a figure cannot be had is reported and left out of all of them.

    Raises:
        UserError: nothing to measure, an option that is missing, or a path, list or weights that cannot be read.
    """
    arguments = parser().parse_args(argv)
    from tools.metrics.inputs import find_videos
    from tools.metrics.measures import all_frames  # here, so that --help need not wait for them
    names = _names(arguments.measures)
    videos = list(find_videos(arguments.paths))
    measures = [_measure(name, arguments) for name in names]
    found, skipped = [], 0
    for path in videos:
        try:
            frames = all_frames(path)
            figures = [measure.of(path, frames) for measure in measures]
            found.append({"file": str(path)} | {name: value for part in figures for name, value in part.items()})
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped += 1
    if not found:
        raise UserError(f"none of the {skipped} videos could be judged")
    report = _report(found, skipped)
    print("\n\n".join(_tables(report)))
    if arguments.json:
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps(_finite(report), indent=2) + "\n")


def _names(measures: str) -> list[str]:
    """Names of the measures asked for; consistency is never shown without the motion that it may be bought with."""
    names = [name.strip() for name in measures.split(",")]
    for name in names:
        if name not in MEASURES:
            raise UserError(f"--measures: no measure '{name}'; there are: {', '.join(MEASURES)}")
    return list(dict.fromkeys(names + ["motion"] * ("dreamvideo" in names)))


def _measure(name: str, arguments: argparse.Namespace):
    from tools.metrics import inputs, measures
    if name == "world":
        return measures.World(inputs.listed(arguments.captions) if arguments.captions else None)
    if name == "motion":
        return measures.Motion()
    if name == "first_frame":
        return measures.FirstFrame(inputs.listed(arguments.pictures) if arguments.pictures else None)
    if name == "fidelity":
        if not arguments.reference:
            raise UserError("measure fidelity needs --reference, a folder of videos of the same names")
        return measures.Fidelity(arguments.reference)
    from tools.metrics.features import ClipFeatures, DinoFeatures
    prompts = inputs.listed_prompts(arguments.prompts) if arguments.prompts else None
    compared = any(asked.references for asked in (prompts or {}).values())
    return measures.DreamVideo(prompts, ClipFeatures(arguments.clip, arguments.clip_arch, arguments.device),
                               DinoFeatures(arguments.dino, arguments.device) if compared else None)


def _report(videos: list[dict], skipped: int) -> dict:
    """All figures: shares of right attributes of the small world, means of numbers, and each video's own."""
    report: dict = {"skipped": skipped, "videos": videos}
    if "right" in videos[0]:
        from tools.metrics.attributes import shares
        report["accuracies"] = shares([video["right"] for video in videos])
    names = dict.fromkeys(name for video in videos for name, value in video.items() if isinstance(value, float))
    report["means"] = {name: _mean([video[name] for video in videos if name in video]) for name in names}
    return report


def _mean(values: list[float]) -> dict[str, float]:
    return {"mean": math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.inf,
            "least": min(values), "most": max(values), "videos": len(values)}


def _tables(report: dict) -> list[str]:
    tables = []
    if "accuracies" in report:
        tables.append(_world_table(report))
    if report["means"]:
        rows = [f"{name:<22}" + "".join(f"{figure[part]:>10.4f}" for part in ("mean", "least", "most"))
                + f"{figure['videos']:>8}" for name, figure in report["means"].items()]
        tables.append("\n".join([f"{'figure':<22}{'mean':>10}{'least':>10}{'most':>10}{'videos':>8}", *rows]))
    if report["skipped"]:
        tables[-1] += f"\nskipped: {report['skipped']}"
    return tables


def _world_table(report: dict) -> str:
    shares = dict(report["accuracies"])
    clips = shares.pop("clips")
    lines = [f"wrong: {video['file']}: asked '{video['caption']}', seen '{video['seen']}'"
             for video in report["videos"] if not (video["right"]["all"] and video["right"]["kept"])]
    lines += [f"{'attribute':<12}{'right':>6}{'of':>6}{'share':>9}"]
    return "\n".join(lines + [f"{name:<12}{round(share * clips):>6}{clips:>6}{share:>9.1%}"
                              for name, share in shares.items()])


def _finite(value):
    """The report as JSON can hold it: infinite figures (PSNR of equal pixels) are null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
