"""Files written under a hidden name beside their target and renamed when whole.

A killed run leaves at most `.NAME.tmp-PID-xxxx`; the next run for that target removes those of processes
that are gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from vidtok.errors import OutputError, OutputExistsError
from vidtok.video.demux import reason


def refuse_existing(path: Path, force: bool) -> None:
    """OutputExistsError if the target is there and may not be replaced."""
    if path.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: it is a folder")
    if path.exists() and not force:
        raise OutputExistsError(f"{str(path)!r} exists; --force overwrites it")


def temporary(path: Path) -> Path:
    """A fresh hidden name beside `path`; sweeps those that dead processes left."""
    sweep(path)
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def sweep(path: Path) -> None:
    """Removes `.NAME.tmp-PID-xxxx` of processes that are gone."""
    pattern = re.compile(re.escape(f".{path.name}.tmp-") + r"(\d+)-[0-9a-f]+")
    try:
        entries = list(os.scandir(path.parent))
    except OSError:
        return
    for entry in entries:
        found = pattern.fullmatch(entry.name)
        if found and not _alive(int(found[1])):
            remove(Path(entry.path))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def remove(path: Path) -> None:
    """Deletes a temporary file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class BesideFile:
    """A binary file under a temporary name; `commit` puts it in place, `discard` leaves no trace."""

    def __init__(self, path: Path, force: bool) -> None:
        refuse_existing(path, force)
        self.path, self._force = path, force
        self._temporary = temporary(path)
        try:
            self.file: BinaryIO = open(self._temporary, "x+b")  # noqa: SIM115, closed by commit or discard
        except OSError as error:
            raise cannot_write(path, error) from error

    def commit(self) -> None:
        """Flushes to the disk and renames."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            refuse_existing(self.path, self._force)
            os.replace(self._temporary, self.path)
        except OSError as error:
            self.discard()
            if isinstance(error, OutputError):
                raise
            raise cannot_write(self.path, error) from error

    def discard(self) -> None:
        """Closes and deletes."""
        with contextlib.suppress(OSError):  # a full disk fails again on the flush of what is thrown away
            self.file.close()
        remove(self._temporary)


def cannot_write(path: Path, error: Any) -> OutputError:
    """The one line for a foreign error while writing `path`."""
    return OutputError(f"cannot write {str(path)!r}: {reason(error)}")
