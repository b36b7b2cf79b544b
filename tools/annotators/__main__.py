"""`python -m tools.annotators NAME IN OUT`: read one kind of map off a video. Imports no torch before it has parsed."""
import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.cli import run_main
from tools.errors import UserError

DESCRIPTION = """\
Reads a map off every frame of a video: the conditions of VideoComposer, each usable alone.
OUT ends in .mp4 for a video to look at, or in .npz for the numbers: `maps`, float32 [F, C, H, W] (palette: [F, 156]),
and `fps`. `python -m tools.annotators NAME --help` shows the options of one.
"""
EXAMPLES = """\
examples:
  python -m tools.annotators canny in.mp4 edges.mp4
  python -m tools.annotators depth in.mp4 depth.mp4 --weights hf://Intel/dpt-large/model.safetensors
  python -m tools.annotators motion_vectors in.mp4 motion.npz --source codec
"""

DEVICE = {"--device": (str, "where the network runs (default cpu)"),
          "--chunk": (int, "frames at a time (default 4)")}
# Name, which is also the module's and the registered one -> what it gives, and its options: type and meaning.
ANNOTATORS = {
    "canny": ("edges, 0 or 1 (OpenCV)", {
        "--low-threshold": (float, "of the gradient, in grey levels (default: from each frame's median)"),
        "--high-threshold": (float, "goes with --low-threshold")}),
    "depth": ("inverse depth (MiDaS, DPT-Large)", {
        "--weights": (str, "file or hub name (default models/midas_v3_dpt_large.pth)"), **DEVICE}),
    "masks": ("frames with parts taken out", {
        "--kind": (str, "random, irregular, rectangle or uncrop (default random)"),
        "--seed": (int, "of what is random (default 0)"),
        "--picture": (str, "file of a mask instead, bright where pixels are taken out")}),
    "motion_vectors": ("motion in pixels per frame", {
        "--source": (str, "codec: the file's own; mpeg4: of the frames encoded anew; flow: OpenCV's dense flow; auto "
                          "(default): codec, and flow where it has none"),
        "--dense": (bool, "a vector for every pixel, not for the centre of every block alone")}),
    "palette": ("shares of 156 colours", {
        "--sigma": (float, "distance in CIE Lab over which shares are smoothed (default 10)")}),
    "sketch": ("strokes (PiDiNet, then sketch simplification)", {
        "--weights": (str, "PiDiNet's file or hub name (default models/table5_pidinet.pth)"),
        "--simplification": (str, "file or hub name (default models/sketch_simplification_gan.pth); '' for PiDiNet's "
                                  "edges as they are"),
        "--training": (str, "which published simplification it is: gan (default), mse, pencil1 or pencil2"), **DEVICE}),
}


def parser() -> argparse.ArgumentParser:
    """The command line; options that are not given are absent from the result, so that the classes' defaults hold."""
    whole = argparse.ArgumentParser(prog="python -m tools.annotators", description=DESCRIPTION, epilog=EXAMPLES,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, (gives, options) in ANNOTATORS.items():
        command = commands.add_parser(name, help=gives, description=gives)
        command.add_argument("video", metavar="IN", help="any video that FFmpeg reads")
        command.add_argument("out", metavar="OUT", help=".mp4 or .npz")
        for option, (kind, meaning) in options.items():
            value = {"action": "store_true"} if kind is bool else {"type": kind}
            command.add_argument(option, help=meaning, default=argparse.SUPPRESS, **value)
    return whole


def main(argv: list[str]) -> None:
    """Annotate the video that the command line names.

    Raises:
        UserError: an option out of range, weights that are missing or do not fit, or a video that cannot be read.
    """
    options = vars(parser().parse_args(argv))
    name, video, out = options.pop("name"), options.pop("video"), Path(options.pop("out"))
    if out.suffix not in WRITERS:
        raise UserError(f"'{out}' must end in {' or '.join(WRITERS)}")
    if not Path(video).is_file():
        raise UserError(f"no video file '{video}'")
    if out.exists() and out.samefile(video):
        raise UserError(f"'{out}' is the video itself; give the result another name")
    importlib.import_module(f"tools.annotators.{name}")
    from tools.media import probe_video
    from tools.registry import ANNOTATOR
    fps = probe_video(video).fps
    annotator = ANNOTATOR.build({"type": name, **options})
    print(f"wrote {WRITERS[out.suffix](out, annotator, video, fps)}")


def write_pictures(out: Path, annotator, video: str, fps: float) -> Path:
    """The maps as a video to look at; of a single frame `OUT.png`."""
    from tools.media import write_video

    def pictures() -> Iterator:
        for _, maps in annotator.stream(video):
            yield from annotator.draw(maps)

    return write_video(out, pictures(), fps)


def write_numbers(out: Path, annotator, video: str, fps: float) -> Path:
    """The maps of all frames as one array."""
    import numpy as np
    import torch

    from tools.files import replacing
    maps = torch.cat([maps for _, maps in annotator.stream(video)])
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, maps=maps.numpy(), fps=fps)
    return out


WRITERS = {".mp4": write_pictures, ".npz": write_numbers}


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
