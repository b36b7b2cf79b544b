"""JSON-lines files of any length: records are found by their place in the file, not kept in memory."""
import array
import json
import logging
from collections.abc import Callable
from pathlib import Path

from tools.errors import UserError

log = logging.getLogger(__name__)

REPORTS = 20  # broken lines named in the log; further ones are only counted


class JsonLines:
    """Records of a file with one JSON object per line.

    Lines that are no JSON object or lack a field are named in the log, counted and left out; so are, without a word,
    those that `keep` refuses.

    Args:
        file: the file, UTF-8.
        fields: what every record must have.
        keep: says of a record whether it is wanted.

    Attributes:
        broken: how many lines were left out because they are broken.

    Raises:
        UserError: the file is missing, or holds no record.
    """

    def __init__(self, file, fields: tuple[str, ...], keep: Callable[[dict], bool] | None = None):
        self.file, self.fields = Path(file), fields
        self.broken = 0
        self._places = array.array("q", self._scan(keep))
        if self.broken:
            log.warning("'%s': %d broken lines skipped, %d records", file, self.broken, len(self))
        if not len(self):
            raise UserError(f"'{file}' holds no record with {', '.join(fields)}; give one JSON object per line")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> dict:
        with self.file.open("rb") as lines:
            lines.seek(self._places[number])
            return json.loads(lines.readline())

    def _scan(self, keep):
        """Places of the good lines, in bytes."""
        try:
            with self.file.open("rb") as lines:
                place = 0
                for number, line in enumerate(lines, start=1):
                    record = self._record(number, line)
                    if record is not None and (keep is None or keep(record)):
                        yield place
                    place += len(line)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise UserError(f"no annotation file '{self.file}'; give a file with one JSON object per line") from error

    def _record(self, number: int, line: bytes) -> dict | None:
        """The record of a line; None for a blank or a broken one."""
        if not line.strip():
            return None
        try:
            record = json.loads(line)
            problem = self._problem(record)
        except ValueError as error:
            problem = f"not JSON ({error})"
        if not problem:
            return record
        self.broken += 1
        if self.broken <= REPORTS:
            log.warning("'%s', line %d skipped: %s", self.file, number, problem)
        return None

    def _problem(self, record) -> str:
        if not isinstance(record, dict):
            return "not a JSON object"
        missing = [field for field in self.fields if field not in record]
        return f"no '{missing[0]}' in it" if missing else ""
