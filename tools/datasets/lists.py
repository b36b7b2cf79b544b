"""List files: UTF-8, one item per line; lines that start with '#' and blank lines hold none.

Training and image-to-video lists have `path|||caption`, text-to-video lists `caption` or `caption|seed`.
"""
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from tools.errors import UserError

SEPARATOR = "|||"
NAME_BYTES = 150  # of a caption in a file name; file systems allow 255 bytes for the whole name


@dataclass(frozen=True)
class Item:
    """One line of a list.

    Attributes:
        line: its number in the file, from 1 (comments and blank lines count too).
        caption: without surrounding blanks; may be empty.
        path: as written in the list, or None in a list of captions.
        seed: of this line alone, or None.
        negative: negative prompt of this item alone, or None.
    """

    line: int
    caption: str
    path: str | None = None
    seed: int | None = None
    negative: str | None = None


def read_pairs(file, seeds: bool = True) -> list[Item]:
    """Items of a `path|||caption` list.

    Args:
        file: the list.
        seeds: read `|` and digits at the end of a caption as the seed of that line; False leaves captions alone.

    Raises:
        UserError: the file is missing, not UTF-8 or has no item; a line has not exactly one separator or no path.
    """
    return [_pair(file, line, text, seeds) for line, text in _lines(file, "path|||caption")]


def read_prompts(file) -> list[Item]:
    """Items of a list of `caption` or `caption|seed` lines.

    Raises:
        UserError: the file is missing, not UTF-8 or has no item; a line holds `|||`, or anything but a whole number
            after its last `|`.
    """
    return [_prompt(file, line, text) for line, text in _lines(file, "caption")]


def read_prompts_or_pairs(file) -> list[Item]:
    """Items of a list of captions, or of `path|||caption` lines, whichever the first line is.

    Raises:
        UserError: as `read_prompts` and `read_pairs`.
    """
    (_, first), *_ = _lines(file, "caption or path|||caption")
    return read_pairs(file) if SEPARATOR in first else read_prompts(file)


def read_fields(file, form: str) -> list[list[str]]:
    """Fields of each line of a list with other columns; any of them may be empty.

    Args:
        file: the list.
        form: what a line holds, `path|||folder|||prompt`; every line has as many fields.

    Raises:
        UserError: the file is missing, not UTF-8 or has no item; a line has another number of fields.
    """
    rows = [(line, [field.strip() for field in text.split(SEPARATOR)]) for line, text in _lines(file, form)]
    for line, fields in rows:
        if len(fields) != form.count(SEPARATOR) + 1:
            raise UserError(f"list file '{file}', line {line}: expected {form}, found "
                            f"'{_short(SEPARATOR.join(fields))}'")
    return [fields for _, fields in rows]


def read_keyed_captions(file) -> list[Item]:
    """Items of `path|||caption` or `path|||caption|||frames` lines, one for each file name (InstructVideo's lists).

    Where a name comes twice, its first place and its last caption count. Items are numbered in the order they are in.

    Raises:
        UserError: the file is missing, not UTF-8 or has no item; a line has another number of fields, or no path.
    """
    captions: dict[str, str] = {}
    for line, text in _lines(file, "path|||caption|||frames"):
        path, *rest = (field.strip() for field in text.split(SEPARATOR))
        if not path or len(rest) not in (1, 2):
            raise UserError(f"list file '{file}', line {line}: expected path|||caption|||frames, found "
                            f"'{_short(text)}'")
        captions[Path(path).name] = rest[0]
    return [Item(number, caption, name) for number, (name, caption) in enumerate(captions.items(), start=1)]


def read_captions(file) -> list[str]:
    """Captions of a list in any of the forms above."""
    fields = [text.split(SEPARATOR) for _, text in _lines(file, "caption")]
    return [_split_seed(parts[1] if len(parts) > 1 else parts[0])[0] for parts in fields]


def clean_name(caption: str, keep: str = "") -> str:
    """Caption as part of a file name: only word characters, blanks turned into `_`; long ones end in a hash.

    Args:
        caption: any text.
        keep: further characters to leave in (`*` for subject placeholders).
    """
    return within_name(re.sub(r"\s", "_", re.sub(rf"[^\w\s{re.escape(keep)}]", "", caption)), caption)


def within_name(name: str, caption: str) -> str:
    """`name`, or its start and a hash of the caption where it is too long for a part of a file name."""
    if len(name.encode()) <= NAME_BYTES:
        return name
    suffix = "_" + hashlib.sha256(caption.encode()).hexdigest()[:8]
    return name.encode()[:NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def _lines(file, form: str) -> list[tuple[int, str]]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no list file '{file}'; give a text file with one {form} per line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"list file '{file}' is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    numbered = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    items = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not items:
        raise UserError(f"list file '{file}' is empty (comments aside); give one {form} per line")
    return items


def _pair(file, line: int, text: str, seeds: bool) -> Item:
    fields = text.split(SEPARATOR)
    if len(fields) != 2 or not fields[0].strip():
        raise UserError(f"list file '{file}', line {line}: expected path|||caption, found '{_short(text)}'")
    caption, seed = _split_seed(fields[1]) if seeds else (fields[1].strip(), None)
    return Item(line, caption, path=fields[0].strip(), seed=seed)


def _prompt(file, line: int, text: str) -> Item:
    if SEPARATOR in text:
        raise UserError(f"list file '{file}', line {line}: expected a caption alone (with |seed if you like), found "
                        f"'{_short(text)}'; lists with {SEPARATOR} are for tasks that start from a file")
    caption, seed = _split_seed(text)
    if seed is None and "|" in text:
        raise UserError(f"list file '{file}', line {line}: expected a whole number as seed after '|', found "
                        f"'{_short(text)}'")
    return Item(line, caption, seed=seed)


def _split_seed(text: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.*)\|\s*(\d+)\s*", text)
    return (match[1].strip(), int(match[2])) if match else (text.strip(), None)


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "..."
