"""Files of a dataset that could not be read: each reported once, all counted."""
import logging

import torch

from tools.errors import UserError

REPORTS = 100  # files named in the log; further ones are only counted


class Failures:
    """Which of a dataset's files are unreadable, as far as is known.

    Args:
        files: how many there are; they are known by number.
        log: of the dataset.
    """

    def __init__(self, files: int, log: logging.Logger):
        # In shared memory: worker processes see each other's failures, and so does the main process.
        self._failed = torch.zeros(files, dtype=torch.bool).share_memory_()
        self._log = log

    def __contains__(self, number: int) -> bool:
        return bool(self._failed[number])

    def numbers(self) -> list[int]:
        """Numbers of the unreadable files."""
        return self._failed.nonzero().flatten().tolist()

    def report(self, number: int, error: UserError) -> None:
        """Remember a file and say why it is left out."""
        if number in self:
            return
        self._failed[number] = True
        count = int(self._failed.sum())
        if count <= REPORTS:
            self._log.warning("skipped: %s (%d of %d files unreadable so far)", error, count, len(self._failed))
        if count == REPORTS:
            self._log.warning("further unreadable files are counted, not named")
