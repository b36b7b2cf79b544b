"""Over-fit one clip of the small world from scratch by text-to-video and image-to-video training, and draw the losses.

    python -m tools.benchmarks.overfit --steps 400 --out workspace/overfit

Runs `train_net.py`'s own tasks with the tiny networks; the curves are read from each run's metrics.jsonl.
"""
import argparse
import json
import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

METHODS = {"text to video": "configs/tiny/t2v_large.yaml", "image to video": "configs/tiny/i2v_large.yaml"}
COLORS = ("#1f5fbf", "#d1541b")
SIZE, MARGIN = (900, 560), (80, 50, 30, 60)  # pixels; left, top, right, bottom
SMOOTHED = 20  # updates


def train(cfg_file: str, steps: int, frames: int, folder: Path) -> list[float]:
    """Loss of every update on one and the same clip, without dropout of conditions and from fresh weights."""
    from tools.cli import run_task
    from tools.config import load_config

    overrides = {
        "Pretrain": "null", "visual_train": "null", "vid_dataset.length": 1, "cache_latents": 1, "num_workers": 0,
        "frame_lens": f"[{frames}]", "batch_sizes": f"{{'{frames}': 4}}", "max_frames": frames, "num_steps": steps - 1,
        "lr": 2e-3, "warmup_steps": 10, "decay_mode": "cosine", "p_zero": 0, "p_image_zero": 0, "use_ema": "false",
        "log_interval": 1, "save_ckp_interval": 10 * steps, "tensorboard": "false", "resume": "false",
        "log_dir": str(folder)}
    cfg = load_config(cfg_file, [str(word) for pair in overrides.items() for word in pair])
    run_task(cfg)
    return losses(folder / Path(cfg_file).stem / "metrics.jsonl")


def losses(metrics: Path) -> list[float]:
    """Losses of a metrics file, in the order of its lines."""
    return [json.loads(line)["loss"] for line in metrics.read_text(encoding="utf-8").splitlines()]


def smoothed(values: list[float], window: int = SMOOTHED) -> list[float]:
    """Mean over the last `window` values, fewer at the start."""
    return [sum(part) / len(part) for part in (values[max(0, i + 1 - window):i + 1] for i in range(len(values)))]


def draw_curves(curves: dict[str, list[float]], path: Path) -> None:
    """Curves over the updates with a logarithmic loss axis: every value as a dot, the smoothed ones as a line.

    Args:
        curves: label -> positive loss of every update.
        path: where the PNG goes.
    """
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    values = [value for curve in curves.values() for value in curve]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(map(len, curves.values())) - 1
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]

    def place(step: float, value: float) -> tuple[float, float]:
        share = (math.log10(value) - low) / max(high - low, 1)
        return left + (right - left) * step / max(last, 1), bottom - (bottom - top) * share

    for exponent in range(low, high + 1):
        _, y = place(0, 10.0 ** exponent)
        draw.line([(left, y), (right, y)], "#dddddd")
        draw.text((left - 10, y), f"{10.0 ** exponent:g}", "black", font, anchor="rm")
    for quarter in range(5):
        x, _ = place(last * quarter / 4, 10.0 ** low)
        draw.text((x, bottom + 10), f"{last * quarter / 4:.0f}", "black", font, anchor="mt")
    draw.text(((left + right) / 2, SIZE[1] - 12), "update", "black", font, anchor="mb")
    draw.text((left, 12), f"loss on one clip, dots; mean of {SMOOTHED} updates, line", "black", font)
    for number, (label, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        for step, value in enumerate(curve):
            draw.circle(place(step, value), 1, color)
        draw.line([place(step, value) for step, value in enumerate(smoothed(curve))], color, 3)
        draw.text((right, top + 22 * number), label, color, font, anchor="rt")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def main(argv: list[str]) -> None:
    """Train both methods, print their first and last losses, write `loss.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="updates of each method")
    parser.add_argument("--frames", type=int, default=8, help="of the clip")
    parser.add_argument("--out", type=Path, default=Path("workspace/overfit"), help="folder of runs and picture")
    options = parser.parse_args(argv)
    curves = {label: train(file, options.steps, options.frames, options.out) for label, file in METHODS.items()}
    draw_curves(curves, options.out / "loss.png")
    for label, curve in curves.items():
        few = max(1, min(SMOOTHED, len(curve) // 4))
        print(f"{label}: loss {sum(curve[:few]) / few:.4f} in the first {few} updates, "
              f"{sum(curve[-few:]) / few:.4f} in the last {few}")
    print(f"curves: {options.out / 'loss.png'}")


if __name__ == "__main__":
    from tools.cli import run_main

    run_main(lambda: main(sys.argv[1:]))
