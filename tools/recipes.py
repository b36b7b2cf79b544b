"""Several trainings and samplings in a row, by one command: what one stage writes, the next one reads.

    python -m tools.recipes configs/dreamvideo/recipe_dog2_carTurn.yaml
    python -m tools.recipes configs/tiny/dreamvideo_recipe.yaml --first motion num_steps 100

The YAML file has `stages`: name -> a section with `cfg`, the YAML file of a task, and keys that replace its own. Words
after the options are overrides for all stages, as for train_net.py. Every stage runs in a process of its own, so that
its memory is free afterwards; all configurations are checked before the first one starts.
"""
import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.config import is_training, load_config
from tools.errors import UserError, nearest
from tools.yaml_files import read_yaml, to_text

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Stage:
    """One task of a recipe: its name, its YAML file and the override words."""

    name: str
    cfg: str
    words: tuple[str, ...]

    def command(self) -> list[str]:
        """The command line that runs it."""
        cfg = load_config(self.cfg, self.words)
        script = "train_net.py" if is_training(cfg.TASK_TYPE) else "inference.py"
        return [sys.executable, str(ROOT / script), "--cfg", self.cfg, *self.words]


def read_recipe(path: str, words: Sequence[str] = ()) -> list[Stage]:
    """The stages of a recipe, in order.

    Args:
        path: the YAML file.
        words: overrides for all stages; they win over those of the stages' own sections.

    Raises:
        UserError: the file has no stages, or a stage no `cfg`.
    """
    content = read_yaml(path)
    sections = content.get("stages")
    if not isinstance(sections, dict) or not sections:
        raise UserError(f"{path}: a recipe has 'stages', name: {{cfg: YAML file}} for each task to run in this order")
    if surplus := sorted(set(content) - {"stages"}):
        raise UserError(f"{path}: unknown key '{surplus[0]}'; a recipe has 'stages' alone, and their keys stand there")
    stages = []
    for name, section in sections.items():
        if not isinstance(section, dict) or "cfg" not in section:
            raise UserError(f"{path}: stage '{name}' must be a section with cfg: YAML file, not {section!r}")
        own = [word for key, value in section.items() if key != "cfg" for word in (key, to_text(value))]
        stages.append(Stage(name, section["cfg"], (*own, *words)))
    return stages


def run_recipe(path: str, words: Sequence[str] = (), first: str | None = None,
               call: Callable[[list[str]], int] = subprocess.call) -> None:
    """Run the stages from `first` on (None: all of them).

    Args:
        call: runs a command line and returns its exit code.

    Raises:
        UserError: a configuration is not sound, which is found before anything runs; or a stage has failed.
    """
    stages = read_recipe(path, words)
    names = [stage.name for stage in stages]
    if first is not None and first not in names:
        raise UserError(f"{path}: no stage '{first}'{nearest(first, names)}; there are: {', '.join(names)}")
    chosen = stages[names.index(first) if first else 0:]
    commands = {stage.name: _command(path, stage) for stage in chosen}
    for number, (name, command) in enumerate(commands.items(), start=1):
        print(f"stage {number} of {len(commands)}: {name}", flush=True)
        code = call(command)
        if code:
            raise UserError(f"{path}: stage '{name}' ended with exit code {code}; when it is mended, go on with "
                            f"--first {name}")


def _command(path: str, stage: Stage) -> list[str]:
    try:
        return stage.command()
    except UserError as error:
        raise UserError(f"{path}: stage '{stage.name}': {error}") from error


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.recipes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="YAML file with stages")
    parser.add_argument("--first", metavar="STAGE", help="begin with this stage; those before it have been run")
    parser.add_argument("overrides", nargs="*", help="key value pairs for all stages")
    arguments = parser.parse_intermixed_args(argv)
    run_recipe(arguments.recipe, arguments.overrides, arguments.first)


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))
