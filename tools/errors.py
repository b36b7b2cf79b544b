"""The one exception for mistakes that a user can mend."""
import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a single line that names the file, key or prompt and says what to do.

    Entry scripts print it and exit with code 2; nothing has been written by then.
    """


class BadItem(UserError):
    """What is wrong with one item of a list; it is reported and left out, the rest of the list goes on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the most similar of `known`, or an empty string."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
