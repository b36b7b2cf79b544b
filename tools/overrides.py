"""Overrides of the command line: `key value` and dotted `section.key value`, typed and checked against what exists."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.defaults import KEYS
from tools.errors import UserError, nearest
from tools.kinds import convert, is_text
from tools.layers import Layer
from tools.registry import REGISTRIES, load_components
from tools.yaml_files import parse_word

ORIGIN = "command line"


@dataclass(frozen=True)
class Override:
    """One `key value` pair: the dotted key's parts and the word as typed."""

    path: tuple[str, ...]
    word: str

    @property
    def name(self) -> str:
        """The key as the user typed it."""
        return ".".join(self.path)


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Pairs of `key value` words.

    Raises:
        UserError: the last key has no value, or a key has an empty part.
    """
    if len(words) % 2:
        raise UserError(f"override '{words[-1]}' has no value; overrides are pairs: key value [key value ...]")
    overrides = [Override(tuple(key.split(".")), word) for key, word in zip(words[::2], words[1::2])]
    for override in overrides:
        if not all(override.path):
            raise UserError(f"'{override.name}' is no key; overrides are pairs: key value, or section.key value")
    return overrides


def apply_override(layer: Layer, override: Override) -> None:
    """Set one value; a mapping replaces a section's keys one by one, as a YAML file does.

    Raises:
        UserError: the key does not exist, or the value has another type.
    """
    if len(override.path) == 1:
        _set_key(layer, override)
    else:
        _set_inside(layer, override)


def _set_key(layer: Layer, override: Override) -> None:
    name = override.name
    if name in KEYS:
        value = _typed(name, override.word)
    elif name in layer.values:
        value = _like(layer.values[name], override)
    else:
        raise UserError(f"{ORIGIN}: unknown key '{name}'{nearest(name, KEYS)}; tools/defaults.py lists all keys")
    if isinstance(value, dict) and isinstance(layer.values.get(name), dict):
        for key, inner in value.items():
            layer.set((name, key), inner, ORIGIN)
    else:
        layer.set((name,), value, ORIGIN)


def _typed(name: str, word: str) -> Any:
    value = parse_word(word)
    if is_text(KEYS[name].kind) and not isinstance(value, str) and (value is not None or not word.strip()):
        value = word
    elif isinstance(value, str) and not word.lstrip().startswith(("'", '"')):
        value = word  # YAML would cut a text at ' #'
    try:
        return convert(value, KEYS[name])
    except ValueError as error:
        raise UserError(f"{ORIGIN}: '{name}' {error}") from None


def _set_inside(layer: Layer, override: Override) -> None:
    path = override.path
    for depth in range(1, len(path)):
        known = _section(layer, path[:depth - 1])
        if path[depth - 1] not in known:
            _refuse(override, depth, known)
    parent = _section(layer, path[:-1])
    if path[-1] in parent:
        layer.set(path, _like(parent[path[-1]], override), ORIGIN)
        return
    _check_parameter(layer, override, parent)
    layer.set(path, parse_word(override.word), ORIGIN)


def _section(layer: Layer, path: tuple[str, ...]) -> dict:
    section = layer.get(path)
    if not isinstance(section, dict):
        raise UserError(f"{ORIGIN}: '{'.'.join(path)}' is {section!r}, not a section with keys of its own")
    return section


def _refuse(override: Override, depth: int, known: Iterable[str]) -> None:
    key = ".".join(override.path[:depth])
    raise UserError(f"{ORIGIN}: unknown key '{key}'{nearest(override.path[depth - 1], known)}; "
                    f"known here: {', '.join(map(str, known))}")


def _check_parameter(layer: Layer, override: Override, section: dict) -> None:
    """A key that the section does not hold yet must be an argument of the section's component, or a top-level key
    where the section is made of those."""
    key = KEYS.get(override.path[0])
    if key is not None and key.holds_keys and len(override.path) == 3 and override.path[2] in KEYS:
        return
    if len(override.path) > 2 or key is None or key.registry is None:
        _refuse(override, len(override.path), section)
    load_components(layer.values.get("imports") or ())
    arguments = REGISTRIES[key.registry].parameters(section.get("type"))
    if override.path[1] not in arguments:
        _refuse(override, 2, arguments)


def _like(old: Any, override: Override) -> Any:
    """The word as YAML, if it has the old value's type; numbers may change between whole and broken, null is free."""
    value = parse_word(override.word)
    if isinstance(old, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = override.word
    if old is None or value is None or _family(old) is _family(value):
        return value
    raise UserError(f"{ORIGIN}: '{override.name}' is {old!r} in the files; {value!r} has another type")


def _family(value: Any) -> type:
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, (int, float)) else list if isinstance(value, tuple) else type(value)
