"""Do HiGen's two dials turn what they say, and that alone? Measured on the small world, by geometry.

    python -m tools.benchmarks.content_factors --cfg configs/tiny/higen_infer.yaml --clips 100

For every factor, videos of the same fresh prompts and noise (`--seed`, which no training run uses):

    travel    how far the object goes during the clip, in shorter sides of the frame
    hue       how far its colour goes around the colour circle, in degrees; positive from red by way of yellow, as all
              colours of training turn, so that what flickers either way averages out
    dynamic   share of clips that move at all

`monotonic` says whether the mean rises with every step of its own dial; `leak` is how much the other measure changes
over a dial's steps, as a share of what its own dial changes it.
"""
import argparse
import itertools
import json
import sys

FRESH_SEED = 20_000  # the training configurations use seeds below 100
MEASURES = {"motion_factor": "travel", "appearance_factor": "hue"}
MOVES = 0.05  # travel of a clip that counts as dynamic


def travel_and_hue(video) -> tuple[float, float]:
    """(travel, hue) of a clip, uint8 [F, H, W, 3]: slopes of straight lines over time, times the clip's length; NaN
    where the object is seen in fewer than half of the frames."""
    import numpy as np

    from tools.metrics.geometry import border_rows, find_object, hue

    rows = border_rows(video)
    blobs = {time: blob for time, frame in enumerate(video) if (blob := find_object(frame, rows))}
    if len(blobs) < max(len(video) / 2, 2):
        return float("nan"), float("nan")
    times = np.array(list(blobs)) / (len(video) - 1)
    centers = np.array([blob.center for blob in blobs.values()])
    hues = np.unwrap([hue(blob.rgb) for blob in blobs.values()], period=360)
    (x, y, turn), _ = np.polyfit(times, np.column_stack([centers, hues]), 1)
    return float(np.hypot(x, y)) / min(video.shape[1:3]), float(turn)


def prompts(cfg, clips: int, seed: int) -> list:
    """Items with fresh captions of the configuration's world."""
    from tools.datasets.lists import Item
    from tools.registry import DATASETS
    from tools.world.vocabulary import caption_of

    dataset = DATASETS.build(dict(cfg.vid_dataset) | {"seed": seed}, max_frames=1)
    return [Item(i + 1, caption_of(dataset.truth(i))) for i in range(clips)]


def respond(engine, items: list, seed: int, batch: int, **factors) -> dict[str, float]:
    """Means of both measures over the videos of all items."""
    import numpy as np
    import torch

    from tools.media import to_uint8

    engine.cfg.update(factors)
    rows = []
    for start in range(0, len(items), batch):
        chosen = items[start:start + batch]
        generators = [torch.Generator().manual_seed(seed + item.line) for item in chosen]
        videos = engine.generate(chosen, generators)
        rows += [travel_and_hue(to_uint8(video, engine.cfg.mean, engine.cfg.std)) for video in videos]
        print(f"{factors}: {len(rows)}/{len(items)}", file=sys.stderr, flush=True)
    values = np.array(rows)
    seen = values[~np.isnan(values).any(axis=1)]
    travel, hue = seen.mean(axis=0) if len(seen) else (float("nan"), float("nan"))
    return {"travel": float(travel), "hue": float(hue), "seen": len(seen) / len(items),
            "dynamic": float((seen[:, 0] > MOVES).sum()) / len(items)}


def summary(table: dict[str, dict[float, dict[str, float]]]) -> dict[str, dict]:
    """Monotonicity and leak of both dials from their means, factor -> measures, in ascending order of the factor."""
    spans = {dial: {measure: _span(rows, measure) for measure in MEASURES.values()} for dial, rows in table.items()}
    result = {}
    for dial, own in MEASURES.items():
        other_dial = next(name for name in MEASURES if name != dial)
        other = MEASURES[other_dial]
        values = [row[own] for row in table[dial].values()]
        result[dial] = {"monotonic": all(a < b for a, b in itertools.pairwise(values)),
                        "leak": spans[dial][other] / max(spans[other_dial][other], 1e-9)}
    return result


def _span(rows: dict[float, dict[str, float]], measure: str) -> float:
    values = [row[measure] for row in rows.values()]
    return max(values) - min(values)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.content_factors", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="sampling configuration of HiGen")
    parser.add_argument("--clips", type=int, default=100, help="how many fresh prompts")
    parser.add_argument("--batch", type=int, default=10, help="clips denoised together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of prompts and noise")
    parser.add_argument("--motion", type=int, nargs="+", default=[100, 300, 500, 700], help="motion factors")
    parser.add_argument("--appearance", type=float, nargs="+", default=[0.0, 0.33, 0.67, 1.0],
                        help="appearance factors")
    parser.add_argument("overrides", nargs="*", help="key value pairs, as for inference.py; their motion_factor and "
                                                     "appearance_factor stand while the other one is turned")
    arguments = parser.parse_args(argv)

    from tools.config import load_config
    from tools.registry import ENGINE, load_components

    cfg = load_config(arguments.cfg, arguments.overrides)
    load_components(cfg.imports)
    items = prompts(cfg, arguments.clips, arguments.seed)
    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    rest = {dial: cfg[dial] for dial in MEASURES}
    table = {}
    for dial, factors in (("motion_factor", arguments.motion), ("appearance_factor", arguments.appearance)):
        table[dial] = {factor: respond(engine, items, arguments.seed, arguments.batch, **rest | {dial: factor})
                       for factor in sorted(factors)}
    print(json.dumps({"clips": len(items), **table, "summary": summary(table)}, indent=1))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
