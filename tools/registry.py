"""Registries: a YAML section's `type` picks the component, its other keys are constructor arguments.

This module imports no component and no torch, so that `--help` answers at once; `load_components()` imports the
folders that register themselves.
"""
import copy
import importlib
import importlib.util
import inspect
import logging
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tools.defaults import ORIGIN as DEFAULTS
from tools.errors import UserError, nearest

log = logging.getLogger(__name__)

FOLDERS = (
    "annotators", "autoencoders", "datasets", "diffusions", "embedders", "engines", "models", "pretrains", "rewards",
    "visuals",
)


class Registry:
    """Named components of one kind.

    Args:
        name: what the registry holds, as messages call it (`MODEL`).
    """

    def __init__(self, name: str):
        self.name = name
        self._entries: dict[str, Callable] = {}
        self._ignored: dict[str, frozenset[str]] = {}
        self._noted: set[tuple[str, str]] = set()

    def register(self, name: str | None = None, *, aliases: Iterable[str] = (), ignored: Iterable[str] = ()):
        """Decorator that registers a class or function.

        Args:
            name: registered name; the object's own name when omitted.
            aliases: further names of the same component (the original's task names).
            ignored: keys that published YAML files carry and that never had an effect; accepted and noted once.

        Raises:
            ValueError: a name is already taken.
        """

        def add(component):
            for entry in (name or component.__name__, *aliases):
                if entry in self._entries:
                    raise ValueError(f"{self.name}: '{entry}' is registered twice")
                self._entries[entry] = component
                self._ignored[entry] = frozenset(ignored)
            return component

        return add

    def names(self) -> list[str]:
        """Registered names in alphabetical order."""
        return sorted(self._entries)

    def get(self, name: str):
        """The component called `name`; UserError with the nearest name when there is none."""
        if name not in self._entries:
            known = ", ".join(self.names()) or "none"
            raise UserError(f"{self.name}: no component '{name}'{nearest(name, self._entries)}; registered: {known}")
        return self._entries[name]

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Constructor parameters of a component by name, without `self` and without var-arguments."""
        return {key: p for key, p in _signature(self.get(name)).items()
                if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def arguments(self, section: dict, **given) -> dict:
        """Check a YAML section against the component's signature and return the keyword arguments.

        Args:
            section: the YAML section, with `type`. Where it knows the origins of its keys (`config.Section`), messages
                name the file, and defaults that the component does not take are left out.
            given: arguments that the engine supplies; they replace the section's.

        Raises:
            UserError: `type` missing or unknown, a key that the component does not take, a required one missing.
        """
        if not isinstance(section, dict):
            raise UserError(f"{self.name}: a component is a section with 'type' and its options, not {section!r}")
        if "type" not in section:
            raise UserError(f"{self.name}: section {sorted(section)} lacks 'type'; "
                            f"registered: {', '.join(self.names())}")
        name = section["type"]
        component = self.get(name)
        arguments = {k: copy.deepcopy(v) for k, v in section.items() if k != "type"} | given
        parameters = _signature(component)
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return arguments
        origins = getattr(section, "origins", {})
        # A default describes the default component, which need not be the one that was chosen.
        surplus = [k for k in arguments if k not in parameters and (k in given or origins.get(k) != DEFAULTS)]
        for key in surplus:
            if key not in self._ignored[name]:
                raise UserError(f"{_where(origins, key)}{self.name} {name}: unknown key '{key}'"
                                f"{nearest(key, parameters)}; it takes: {', '.join(parameters)}")
        self._note(name, surplus)
        missing = [k for k, p in parameters.items() if p.default is p.empty and k not in arguments
                   and p.kind is not p.VAR_POSITIONAL]
        if missing:
            raise UserError(f"{_where(origins, 'type')}{self.name} {name}: missing key '{missing[0]}' in its section")
        return {k: v for k, v in arguments.items() if k in parameters}

    def _note(self, name: str, keys: list[str]) -> None:
        """Say once that keys of a component are accepted and have no effect."""
        new = [key for key in keys if (name, key) not in self._noted]
        self._noted.update((name, key) for key in new)
        if new:
            log.info("%s %s: keys without effect (they had none in the original either): %s", self.name, name,
                     ", ".join(new))

    def build(self, section: dict, **given):
        """Construct the component that a YAML section describes.

        Errors raised inside the constructor keep their traceback; a note says which component was being built.
        """
        arguments = self.arguments(section, **given)
        try:
            return self.get(section["type"])(**arguments)
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"while building {self.name} {section['type']}")
            raise


def _where(origins: dict[str, str], key: str) -> str:
    return f"{origins[key]}: " if key in origins else ""


def _signature(component) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(component).parameters)


ENGINE = Registry("ENGINE")
MODEL = Registry("MODEL")
DATASETS = Registry("DATASETS")
EMBEDDER = Registry("EMBEDDER")
EMBEDMANAGER = Registry("EMBEDMANAGER")
AUTO_ENCODER = Registry("AUTO_ENCODER")
VISUAL = Registry("VISUAL")
DIFFUSION = Registry("DIFFUSION")
NOISE_INIT = Registry("NOISE_INIT")
PRETRAIN = Registry("PRETRAIN")
REWARD = Registry("REWARD")
ANNOTATOR = Registry("ANNOTATOR")

REGISTRIES = {r.name: r for r in (ENGINE, MODEL, DATASETS, EMBEDDER, EMBEDMANAGER, AUTO_ENCODER, VISUAL, DIFFUSION,
                                  NOISE_INIT, PRETRAIN, REWARD, ANNOTATOR)}


def load_components(imports: Iterable[str] = ()) -> None:
    """Import every component folder of this project, then the user's own files.

    Args:
        imports: paths of local Python files that register components of their own.

    Raises:
        UserError: a file of `imports` does not exist.
    """
    for folder in FOLDERS:
        package = importlib.import_module(f"tools.{folder}")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("__"):
                importlib.import_module(f"tools.{folder}.{module.name}")
    for file in imports:
        _import_file(file)


_imported: set[Path] = set()


def _import_file(file: str) -> None:
    path = Path(file).resolve()
    if not path.is_file():
        raise UserError(f"imports: no file '{file}'; give the path of a Python file")
    if path in _imported:
        return
    _imported.add(path)
    spec = importlib.util.spec_from_file_location(f"onereel_user_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
