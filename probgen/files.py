"""Writing files so that nobody ever sees half of one."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from probgen.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: the old file, or the whole new one, never less.

    Raises UserError when the place cannot be written (read-only, full, no such directory); `path` is then as
    it was and nothing is left beside it.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def current_umask() -> int:
    """The process's umask (which can only be read by setting it)."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def make_directory(path: Path) -> None:
    """Create a directory and its parents. Raises UserError when that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the directory {path}: {error.strerror or error}") from error


def remove_temporaries(directory: Path, names: Sequence[str]) -> None:
    """Delete what a killed process left half-written by `write_atomic` of files of those names."""
    for name in names:
        for path in directory.glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)
