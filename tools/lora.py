"""LoRA files: merge some into a checkpoint, or write one in another layout.

    python -m tools.lora merge models/base.pth models/merged.safetensors style.safetensors=0.8 motion.pth=0.5
    python -m tools.lora convert workspace/run/lora_non_ema_00000500.pth style.safetensors --base models/base.pth

The layout `published` is InstructVideo's, `diffusers` that of peft and of diffusers' `load_lora_weights`; both are read
by all tasks here (`loras: {style.safetensors: 0.8}`).
"""
import argparse
import sys

from tools.errors import UserError

LAYOUTS = ("diffusers", "published")


def merge(base: str, target: str, loras: list[str]) -> int:
    """Write `base` with LoRA files merged into its weights.

    Args:
        base: checkpoint of a denoiser.
        target: `.safetensors`, or a torch file with {'state_dict', 'step'}.
        loras: `file=scale` each; `file` alone for a scale of 1.

    Returns:
        Number of weights that have changed.

    Raises:
        UserError: a file is missing or belongs to another base; a scale is no number.
    """
    from tools import checkpoint
    from tools.models import lora_files

    state = checkpoint.load_state(base)
    chosen = [_with_scale(word) for word in loras]
    changed = lora_files.merge(state, [(lora_files.load(file, state), scale) for file, scale in chosen])
    step = checkpoint.step_of(base)
    checkpoint.save_file(state if target.endswith(".safetensors") else {"state_dict": state, "step": step}, target)
    return len(changed)


def _with_scale(word: str) -> tuple[str, float]:
    file, equals, scale = word.rpartition("=")
    if not equals:
        return word, 1.0
    try:
        return file, float(scale)
    except ValueError:
        raise UserError(f"'{word}': the scale behind '=' must be a number, not '{scale}'") from None


def convert(source: str, target: str, base: str, layout: str) -> int:
    """Write a LoRA in another layout; returns how many weights it changes.

    Args:
        source: in any layout.
        target: `.safetensors`, or a torch file.
        base: checkpoint that it belongs to.
        layout: one of `LAYOUTS`.
    """
    from tools import checkpoint
    from tools.models import lora_files

    weights = checkpoint.load_state(base)
    lora = lora_files.load(source, weights)
    state = lora_files.published_state(lora) if layout == "published" else lora_files.diffusers_state(lora, weights)
    checkpoint.save_file(state, target)
    return len(lora.pairs)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.lora", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    merging = commands.add_parser("merge", help="merge LoRA files into a checkpoint")
    merging.add_argument("base", help="checkpoint of the denoiser")
    merging.add_argument("target", help="file to write")
    merging.add_argument("loras", nargs="+", metavar="FILE=SCALE")
    converting = commands.add_parser("convert", help="write a LoRA in another layout")
    converting.add_argument("source", help="LoRA file in any layout")
    converting.add_argument("target", help="file to write")
    converting.add_argument("--base", required=True, help="checkpoint that it belongs to")
    converting.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0])
    arguments = parser.parse_args(argv)
    if arguments.command == "merge":
        count = merge(arguments.base, arguments.target, arguments.loras)
    else:
        count = convert(arguments.source, arguments.target, arguments.base, arguments.layout)
    print(f"{arguments.target}: {count} weights changed by it" if arguments.command == "convert"
          else f"{arguments.target}: {count} weights changed")


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
