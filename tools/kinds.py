"""Checks a YAML value against a type written as a Python annotation, and says in words what was expected."""
import types
from typing import Any, Literal, Union, get_args, get_origin

from tools.defaults import Key

WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "a section",
         type(None): "null"}
PLURALS = {int: "integers", float: "numbers", str: "texts"}


def convert(value: Any, key: Key) -> Any:
    """The value in the key's type: whole floats become integers where integers are asked for, mapping keys texts.

    Raises:
        ValueError: another type, or outside the key's bounds; the message says what was expected.
    """
    try:
        converted = _convert(value, key.kind)
        _check_bounds(converted, key)
    except ValueError:
        raise ValueError(f"must be {describe(key)}, not {value!r}") from None
    return converted


def describe(key: Key) -> str:
    """What a key expects, in words: `a list of 2 integers of at least 8`."""
    text = _describe(key.kind)
    if key.length is not None:
        text = text.replace("a list of ", f"a list of {key.length} ")
    return text if key.minimum is None else f"{text} of at least {key.minimum:g}"


def is_text(kind: Any) -> bool:
    """Whether values of this type are texts, taken from the command line as they are."""
    return kind is str or (get_origin(kind) in (Union, types.UnionType) and set(get_args(kind)) == {str, type(None)})


def _convert(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments)
    if origin is Literal:
        return _accept(value, value in arguments and not isinstance(value, bool))
    if origin is list:
        _accept(value, isinstance(value, (list, tuple)))
        return [_convert(element, arguments[0]) for element in value]
    if origin is dict:
        _accept(value, isinstance(value, dict))
        return {str(name): _convert(element, arguments[1]) for name, element in value.items()}
    if kind is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(_accept(value, whole and not isinstance(value, bool)))
    if kind is float:
        return _accept(value, isinstance(value, (int, float)) and not isinstance(value, bool))
    if kind is Any:
        return value
    return _accept(value, isinstance(value, kind))


def _convert_union(value: Any, kinds: tuple) -> Any:
    for kind in kinds:
        try:
            return _convert(value, kind)
        except ValueError:
            continue
    raise ValueError(value)


def _accept(value: Any, good: bool) -> Any:
    if not good:
        raise ValueError(value)
    return value


def _check_bounds(value: Any, key: Key) -> None:
    if key.length is not None and isinstance(value, list):
        _accept(value, len(value) == key.length)
    if key.minimum is not None and value is not None:
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for number in numbers:
            _accept(number, number >= key.minimum)


def _describe(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is list:
        return f"a list of {PLURALS.get(arguments[0], 'lists of texts')}"
    if origin is dict:
        return f"a section of {PLURALS.get(arguments[1], 'values')}"
    return WORDS.get(kind, "any value")
