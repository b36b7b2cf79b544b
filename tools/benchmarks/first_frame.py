"""How well videos keep to their first frame, and how long videos drift, on fresh prompts of the small world.

    python -m tools.benchmarks.first_frame --clips 100      # ConsistI2V and I2VGen-XL, each with FrameInit and without
    python -m tools.benchmarks.first_frame --clips 100 --variant "slow=configs/quickstart.yaml ddim_timesteps 50" ...
    python -m tools.benchmarks.first_frame --long 10 --clips 10 --variant "long=configs/tiny/consisti2v_infer.yaml"

Every variant makes the same prompts from the same pictures and the same seeds. A still video keeps to its first frame
best, so figures are also given over matched pairs: prompts whose videos move as much in both variants, to within a
fifth, so that the dynamic degree is equal. Nothing is measured by a network.
"""
import argparse
import itertools
import json
import resource
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.benchmarks.few_steps import rounded
from tools.benchmarks.small_world import FRESH_SEED, fresh_items, generators_of

VARIANTS = (
    "ConsistI2V, FrameInit=configs/tiny/consisti2v_infer.yaml",
    "ConsistI2V=configs/tiny/consisti2v_infer.yaml noise_init null",
    "I2VGen-XL, FrameInit=configs/tiny/i2v_mini_infer.yaml noise_init '{type: FrameInit}'",
    "I2VGen-XL=configs/tiny/i2v_mini_infer.yaml",
)
EQUAL_MOTION = 0.2  # share by which the motion of a matched pair may differ
LEAST_MOTION = 0.1  # percent of the shorter side per frame: below, videos count as equally still


@dataclass(frozen=True)
class Clip:
    """What was measured of one video.

    Attributes:
        psnr: [F] dB of every frame against the picture.
        kept: [F] whether every frame shows the object in the shape and colour of the caption.
        overlap: [F] how much of the picture's object every frame keeps, wherever it has gone: intersection over union
            of both, the centres laid on each other; 0 where there is no object.
        motion: mean length of the optical flow, percent of the shorter side per frame.
        dynamic: whether it moves at all, by the rule of VBench.
    """

    psnr: np.ndarray
    kept: np.ndarray
    overlap: np.ndarray
    motion: float
    dynamic: bool


def measure_clip(video: np.ndarray, picture: np.ndarray, caption: str) -> Clip:
    """Measure a video, uint8 [F, H, W, 3], against its picture [H, W, 3] and caption."""
    from tools.metrics.fidelity import psnr
    from tools.metrics.geometry import read_clip
    from tools.metrics.steadiness import measure
    from tools.world.vocabulary import parse_caption

    asked, reading = parse_caption(caption), read_clip(video)
    kept = [shape == asked.shape and color == asked.color
            for shape, color in zip(reading.shapes, reading.colors, strict=True)]
    steadiness = measure(video)
    return Clip(np.array([min(psnr(frame, picture), 99.0) for frame in video]), np.array(kept),
                overlaps(video, picture), steadiness.motion, steadiness.dynamic)


def overlaps(video: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """`Clip.overlap` of a video, uint8 [F, H, W, 3], and its picture [H, W, 3]."""
    from tools.metrics.geometry import border_rows, find_object

    rows = border_rows(np.concatenate([picture[None], video]))
    first, *others = (centred(find_object(frame, rows), frame.shape[:2]) for frame in (picture, *video))
    return np.array([np.minimum(first, other).sum() / max(np.maximum(first, other).sum(), 1e-6) for other in others])


def centred(blob, size: tuple[int, int]) -> np.ndarray:
    """Cover, 0..1, of an object in the middle of an empty frame of `size` = (height, width)."""
    height, width = size
    canvas = np.zeros(size, np.float32)
    if blob is None:
        return canvas
    rows, columns = blob.cover.shape
    canvas[blob.top:blob.top + rows, blob.left:blob.left + columns] = blob.cover
    x, y = blob.center
    return cv2.warpAffine(canvas, np.float32([[1, 0, width / 2 - x], [0, 1, height / 2 - y]]), (width, height))


def figures(clips: list[Clip]) -> dict:
    """Means over clips, and per frame."""
    psnr, kept, overlap = (np.stack([getattr(clip, name) for clip in clips]) for name in ("psnr", "kept", "overlap"))
    return {"clips": len(clips), "psnr": float(psnr.mean()), "kept": float(kept.mean()),
            "overlap": float(overlap.mean()),
            "dynamic_degree": float(np.mean([clip.dynamic for clip in clips])),
            "motion": float(np.mean([clip.motion for clip in clips])),
            "psnr_by_frame": psnr.mean(0).round(2).tolist(), "kept_by_frame": kept.mean(0).round(3).tolist()}


def matched(first: list[Clip], second: list[Clip]) -> dict:
    """Both variants over the prompts whose videos move as much in either; empty where there are none."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True)
             if abs(a.motion - b.motion) <= max(EQUAL_MOTION * max(a.motion, b.motion), LEAST_MOTION)]
    if not pairs:
        return {}
    ours, theirs = (figures(list(side)) for side in zip(*pairs, strict=True))
    wins = {name: share_ahead([(getattr(a, name)[1:].mean(), getattr(b, name)[1:].mean()) for a, b in pairs])
            for name in ("psnr", "overlap")}
    return {"first": ours, "second": theirs, "psnr_gain": ours["psnr"] - theirs["psnr"],
            "kept_gain": ours["kept"] - theirs["kept"], "overlap_gain": ours["overlap"] - theirs["overlap"],
            "share_of_pairs_nearer": wins["psnr"], "share_of_pairs_more_alike": wins["overlap"]}


def share_ahead(pairs: list[tuple[float, float]]) -> float:
    """Share of pairs whose first value is the larger one; a tie counts half."""
    return float(np.mean([(np.sign(a - b) + 1) / 2 for a, b in pairs]))


def compare(variants: dict, clips: int, batch: int, seed: int) -> dict:
    """Figures of every variant, and of every pair of them over matched prompts.

    Args:
        variants: name -> sampling configuration.
        clips: fresh prompts. batch: clips made together. seed: of captions, pictures and noise.
    """
    measured = {name: [measure_clip(video, picture, item.caption)
                       for item, picture, video in made(cfg, clips, batch, seed)] for name, cfg in variants.items()}
    pairs = {f"{a} | {b}": matched(measured[a], measured[b]) for a, b in itertools.combinations(measured, 2)}
    return {"variants": {name: figures(found) for name, found in measured.items()}, "at_equal_motion": pairs}


def made(cfg, clips: int, batch: int, seed: int):
    """(item, picture, video uint8 [F, H, W, 3]) of fresh prompts; the network is dropped afterwards."""
    from tools.media import to_uint8
    from tools.registry import ENGINE

    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    with tempfile.TemporaryDirectory() as folder:
        for items, pictures in fresh_items(cfg, clips, seed, batch, Path(folder)):
            videos = engine.generate(items, generators_of(items, seed))
            for item, picture, video in zip(items, pictures, videos, strict=True):
                yield item, picture, to_uint8(video, cfg.mean, cfg.std)
            print(f"{items[-1].line}/{clips}", file=sys.stderr, flush=True)


def measure_long(video: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """Drift and seams of a video of chained clips.

    Args:
        video: uint8 [K (frames - 1) + 1, H, W, 3].
        frames: of one clip; the last frame of each is the first of the next.

    Returns:
        drift [K]: distance of the mean colour of a clip's frames from the first frame's, in grey levels.
        seam [K - 1]: mean change from a clip's last frame to the next one's first own frame, over the median change
        between the other neighbours; 1 where a seam cannot be seen.
    """
    colors = video.reshape(len(video), -1, 3).mean(1)
    distances = np.linalg.norm(colors - colors[0], axis=1)
    starts = range(1, len(video), frames - 1)
    changes = np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2, 3))
    seams = np.array([start - 1 for start in starts][1:], int)
    within = np.delete(changes, seams)
    return {"drift": np.array([distances[start:start + frames - 1].mean() for start in starts]),
            "seam": changes[seams] / max(float(np.median(within)), 1e-6)}


def long_videos(cfg, chunks: int, clips: int, seed: int) -> dict:
    """Drift and seam error per chunk, means over prompts, and peak memory of videos of 1, 2 and all chunks."""
    memory = {}
    for count in sorted({1, min(2, chunks), chunks}):
        cfg.update({"autoregress_steps": count})
        found = [measure_long(video, cfg.max_frames) for _, _, video in made(cfg, clips, 1, seed)]
        memory[f"{count} chunks"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"chunks": chunks, "clips": clips, "peak_memory_mib": memory,
            **{key: np.mean([one[key] for one in found], axis=0).round(3).tolist() for key in ("drift", "seam")}}


def parse_variant(text: str) -> tuple[str, object]:
    """Name and configuration of `NAME=FILE [key value ...]`."""
    from tools.config import load_config

    name, _, rest = text.partition("=")
    file, *overrides = shlex.split(rest)
    return name, load_config(file, overrides)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.first_frame", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", metavar="'NAME=FILE [key value ...]'",
                        help="a sampling configuration; ConsistI2V and I2VGen-XL, FrameInit on and off, when omitted")
    parser.add_argument("--clips", type=int, default=100, help="how many fresh prompts")
    parser.add_argument("--batch", type=int, default=4, help="clips made together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of captions, first frames and noise")
    parser.add_argument("--long", type=int, metavar="CHUNKS", help="measure long videos of so many chained clips")
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args(argv)

    from tools.checkpoint import save_text
    from tools.registry import load_components

    load_components()
    variants = dict(map(parse_variant, arguments.variant or (VARIANTS[:1] if arguments.long else VARIANTS)))
    if arguments.long:
        found = {name: long_videos(cfg, arguments.long, arguments.clips, arguments.seed)
                 for name, cfg in variants.items()}
    else:
        found = compare(variants, arguments.clips, arguments.batch, arguments.seed)
    text = json.dumps(rounded(found), indent=1, ensure_ascii=False)
    print(text)
    if arguments.json:
        save_text(text + "\n", Path(arguments.json))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
