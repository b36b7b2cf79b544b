"""How much of what captions teach do clips without captions teach? (TF-T2V, arXiv 2312.15770, on the small world)

    python -m tools.benchmarks.text_free --pictures "CFG test_model A" --text-free "CFG test_model B" \\
        --full "CFG test_model C"

Three networks make clips of the same fresh captions, each by its own configuration (and key value pairs): trained on
captioned pictures alone, on those and clips without captions, and on captioned clips. `motion` is the share of clips
that move as the caption says; the last figure is how much of the way from the first network's to the third's the second
has come.
"""
import argparse
import json
import shlex
import sys

from tools.benchmarks.small_world import FRESH_SEED, measure_videos

NETWORKS = ("pictures", "text_free", "full")


def gap_closed(base: float, ours: float, full: float) -> float:
    """Share of the way from `base` to `full` that `ours` has come; NaN where there is no gap."""
    return (ours - base) / (full - base) if full != base else float("nan")


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.text_free", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in NETWORKS:
        parser.add_argument(f"--{name.replace('_', '-')}", required=True, metavar="'CFG [key value ...]'",
                            help="sampling configuration of that network")
    parser.add_argument("--clips", type=int, default=100, help="fresh clips per network")
    parser.add_argument("--batch", type=int, default=8, help="clips denoised together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of captions and noise")
    arguments = parser.parse_args(argv)

    from tools.config import load_config
    from tools.registry import load_components

    motion = {}
    for name in NETWORKS:
        file, *overrides = shlex.split(getattr(arguments, name))
        cfg = load_config(file, overrides)
        load_components(cfg.imports)
        figures = measure_videos(cfg, arguments.clips, arguments.seed, arguments.batch, None)
        motion[name] = figures["motion"]
        print(json.dumps({"network": name} | {key: round(value, 4) for key, value in figures.items()}), flush=True)
    print(json.dumps({"motion_gap_closed": round(gap_closed(*motion.values()), 4)}))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
