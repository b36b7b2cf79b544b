"""What a customised model of the small world shows on fresh prompts, against the base model: measured by geometry.

    python -m tools.benchmarks.customisation --cfg configs/tiny/dreamvideo_infer_subject.yaml --claim subject
    python -m tools.benchmarks.customisation --cfg configs/tiny/dreamvideo_infer_motion.yaml --claim motion
    python -m tools.benchmarks.customisation --cfg configs/tiny/dreamvideo_infer_both.yaml --claim both

Prompts, pictures and noise come from a seed that no training run uses (`--seed`), the same for model and base. The
figures are shares of clips; what counts as seen is in `tools/metrics/novelties.py`.
"""
import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FRESH_SEED = 30_000
BASE = "configs/tiny/t2v_mini_infer.yaml"
# What is asked for, in the words of the trainings (configs/tiny/dreamvideo_*.yaml).
PROMPTS = {"subject": "a * {motion} on a {background} background",
           "motion": "a {color} {shape} on a {background} background",
           "both": "a * on a {background} background"}


def fresh_prompts(claim: str, clips: int, seed: int, world) -> Iterator[tuple[str, object]]:
    """(prompt, truth of the picture that goes with it) of each clip; world: what the base model knows."""
    from tools.world.scene import sample_truth
    from tools.world.vocabulary import NEW_COLORS, NEW_SHAPES

    subject = {} if claim == "motion" else {"shapes": tuple(NEW_SHAPES), "colors": tuple(NEW_COLORS)}
    world = dataclasses.replace(world, **subject)
    for index in range(clips):
        truth = sample_truth(seed, index, world)
        yield PROMPTS[claim].format(**dataclasses.asdict(truth)), truth


def measure(cfg, claim: str, clips: int, seed: int, batch: int) -> tuple[dict[str, float], list]:
    """Shares of clips that show subject, motion and both; and (video, prompt) of the first dozen."""
    import torch

    from tools.datasets.lists import Item
    from tools.media import to_uint8, write_png
    from tools.metrics.novelties import read_novelties
    from tools.registry import DATASETS, ENGINE
    from tools.world.draw import render

    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    found, shown = [], []
    world = DATASETS.build(cfg.vid_dataset).world
    with tempfile.TemporaryDirectory() as folder:
        cfg.test_data_dir = folder
        numbered = enumerate(fresh_prompts(claim, clips, seed, world))
        while chunk := list(itertools.islice(numbered, batch)):
            for number, (_, truth) in chunk:
                write_png(Path(folder) / f"{number}.png", render(truth, 1, tuple(cfg.resolution))[0])
            items = [Item(number + 1, prompt, f"{number}.png") for number, (prompt, _) in chunk]
            generators = [torch.Generator().manual_seed(seed + number) for number, _ in chunk]
            videos = [to_uint8(video, cfg.mean, cfg.std) for video in engine.generate(items, generators)]
            found += [read_novelties(video) for video in videos]
            shown += [(video, item.caption) for video, item in zip(videos, items, strict=True)]
            print(f"{len(found)}/{clips}", file=sys.stderr, flush=True)
    shares = {part: sum(getattr(one, part) for one in found) / len(found) for part in ("subject", "motion", "both")}
    return shares, shown[:12]


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.customisation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="sampling configuration of the customised model")
    parser.add_argument("--claim", required=True, choices=PROMPTS, help="what is asked for")
    parser.add_argument("--base", default=BASE, help=f"sampling configuration of the base; default {BASE}")
    parser.add_argument("--clips", type=int, default=100, help="how many fresh prompts")
    parser.add_argument("--batch", type=int, default=8, help="clips denoised together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of prompts, pictures and noise")
    parser.add_argument("--sheet", help="PNG with the first clips of the customised model")
    parser.add_argument("overrides", nargs="*", help="key value pairs for both, as for inference.py")
    arguments = parser.parse_intermixed_args(argv)

    from tools.config import load_config
    from tools.media import contact_sheet, write_png
    from tools.registry import load_components

    report = {"claim": arguments.claim, "clips": arguments.clips}
    for name, file in (("customised", arguments.cfg), ("base", arguments.base)):
        cfg = load_config(file, arguments.overrides)
        load_components(cfg.imports)
        report[name], shown = measure(cfg, arguments.claim, arguments.clips, arguments.seed, arguments.batch)
        if arguments.sheet and name == "customised":
            write_png(arguments.sheet, contact_sheet([video for video, _ in shown], [text for _, text in shown]))
    print(json.dumps(report))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
