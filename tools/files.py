"""Files are written whole or not at all."""
import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.errors import UserError


@contextlib.contextmanager
def replacing(path) -> Iterator[Path]:
    """Temporary path in the folder of `path` that takes its place when the block ends without an error.

    The folder is made where it is missing. After an error nothing is left behind and an older file stays as it was.

    Raises:
        UserError: no space on the device (or the quota is used up).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.", suffix=".part")
        temporary = Path(name)
        os.close(handle)
        yield temporary
        _settle(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if not _disk_full(error):
            raise
        raise UserError(f"no space left on the disk while writing '{path}'; free some and run again") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "No space left" in str(error)  # torch's zip writer reports a failed write without an errno


def _settle(path: Path) -> None:
    """Flush to the disk, so that the rename never precedes the data; with the mode that open() would have given."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with path.open("rb") as file:
        os.fsync(file.fileno())
