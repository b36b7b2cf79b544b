"""YAML files, second file, defaults and overrides into one `Config`, with the origin of every value.

The rules for files are VGen's: `configs/base.yaml`, then the file of `--cfg` with its `_BASE` includes (merged deep);
a task merges that over the defaults of `tools/defaults.py` (one level deep), sampling tasks with the file named by
`vldm_cfg` in between. Overrides of the command line come last and win over everything.
"""
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.defaults import COMMAND_LINE, KEYS, default_values
from tools.defaults import ORIGIN as DEFAULT_ORIGIN
from tools.errors import UserError, nearest
from tools.kinds import convert
from tools.layers import Layer, merge_deep, merge_sections
from tools.overrides import ORIGIN, apply_override, parse_overrides
from tools.yaml_files import parse_word, read_yaml, to_text

log = logging.getLogger(__name__)

BASE_FILE = "configs/base.yaml"
INCLUDES = ("_BASE_RUN", "_BASE_MODEL")
SECOND_FILES = ("vldm_cfg", "subject_cfg", "motion_cfg")  # keys of sampling tasks that name further files
# What the names of tasks that train begin with; InstructVideo's has another name in the original.
TRAINING_TASKS = ("train", "t2v_instructvideo")


class MissingKey(UserError, AttributeError):
    """A key that the task needs and nothing sets (an AttributeError, so that `getattr` with a default works)."""


class Section(dict):
    """The section of one component.

    Attributes:
        origins: key -> where its value came from, so that a registry can name the file of a wrong key and leave out
            defaults, which describe the default component, that the chosen one does not take.
    """

    def __init__(self, values: dict, origins: dict[str, str]):
        super().__init__(values)
        self.origins = origins


class Config(dict):
    """The resolved configuration: a dictionary whose keys are attributes as well.

    Attributes:
        provenance: dotted leaf key (`UNet.dim`) -> where its value came from.
    """

    def __init__(self, values: dict | None = None, provenance: dict[str, str] | None = None):
        super().__init__(values or {})
        object.__setattr__(self, "provenance", dict(provenance or {}))

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        if key in KEYS:
            raise MissingKey(f"{self.get('cfg_file', 'the configuration')}: key '{key}' is missing ({KEYS[key].help})")
        raise AttributeError(key)

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def plain(self) -> dict:
        """A copy made of plain dictionaries and lists, for JSON and checkpoints."""
        return {key: copy.deepcopy(dict(value) if isinstance(value, Section) else value) for key, value in self.items()}

    def describe(self) -> str:
        """The configuration as YAML, each value followed by its origin; loading it gives the same values."""
        return "\n".join(self._lines((), dict(self)))

    def _lines(self, path: tuple, values: dict) -> Iterator[str]:
        for key, value in values.items():
            here = (*path, key)
            start = f"{'  ' * len(path)}{to_text(key)}:"
            if isinstance(value, dict) and value:
                yield start
                yield from self._lines(here, value)
            else:
                yield f"{start} {to_text(value)}  # {self.provenance.get('.'.join(map(str, here)), '')}".rstrip(" #")


def load_config(cfg_file: str | None, overrides: Sequence[str] = (), debug: bool = False,
                imports: Sequence[str] = ()) -> Config:
    """Resolve a YAML file, what it refers to and the overrides.

    Args:
        cfg_file: path of the YAML file, relative to the working directory.
        overrides: words of the command line, `key value` pairs, keys dotted or not.
        debug: value of the key `debug`.
        imports: Python files to import besides those that the YAML names.

    Raises:
        UserError: a file is missing or no YAML, includes go in a circle, a key is unknown, a value has a wrong type.
    """
    if not cfg_file:
        raise UserError("no configuration; give one with --cfg, e.g. --cfg configs/quickstart.yaml")
    cfg_file = local_path(cfg_file)
    pairs = parse_overrides(overrides)
    files = read_files(cfg_file)
    task = {key: files.values.get(key) for key in ("TASK_TYPE", *SECOND_FILES)}
    task |= {pair.name: parse_word(pair.word) for pair in pairs if pair.name in task}
    training = is_training(task["TASK_TYPE"])
    seconds = [] if training else [read_second_file(task["vldm_cfg"]), *read_customisations(task, files)]
    layer = merge_defaults(files, default_values(), *seconds)
    for pair in pairs:
        apply_override(layer, pair)
    _check_keys(layer)
    _check_resolution(layer)
    _add_command_line(layer, cfg_file, overrides, debug, imports)
    _note_unused(layer)
    return Config(_in_table_order(_with_sections(layer)),
                  {".".join(map(str, leaf)): origin for leaf, origin in layer.origins.items()})


def is_training(task: Any) -> bool:
    """Whether a task trains, by its name; such tasks never read a second file."""
    return isinstance(task, str) and task.startswith(TRAINING_TASKS)


def local_path(cfg_file: str) -> str:
    """The path of `--cfg`, which may begin with the working directory's own name (`OneReel/configs/x.yaml`)."""
    first, _, rest = cfg_file.partition("/")
    return f"./{rest}" if rest and first == Path.cwd().name and not os.path.exists(cfg_file) else cfg_file


def read_files(cfg_file: str) -> Layer:
    """The file of `--cfg` with its includes, merged over `configs/base.yaml` of the working directory (if present)."""
    layer = Layer(read_yaml(BASE_FILE), BASE_FILE) if os.path.exists(BASE_FILE) else Layer()
    merge_deep(layer, _read_with_includes(cfg_file, cfg_file, ()))
    return layer


def read_second_file(path: str | None) -> Layer | None:
    """The file named by `vldm_cfg`; None when none is named or, with a warning, when it does not exist."""
    if not path:
        return None
    if not os.path.exists(path):
        log.warning("vldm_cfg: no file '%s'; going on without it", path)
        return None
    return _read_with_includes(path, path, ())


def read_customisations(task: dict, files: Layer) -> Iterator[Layer]:
    """DreamVideo's training files, of the subject and of the motion, with what the original notes of each.

    Args:
        task: `subject_cfg` and `motion_cfg`; either may be None.
        files: the sampling run's own.

    Raises:
        UserError: a file does not exist.
    """
    log_dir = files.values.get("log_dir", KEYS["log_dir"].default)
    for whose in ("subject", "motion"):
        path = task[f"{whose}_cfg"]
        if not path:
            continue
        if not os.path.exists(path):
            raise UserError(f"{whose}_cfg names '{path}', which does not exist; name the YAML file of the training run")
        layer = _read_with_includes(path, path, ())
        log_dir = layer.values.get("log_dir", log_dir)
        layer.set((f"{whose}_log_dir",), log_dir, path)
        if whose == "subject":
            layer.set(("use_textInversion",), True, path)
        yield layer


def merge_defaults(files: Layer, defaults: dict, *seconds: Layer | None) -> Layer:
    """What a task makes of its files: defaults, then the files, or defaults, files, second files and files again."""
    layer = Layer(defaults, DEFAULT_ORIGIN)
    merge_sections(layer, files)
    for second in seconds:
        if second is not None:
            merge_sections(layer, second)
    merge_sections(layer, files)
    return layer


def _read_with_includes(path: str, cfg_file: str, parents: tuple[str, ...]) -> Layer:
    here = os.path.realpath(path)
    if here in map(os.path.realpath, parents):
        raise UserError(f"circular _BASE: {' -> '.join((*parents, path))}")
    layer = Layer(read_yaml(path), path)
    keys = ["_BASE"] if "_BASE" in layer.values else [key for key in INCLUDES if key in layer.values]
    includes = [(key, _include_path(layer.values[key], key, path, cfg_file)) for key in keys]
    for key, include in includes:
        if not os.path.exists(include):
            raise UserError(f"{path}: {key} names '{include}', which does not exist")
        base = _read_with_includes(include, cfg_file, (*parents, path))
        merge_deep(base, layer)
        layer = base
    return layer


def _include_path(value: Any, key: str, path: str, cfg_file: str) -> str:
    """Where an include key points, by the original's three rules.

    `../x`: up from the including file's folder, one level per `..`; `./x`: beside the file of --cfg; else relative to
    the working directory.
    """
    if not isinstance(value, str) or len(value) < 2:
        raise UserError(f"{path}: {key} must be the path of a YAML file, not {value!r}")
    if value[1] == ".":
        levels = value.count("..")
        folders = path.replace(os.sep, "/").split("/")[:-1 - levels]
        return "/".join(folders + value.split("/")[levels:])
    folder = os.path.dirname(cfg_file)
    return value.replace("./", f"{folder}/" if folder else "")


def _check_keys(layer: Layer) -> None:
    for name, value in list(layer.values.items()):
        origin = layer.origin((name,)).removeprefix(f"{DEFAULT_ORIGIN} + ")
        if name not in KEYS:
            raise UserError(f"{origin}: unknown key '{name}'{nearest(name, KEYS)}; tools/defaults.py lists all keys")
        if origin == DEFAULT_ORIGIN or (KEYS[name].unused and value is None):
            continue
        try:
            converted = convert(value, KEYS[name])
        except ValueError as error:
            raise UserError(f"{origin}: '{name}' {error}") from None
        if KEYS[name].registry and value is not None and "type" not in value:
            raise UserError(f"{origin}: section '{name}' lacks 'type', the name of a {KEYS[name].registry} component")
        if converted != value or type(converted) is not type(value):
            layer.set((name,), converted, origin)


def _check_resolution(layer: Layer) -> None:
    """Refuse a size that has no whole number of latents, before anything is loaded."""
    size, scale = layer.values["resolution"], layer.values["scale"]
    nearest_good = [max(scale, round(side / scale) * scale) for side in size]
    if size != nearest_good:
        raise UserError(f"{layer.origin(('resolution',))}: resolution {size} is not a multiple of {scale} both ways; "
                        f"the nearest good size is {nearest_good}")


def _add_command_line(layer: Layer, cfg_file: str, overrides: Sequence[str], debug: bool,
                      imports: Sequence[str]) -> None:
    layer.set(("cfg_file",), cfg_file, ORIGIN)
    layer.set(("opts",), list(overrides), ORIGIN)
    if debug:
        layer.set(("debug",), True, ORIGIN)
    if imports:
        layer.set(("imports",), [*layer.values["imports"], *imports], ORIGIN)


def _note_unused(layer: Layer) -> None:
    given = [name for name, key in KEYS.items() if key.unused and name in layer.values
             and layer.origin((name,)) not in (DEFAULT_ORIGIN, BASE_FILE)]
    if given:
        log.info("keys without effect (they had none in VGen either): %s", ", ".join(given))


def _with_sections(layer: Layer) -> dict:
    return {name: Section(value, {key: layer.origin((name, key)) for key in value})
            if KEYS[name].registry and value is not None else value for name, value in layer.values.items()}


def _in_table_order(values: dict) -> dict:
    ordered = [name for name in KEYS if name in values and name not in COMMAND_LINE]
    return {name: values[name] for name in (*ordered, *COMMAND_LINE)}

