"""What the embedded models achieve on fresh clips of the small world, measured from pixels by geometry.

    python -m tools.benchmarks.small_world --cfg configs/tiny/t2v_infer.yaml --clips 200
    python -m tools.benchmarks.small_world --cfg configs/quickstart.yaml --clips 200 guide_scale 2
    python -m tools.benchmarks.small_world --cfg configs/tiny/autoencoder.yaml auto_encoder.pretrained FILE

Captions, first frames and noise come from a seed that no training run uses (`--seed`).
"""
import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

FRESH_SEED = 20_000  # the training configurations use seeds below 100


def measure_autoencoder(cfg, clips: int, seed: int) -> dict[str, float]:
    """Mean PSNR in dB of reconstructions (from the posterior's mean) over all frames of fresh clips."""
    import torch

    from tools.media import to_uint8
    from tools.metrics.fidelity import psnr
    from tools.registry import AUTO_ENCODER

    autoencoder = AUTO_ENCODER.build(cfg.auto_encoder).eval()
    values = []
    with torch.no_grad():
        for item in _fresh(cfg, 4, clips, seed):
            out = autoencoder.decode(autoencoder.encode(item["video"]).mode())
            values += [psnr(to_uint8(a[None], cfg.mean, cfg.std), to_uint8(b[None], cfg.mean, cfg.std))
                       for a, b in zip(out, item["video"], strict=True)]
    return {"psnr": sum(values) / len(values), "worst_psnr": min(values), "frames": len(values)}


def measure_videos(cfg, clips: int, seed: int, batch: int, sheet: str | None) -> dict[str, float]:
    """Share of generated clips that show what the caption asks for; for image-to-video also the first frame's PSNR."""
    from tools.media import contact_sheet, to_uint8, write_png
    from tools.metrics.attributes import accuracies, judge
    from tools.metrics.fidelity import psnr
    from tools.registry import ENGINE

    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    judgements, fidelity, shown = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for items, firsts in fresh_items(cfg, clips, seed, batch, Path(folder)):
            videos = [to_uint8(v, cfg.mean, cfg.std) for v in engine.generate(items, generators_of(items, seed))]
            judgements += [judge(video, item.caption) for video, item in zip(videos, items, strict=True)]
            fidelity += [psnr(video[:1], first[None]) for video, first in zip(videos, firsts, strict=True)]
            shown += list(zip(videos, (item.caption for item in items), strict=True))
            print(f"{len(judgements)}/{clips}", file=sys.stderr, flush=True)
    if sheet:
        write_png(sheet, contact_sheet([v for v, _ in shown[:12]], [c for _, c in shown[:12]]))
    figures = accuracies(judgements) | {"guide_scale": cfg.guide_scale, "ddim_timesteps": cfg.ddim_timesteps}
    if engine.needs_image_vector:
        figures |= {"first_frame_psnr": sum(fidelity) / len(fidelity), "worst_first_frame_psnr": min(fidelity)}
    return figures


def fresh_items(cfg, clips: int, seed: int, batch: int, folder: Path):
    """Lists of up to `batch` list items with fresh captions, each with its first frame as a picture in `folder`, and
    these frames, uint8 [H, W, 3] each."""
    from tools.datasets.lists import Item
    from tools.media import to_uint8, write_png

    numbered = enumerate(_fresh(cfg, 1, clips, seed), start=1)
    while chunk := list(itertools.islice(numbered, batch)):
        firsts = [to_uint8(item["video"], cfg.mean, cfg.std)[0] for _, item in chunk]
        pictures = [write_png(folder / f"{line}.png", first) for (line, _), first in zip(chunk, firsts, strict=True)]
        yield [Item(line, item["caption"], str(picture))
               for (line, item), picture in zip(chunk, pictures, strict=True)], firsts


def generators_of(items: list, seed: int) -> list:
    """Generators of the items' noise, which depends on their lines alone."""
    import torch

    return [torch.Generator().manual_seed(seed + item.line - 1) for item in items]


def _fresh(cfg, frames: int, clips: int, seed: int):
    """Items of the configuration's world from a seed of their own."""
    from tools.registry import DATASETS

    section = dict(cfg.vid_dataset or cfg.img_dataset) | {"seed": seed}
    dataset = DATASETS.build(section, max_frames=frames)
    return (dataset[i] for i in range(clips))


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.small_world", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="sampling configuration, or the autoencoder's")
    parser.add_argument("--clips", type=int, default=200, help="how many fresh clips")
    parser.add_argument("--batch", type=int, default=8, help="clips denoised together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of captions, first frames and noise")
    parser.add_argument("--sheet", help="PNG with the first clips")
    parser.add_argument("overrides", nargs="*", help="key value pairs, as for inference.py")
    arguments = parser.parse_args(argv)

    from tools.config import load_config
    from tools.registry import load_components

    cfg = load_config(arguments.cfg, arguments.overrides)
    load_components(cfg.imports)
    if cfg.TASK_TYPE == "train_autoencoder_entrance":
        figures = measure_autoencoder(cfg, arguments.clips, arguments.seed)
    else:
        figures = measure_videos(cfg, arguments.clips, arguments.seed, arguments.batch, arguments.sheet)
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
