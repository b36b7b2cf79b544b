"""Does refinement bring a small video nearer to the large one than enlarging does? PSNR on the small world.

    python -m tools.benchmarks.refinement --cfg configs/tiny/sr_infer.yaml --clips 100

Fresh clips (`--seed`, which no training run uses) are drawn at `sr_resolution` and at half of it. The small ones are
written as an earlier run writes its videos, read back, and enlarged by bicubic interpolation on the one hand, refined
on the other; both are compared with the large clips, pixel by pixel. `dynamic` is the share of refined clips that move.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

FRESH_SEED = 20_000  # the training configurations use seeds below 100


def bicubic(frames, width: int, height: int):
    """Frames uint8 [F, h, w, 3] at another size, uint8."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    large = interpolate(pixels, size=(height, width), mode="bicubic", align_corners=False)
    return large.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def clip_pairs(cfg, clips: int, seed: int):
    """(caption, small clip, large clip), both uint8 [F, H, W, 3], of the configuration's world."""
    from tools.media import to_uint8
    from tools.registry import DATASETS

    width, height = cfg.sr_resolution
    section = dict(cfg.vid_dataset) | {"seed": seed}
    small, large = (DATASETS.build(section, max_frames=cfg.max_frames, resolution=size, mean=cfg.mean, std=cfg.std)
                    for size in ((width // 2, height // 2), (width, height)))
    for i in range(clips):
        yield (large[i]["caption"], *(to_uint8(dataset[i]["video"], cfg.mean, cfg.std) for dataset in (small, large)))


def compare(engine, clips: int, seed: int, sheet: str | None = None) -> dict[str, float]:
    """Mean PSNR in dB of both ways, and the least gain of a clip."""
    import torch

    from tools.datasets.lists import Item
    from tools.media import contact_sheet, read_frames, to_uint8, write_png, write_video
    from tools.metrics.fidelity import psnr
    from tools.metrics.geometry import read_clip

    cfg, rows, shown = engine.cfg, [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, (caption, small, large) in enumerate(clip_pairs(cfg, clips, seed)):
            path = write_video(Path(folder) / f"{number}.mp4", small, cfg.output_fps)
            enlarged = bicubic(read_frames(path, range(len(small))), *cfg.sr_resolution)
            item, generator = Item(number + 1, caption, str(path)), torch.Generator().manual_seed(seed + number)
            refined = to_uint8(engine.generate([item], [generator])[0], cfg.mean, cfg.std)
            rows.append((psnr(enlarged, large), psnr(refined, large), read_clip(refined).motion is not None))
            shown += [(enlarged, "bicubic"), (refined, "refined"), (large, caption)] if number < 4 else []
            print(f"{len(rows)}/{clips}", file=sys.stderr, flush=True)
    if sheet:
        write_png(sheet, contact_sheet([video for video, _ in shown], [text for _, text in shown]))
    before, after, moving = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return {"bicubic_psnr": before, "refined_psnr": after, "gain": after - before,
            "least_gain": min(b - a for a, b, _ in rows), "dynamic": moving, "clips": len(rows)}


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.refinement", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="sampling configuration of the refinement")
    parser.add_argument("--clips", type=int, default=100, help="how many fresh clips")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of clips and noise")
    parser.add_argument("--sheet", help="PNG with the first clips, enlarged, refined and as drawn")
    parser.add_argument("overrides", nargs="*", help="key value pairs, as for inference.py")
    arguments = parser.parse_args(argv)

    from tools.config import load_config
    from tools.registry import ENGINE, load_components

    cfg = load_config(arguments.cfg, arguments.overrides)
    load_components(cfg.imports)
    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    figures = compare(engine, arguments.clips, arguments.seed, arguments.sheet)
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
