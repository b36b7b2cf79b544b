"""Nested dictionaries that remember where each value came from, and the two ways in which they are merged."""
import copy
from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]


class Layer:
    """A nested dictionary with the origin of each leaf.

    Args:
        values: the dictionary; it is copied.
        origin: where all of it came from, as messages call it (a file name).

    Attributes:
        values: plain nested dictionary.
        origins: leaf path -> origin. A leaf is anything but a non-empty dictionary.
    """

    def __init__(self, values: dict | None = None, origin: str = ""):
        self.values: dict = {}
        self.origins: dict[Path, str] = {}
        for key, value in (values or {}).items():
            self.set((key,), value, origin)

    def get(self, path: Path) -> Any:
        """The value at a path; KeyError when there is none."""
        value = self.values
        for part in path:
            if not isinstance(value, dict):
                raise KeyError(part)
            value = value[part]
        return value

    def set(self, path: Path, value: Any, origin: str) -> None:
        """Put a copy of `value` at `path`, whose parents exist."""
        self._put(path, value, dict.fromkeys(_leaves(value, path), origin))

    def take(self, other: "Layer", path: Path) -> None:
        """Put what `other` has at `path` there, with its origins."""
        self._put(path, other.get(path), {leaf: o for leaf, o in other.origins.items() if leaf[:len(path)] == path})

    def origin(self, path: Path) -> str:
        """Where the value at `path` came from; several origins are listed in order of appearance."""
        return " + ".join(dict.fromkeys(o for leaf, o in self.origins.items() if leaf[:len(path)] == path))

    def _put(self, path: Path, value: Any, origins: dict[Path, str]) -> None:
        self.get(path[:-1])[path[-1]] = copy.deepcopy(value)
        for leaf in [leaf for leaf in self.origins
                     if leaf[:len(path)] == path or path[:len(leaf)] == leaf]:
            del self.origins[leaf]
        self.origins.update(origins)


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path


def merge_deep(target: Layer, source: Layer, path: Path = ()) -> None:
    """Merge `source` over `target` as included files are merged.

    Dictionaries merge recursively, anything else replaces. A key that contains `BASE` and is new in the target is
    dropped, so that the include keys never reach the result.
    """
    for key, value in source.get(path).items():
        here = (*path, key)
        known = target.get(path)
        if key in known and isinstance(value, dict) and isinstance(known[key], dict):
            merge_deep(target, source, here)
        elif key in known or "BASE" not in str(key):
            target.take(source, here)


def merge_sections(target: Layer, source: Layer) -> None:
    """Merge `source` over `target` as tasks merge defaults, second file and YAML: one level deep.

    A section's keys replace those of the target's section one by one, dictionaries inside them whole.
    """
    for key, value in source.values.items():
        if isinstance(value, dict) and isinstance(target.values.get(key), dict):
            for inner in value:
                target.take(source, (key, inner))
        else:
            target.take(source, (key,))
