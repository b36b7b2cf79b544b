"""Turn a training checkpoint into the weights file that is given away.

    python -m tools.export workspace/tiny/t2v/checkpoints/ema_00006000.pth models/tiny/t2v.safetensors --dtype fp16
"""
import argparse
import logging
import sys

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

log = logging.getLogger(__name__)


def export(source: str, target: str, dtype: str = "fp32") -> int:
    """Write the state dict of `source` to `target`.

    Args:
        source: any weights file that `tools.checkpoint` reads.
        target: `.safetensors`, or a torch file with {'state_dict', 'step'}.
        dtype: number format of floating-point entries, a key of `DTYPES`.

    Returns:
        Size of the file in bytes.
    """
    import torch

    from tools import checkpoint

    state = checkpoint.load_state(source)
    chosen = getattr(torch, DTYPES[dtype])
    state = {key: value.to(chosen) if value.is_floating_point() else value for key, value in state.items()}
    step = checkpoint.step_of(source)
    if target.endswith(".safetensors"):
        checkpoint.save_file(state, target, {"step": str(step)})
    else:
        checkpoint.save_file({"state_dict": state, "step": step}, target)
    return checkpoint.locate(target).stat().st_size


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint of a training run, or any weights file")
    parser.add_argument("target", help="file to write, by its suffix safetensors or torch")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="number format of the weights")
    arguments = parser.parse_args(argv)
    size = export(arguments.source, arguments.target, arguments.dtype)
    print(f"{arguments.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
