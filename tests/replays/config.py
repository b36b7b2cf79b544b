"""Merging of YAML files: topic vgen-engine, kind `config`.

What the files mean is compared to the letter. Overrides are ours by design: typed, dotted everywhere, refused when the
key does not exist. They are compared by value, wherever the original put them.
"""
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.cli import parse
from tools.config import local_path, merge_defaults, read_files, read_second_file
from tools.defaults import KEYS
from tools.errors import UserError
from tools.layers import Layer
from tools.overrides import apply_override, parse_overrides
from tools.yaml_files import parse_word

REFUSED = {"raises": "AssertionError"}


def replay_config(case: dict, expected: dict, path: Path) -> Iterator[tuple]:
    """One resolved dictionary per entry: a command line in a folder with the case's files."""
    entries = {entry["name"]: entry for entry in case["entries"]}
    wanted = {name: json.loads(expected[name].tobytes()) for name in entries}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, text in case["files"].items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text, encoding="utf-8")
        results = {name: resolve(entry, wanted[name]) for name, entry in entries.items()}
    for name, (out, reading) in results.items():
        yield name, by_value(out), by_value(reading)


def resolve(entry: dict, wanted: dict) -> tuple[dict, dict]:
    """What we make of an entry, and the original's result with its overrides where ours puts them."""
    arguments = parse(entry["argv"], "")
    try:
        pairs = parse_overrides(arguments.overrides)
        layer = _read(arguments.cfg, entry)
    except UserError:
        return REFUSED, wanted
    wanted = Layer(wanted)
    for pair in pairs:
        try:
            apply_override(layer, pair)
        except UserError:
            if wanted.values == REFUSED:
                return REFUSED, wanted.values
            del wanted.values[pair.name]  # the original makes a new key of any word
            continue
        wanted.values.pop(pair.name, None)
        wanted.set(pair.path, pair.word, "")
    given = {"cfg_file": local_path(arguments.cfg), "debug": arguments.debug, "opts": arguments.overrides,
             "init_method": arguments.init_method or KEYS["init_method"].default}
    return layer.values | given, wanted.values


def _read(cfg_file: str, entry: dict) -> Layer:
    files = read_files(local_path(cfg_file))
    if "entrance_defaults" not in entry:
        return files
    second = read_second_file(files.values.get(entry["single"])) if "single" in entry else None
    return merge_defaults(files, entry["entrance_defaults"], second)


def by_value(tree: Any) -> Any:
    """The tree with every text that reads as a number replaced by that number."""
    if isinstance(tree, dict):
        return {key: value if key == "opts" else by_value(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [by_value(value) for value in tree]
    value = parse_word(tree) if isinstance(tree, str) else tree
    return value if isinstance(value, (int, float)) else tree


HANDLERS = {("vgen-engine", "config"): replay_config}
