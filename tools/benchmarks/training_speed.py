"""Seconds and GFLOP/s of a training update of the small world, for several settings in turn.

    python -m tools.benchmarks.training_speed --cfg configs/tiny/t2v_large.yaml
    python -m tools.benchmarks.training_speed --cfg configs/tiny/i2v_mini.yaml --variant "bf16=precision bf16"

Every round times one update of each setting, so that whatever else the machine does slows all. The work of an update is
counted by PyTorch (matrix products, convolutions and attention, forward and backward, the autoencoder's and the text
encoder's share included); the last column is the share of the machine's measured matrix-product rate.
"""
import argparse
import shlex
import statistics
import sys
import tempfile

from tools.benchmarks.unet_speed import flops, matmul_rate, seconds

# The original encodes every batch anew and recomputes activations unless told otherwise.
VARIANTS = ("kept latents=", "encoding every batch=cache_latents 0",
            "encoding and recomputing=cache_latents 0 UNet.use_checkpoint true")
CLIPS = 32  # enough latents to draw batches from
WARM_UP = 2


def prepared(cfg_file: str, overrides: list[str], folder: str):
    """A trainer of a configuration and its batches."""
    from tools.config import load_config
    from tools.engines.train import Trainer
    from tools.registry import ENGINE, load_components

    fixed = ["cache_latents", str(CLIPS), "Pretrain", "null", "visual_train", "null", "log_dir", folder]
    cfg = load_config(cfg_file, [*fixed, *overrides])
    load_components(cfg.imports)
    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    trainer = Trainer(engine)
    trainer.wrap()
    return trainer, trainer.read_batches()


def compare(cfg_file: str, variants: dict[str, list[str]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of an update, its operations, and how many times as long it takes as the first variant's."""
    with tempfile.TemporaryDirectory() as folder:
        made = {name: prepared(cfg_file, overrides, folder) for name, overrides in variants.items()}
        updates = {name: lambda trainer=trainer, data=data: trainer.update(data)
                   for name, (trainer, data) in made.items()}
        work = {name: flops(update) for name, update in updates.items()}
        turns = [{name: seconds(update) for name, update in updates.items()} for _ in range(rounds + WARM_UP)][WARM_UP:]
    first = next(iter(variants))
    return {name: {"seconds": statistics.median(turn[name] for turn in turns), "flops": work[name],
                   "ratio": statistics.median(turn[name] / turn[first] for turn in turns)} for name in variants}


def report(figures: dict[str, dict[str, float]], rate: float) -> str:
    """The figures as a table."""
    width = max(map(len, figures))
    lines = [f"matrix products reach {rate / 1e9:.1f} GFLOP/s here"]
    for name, each in figures.items():
        speed = each["flops"] / each["seconds"]
        lines.append(f"{name:{width}}  {each['seconds']:7.3f} s  {each['ratio']:5.2f} times  "
                     f"{each['flops'] / 1e9:8.1f} GFLOP  {speed / 1e9:6.1f} GFLOP/s  {speed / rate:6.1%}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.training_speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="training configuration")
    parser.add_argument("--variant", action="append", metavar="'NAME=[key value ...]'",
                        help="a setting; kept latents, encoding every batch, and recomputing besides, when omitted")
    parser.add_argument("--rounds", type=int, default=5, help="updates of each setting that count")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (all cores)")
    options = parser.parse_args(argv)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    pairs = (variant.partition("=") for variant in options.variant or VARIANTS)
    variants = {name: shlex.split(overrides) for name, _, overrides in pairs}
    print(report(compare(options.cfg, variants, options.rounds), matmul_rate()))


if __name__ == "__main__":
    from tools.cli import run_main

    run_main(lambda: main(sys.argv[1:]))
