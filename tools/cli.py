"""The command line that `train_net.py` and `inference.py` share. Imports no torch, so that `--help` answers at once."""
import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence

from tools.config import Config, load_config
from tools.errors import UserError
from tools.registry import ENGINE, REGISTRIES, load_components

EPILOG = """\
overrides:
  Any number of `key value` pairs, in any place. A dot reaches into a section; values are YAML.
    seed 7   resolution "[448, 256]"   UNet.dropout 0   lr 1e-5   negative_prompt "blurry, dark"
  All keys with type, default and meaning: tools/defaults.py. The resolved values and their origin: --print-config.

tasks (TASK_TYPE in the YAML):
  sampling  inference_text2video_entrance   text to video (ModelScopeT2V)
            inference_i2vgen_entrance       image to video (I2VGen-XL)
            inference_higen_entrance        text to video by way of a key frame (HiGen)
            inference_sr600_entrance        refinement of an earlier run's videos (SR600)
            inference_dreamvideo_entrance   a subject and a motion of your own (DreamVideo)
            inference_instructvideo_entrance  text to video tuned by a reward (InstructVideo)
            inference_consisti2v_entrance   a picture that the video keeps to (ConsistI2V)
            inference_cascade_entrance      several of them by one command
  training  train_t2v_entrance              text to video
            train_i2v_vs_img_text_entrance  image to video
            train_t2v_higen_entrance        HiGen
            train_dreamvideo_entrance       DreamVideo's word, adapters of the subject and of the motion
            train_sr600_entrance            refinement
            t2v_instructvideo_entrance      training by a reward (InstructVideo)
            train_consisti2v_entrance       ConsistI2V
  --list names everything that is registered, your own --imports included.

examples:
  python inference.py --cfg configs/quickstart.yaml
  python inference.py --cfg configs/i2vgen_xl_infer.yaml test_list_path data/my_list.txt seed 7
  python train_net.py --cfg configs/t2v_train.yaml --check
  torchrun --nproc_per_node 8 train_net.py --cfg configs/t2v_train.yaml
"""

TAKES_VALUE = ("--cfg", "--init_method")
SETUP_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def parse(argv: Sequence[str], description: str) -> argparse.Namespace:
    """Parse the words after the script's name.

    Flags and overrides may be mixed; what follows a key is its value whatever it looks like (`-1`, `--`).

    Returns:
        Namespace with cfg, overrides (list of words), debug, check, print_config, list, imports.
    """
    flags, overrides = _split(list(argv))
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage="%(prog)s --cfg FILE [flags] [key value ...]")
    parser.add_argument("--cfg", metavar="FILE", help="the YAML file of the task")
    parser.add_argument("--check", action="store_true",
                        help="build everything without weights; print parameters, expected files and memory, and stop")
    parser.add_argument("--print-config", action="store_true", help="print the resolved YAML with origins, and stop")
    parser.add_argument("--list", action="store_true", help="print every registered component, and stop")
    parser.add_argument("--imports", metavar="FILE.py", nargs="+", default=[], action="extend",
                        help="local Python files that register components of your own")
    parser.add_argument("--debug", action="store_true", help="one process, no process group")
    parser.add_argument("--init_method", help=argparse.SUPPRESS)
    arguments = parser.parse_args(flags)
    arguments.overrides = overrides
    return arguments


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Separate flags (with their values) from `key value` pairs."""
    flags, overrides = [], []
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            overrides += [word, *words[:1]]
            del words[:1]
            continue
        flags.append(word)
        if word in TAKES_VALUE:
            flags += words[:1]
            del words[:1]
        while word == "--imports" and words and words[0].endswith(".py"):
            flags.append(words.pop(0))
    return flags, overrides


def prepare(arguments: argparse.Namespace) -> Config | None:
    """The configuration to run; None when the command line asked for something to be printed, which is done.

    Raises:
        UserError: as `load_config`; or `--check` found that the wiring is not sound.
    """
    if arguments.list:
        imports = arguments.imports
        if arguments.cfg:
            imports = _load(arguments).imports
        load_components(imports)
        print(list_components())
        return None
    cfg = _load(arguments)
    if arguments.print_config:
        print(cfg.describe())
        return None
    if arguments.check:
        from tools.check import check  # imports torch
        print(check(cfg))
        return None
    return cfg


def _load(arguments: argparse.Namespace) -> Config:
    return load_config(arguments.cfg, arguments.overrides, arguments.debug, arguments.imports)


def run_task(cfg: Config) -> None:
    """Run the task of a configuration, on all GPUs of this machine where there are several."""
    from tools import runtime  # imports torch
    if runtime.launch_on_all_devices(cfg.debug, cfg.device):
        return
    load_components(cfg.imports)
    ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg).run()


def list_components() -> str:
    """Every registry with its names, aliases included, and the arguments that each takes."""
    lines = []
    for registry in REGISTRIES.values():
        lines.append(registry.name)
        for name in registry.names():
            lines.append(f"  {name}({', '.join(registry.parameters(name))})")
    return "\n".join(lines)


def run_main(main: Callable[[], None]) -> None:
    """Run an entry script's `main`: user errors end it with one line and exit code 2, Ctrl-C with 130."""
    terminal = logging.StreamHandler()
    terminal.onereel = True  # replaced when a run starts its own logging
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[terminal])
    try:
        main()
    except UserError as error:
        _exit(str(error))
    except OSError as error:
        if error.errno not in SETUP_ERRORS:
            raise
        _exit(f"{error.strerror}: '{error.filename}'" if error.filename else error.strerror)
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
