"""Reading YAML: the safe loader with YAML 1.2's numbers, so that `1e-5` is a number everywhere."""
import re
from pathlib import Path
from typing import Any

import yaml

from tools.errors import UserError


class Loader(yaml.SafeLoader):
    """SafeLoader whose floats need no dot and no sign in the exponent (YAML 1.1 reads `1e-5` as a text)."""


_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(r"""^(?:
    [-+]?\d[\d_]*\.?\d*[eE][-+]?\d+
  | [-+]?\.\d+(?:[eE][-+]?\d+)?
  | [-+]?\d[\d_]*\.\d*
  | [-+]?\.(?:inf|Inf|INF)
  | \.(?:nan|NaN|NAN)
)$""", re.VERBOSE)

Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _FLOAT_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the texts which the loader above would read as numbers."""


Dumper.yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def read_yaml(path: str) -> dict:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        UserError: the file is missing, is no YAML or is no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"no YAML file '{path}'; paths are relative to the working directory") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a YAML file (not UTF-8 text)") from None
    try:
        values = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_position(error)}: not valid YAML: {_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'key: value' lines, not {type(values).__name__}")
    return values


def parse_word(word: str) -> Any:
    """The value of one command-line word, read as YAML; a word that is no YAML is a text."""
    try:
        return yaml.load(word, Loader=Loader)
    except yaml.YAMLError:
        return word


def to_text(value: Any) -> str:
    """A value on one line, such that the loader above reads the same value back."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True,
                     sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]
