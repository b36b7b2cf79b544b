"""Do generated clips of the small world follow their conditions? Measured from pixels, by geometry.

    python -m tools.benchmarks.steering --cfg configs/tiny/vcomposer_infer.yaml --clips 100
    python -m tools.benchmarks.steering --cfg configs/tiny/vcomposer_infer.yaml --checks depth motion_against_text

Every check steers fresh clips (`--seed`, which no training run uses) by one condition of a clip and its caption:

    depth, sketch, masked    iou: of the object seen and the condition's, mean over all frames; iou_0.8: share of frames
                             where it is 0.8 or more; iou_0.8_clips: share of clips where it is so in every frame
    motion                   direction: share of clips that move the way the vectors say
    motion_against_text      the same, with the caption asking for the opposite way
    palette                  color: share of clips whose object has the colour of the palette
    palette_against_text     the same, with the caption asking for another colour

Beside each stands `dynamic`, the share of clips that move at all. `conditions_from annotators` as override reads the
conditions off the clips' pixels instead of taking them from the truth.
"""
import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator

FRESH_SEED = 20_000  # the training configurations use seeds below 100
OPPOSITE = {"moving left": "moving right", "moving right": "moving left", "moving up": "moving down",
            "moving down": "moving up"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One claim.

    Attributes:
        key: the condition beside the text.
        measure: called with (video uint8 [F, H, W, 3], scene); figures of one clip.
        travelling: only clips whose object goes somewhere.
        rewrite: what the caption asks for instead, as a changed truth.
    """

    key: str
    measure: Callable
    travelling: bool = False
    rewrite: Callable = lambda truth: truth


def overlap(video, scene) -> dict[str, float]:
    """Intersection over union of the object seen and the one steered to; 0 where none is seen."""
    import numpy as np

    from tools.metrics.geometry import border_rows, find_object
    from tools.world.conditions import hole

    rows, values = border_rows(video), []
    for frame, wanted in zip(video, hole(scene.distances) > 0, strict=True):
        seen = np.zeros_like(wanted)
        if blob := find_object(frame, rows):
            height, width = blob.cover.shape
            seen[blob.top:blob.top + height, blob.left:blob.left + width] = blob.cover > 0.5
        values.append((seen & wanted).sum() / (seen | wanted).sum())
    values = np.array(values)
    return {"iou": values.mean(), "iou_0.8": (values >= 0.8).mean(), "iou_0.8_clips": float((values >= 0.8).all())}


def direction(video, scene) -> dict[str, float]:
    """Does the object move the way that the vectors say?"""
    from tools.metrics.geometry import name_motion, read_clip

    path = scene.path
    wanted = name_motion(path.centers, path.radii ** 2, path.angles, min(scene.size))
    return {"direction": float(read_clip(video).motion == wanted)}


def color(video, scene) -> dict[str, float]:
    """Has the object the palette's colour?"""
    from tools.metrics.geometry import read_clip

    return {"color": float(read_clip(video).color == scene.color)}


def turned(truth):
    """The truth moving the other way."""
    return dataclasses.replace(truth, motion=OPPOSITE[truth.motion])


def recolored(truth):
    """The truth in the colour that follows in the vocabulary."""
    from tools.world.vocabulary import COLORS

    names = list(COLORS)
    return dataclasses.replace(truth, color=names[(names.index(truth.color) + 1) % len(names)])


CHECKS = {
    "depth": Check("depth", overlap), "sketch": Check("sketch", overlap), "masked": Check("masked", overlap),
    "motion": Check("motion", direction, travelling=True),
    "motion_against_text": Check("motion", direction, travelling=True, rewrite=turned),
    "palette": Check("histogram", color), "palette_against_text": Check("histogram", color, rewrite=recolored),
}


def fresh(cfg, check: Check, clips: int, seed: int) -> Iterator[dict]:
    """Items of the configuration's world with the check's captions."""
    from tools.registry import DATASETS
    from tools.world.vocabulary import caption_of

    section = dict(cfg.vid_dataset) | {"seed": seed, "captioned": True}
    dataset = DATASETS.build(section, max_frames=cfg.max_frames)
    numbers = (i for i in itertools.count() if not check.travelling or dataset.truth(i).motion in OPPOSITE)
    for number in itertools.islice(numbers, clips):
        yield dataset[number] | {"caption": caption_of(check.rewrite(dataset.truth(number)))}


def run_check(engine, check: Check, clips: int, seed: int, batch: int) -> tuple[dict[str, float], list]:
    """Mean figures of a check, and (video, caption) of its first clips."""
    import torch
    from torch.utils.data import default_collate

    from tools.media import to_uint8
    from tools.metrics.steadiness import measure
    from tools.world.conditions import pack, unpack

    cfg, figures, shown = engine.cfg, [], []
    items = fresh(cfg, check, clips, seed)
    while chunk := list(itertools.islice(items, batch)):
        told = default_collate(chunk)
        kept = pack(told["truth"])
        generators = [torch.Generator().manual_seed(seed + len(figures) + i) for i in range(len(chunk))]
        with torch.no_grad():
            latents = engine.sample_latents(engine.to_device(told) | kept | {"keys": ("y", check.key)}, generators)
            videos = [to_uint8(v, cfg.mean, cfg.std) for v in engine.decode(latents).transpose(1, 2)]
        for video, scene in zip(videos, unpack(kept["words"], kept["path"], tuple(cfg.resolution)), strict=True):
            figures.append(check.measure(video, scene) | {"dynamic": float(measure(video).dynamic)})
        shown += list(zip(videos, told["caption"], strict=True))
        print(f"{len(figures)}/{clips}", file=sys.stderr, flush=True)
    return {name: sum(one[name] for one in figures) / len(figures) for name in figures[0]}, shown[:12]


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.steering", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="sampling configuration of a VideoComposer of the small world")
    parser.add_argument("--clips", type=int, default=100, help="fresh clips per check")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS), help="which; all by default")
    parser.add_argument("--batch", type=int, default=8, help="clips denoised together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of clips and noise")
    parser.add_argument("--sheets", help="folder for PNGs with each check's first clips")
    parser.add_argument("--set", nargs="*", default=[], metavar="WORD", help="key value pairs, as for inference.py")
    arguments = parser.parse_args(argv)

    from tools.config import load_config
    from tools.media import contact_sheet, write_png
    from tools.registry import ENGINE, load_components

    cfg = load_config(arguments.cfg, ["conditions_from", "truth", *arguments.set])
    load_components(cfg.imports)
    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    for name in arguments.checks:
        figures, shown = run_check(engine, CHECKS[name], arguments.clips, arguments.seed, arguments.batch)
        if arguments.sheets:
            write_png(f"{arguments.sheets}/{name}.png", contact_sheet(*map(list, zip(*shown, strict=True))))
        print(json.dumps({"check": name, "clips": arguments.clips}
                         | {key: round(float(value), 4) for key, value in figures.items()}), flush=True)


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
