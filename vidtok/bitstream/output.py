"""OutputFile: a file that appears under its name only when it is whole.

Bytes go to `.NAME.tmp-PID-xxxx` beside the target, which is renamed at `commit` and removed at
`discard`. Temporary files of killed runs are removed when the same name is next written.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path
from types import TracebackType

from vidtok.errors import OutputError, OutputExistsError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

LONGEST_NAME = 200  # bytes of NAME kept in a temporary name, so that 255 are never exceeded


class OutputFile:
    """A binary file for `path`. Devices and pipes are written in place, links are followed."""

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        self.path = Path(path)
        self.force = force
        self.target = Path(os.path.realpath(self.path))
        self.temporary: Path | None = None
        try:
            self._open()
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _open(self) -> None:
        try:
            mode = os.stat(self.target).st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(f"cannot write {self.path}: it is a folder")
        if mode is not None and not stat.S_ISREG(mode):
            self.file = open(self.target, "wb")  # noqa: SIM115
            return
        if mode is not None and not self.force:
            raise OutputExistsError(f"{self.path} exists already; --force overwrites it")
        remove_stale(self.target)
        self.temporary = temporary_path(self.target)
        descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self.file = open(descriptor, "wb")  # noqa: SIM115
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`; OutputError if the disk is full or gone."""
        try:
            return self.file.write(data)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def flush(self) -> None:
        """Hand everything to the system."""
        try:
            self.file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def commit(self) -> None:
        """Make the file appear: flushed to disk, then renamed."""
        try:
            self.file.flush()
            if self.temporary is None:
                self.file.close()
                return
            os.fsync(self.file.fileno())
            if not self.force and self.target.exists():
                raise OutputExistsError(f"{self.path} appeared meanwhile; --force overwrites it")
            os.replace(self.temporary, self.target)
            self.file.close()
        except OSError as error:
            self.discard()
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.temporary = None

    def discard(self) -> None:
        """Leave nothing behind. May be called at any time, more than once."""
        temporary, self.temporary = self.temporary, None
        with contextlib.suppress(OSError):
            self.file.close()
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:LONGEST_NAME])


def temporary_path(target: Path) -> Path:
    """A fresh name beside `target`: `.NAME.tmp-PID-xxxx`."""
    return target.with_name(f".{_short(target.name)}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def remove_stale(target: Path) -> None:
    """Remove temporary files that runs now dead have left for `target`."""
    pattern = re.compile(re.escape(f".{_short(target.name)}.tmp-") + r"([0-9]+)-[0-9a-f]+")
    try:
        names = [entry.name for entry in os.scandir(target.parent)]
    except OSError:
        return
    for name in names:
        match = pattern.fullmatch(name)
        if match and not _alive(int(match[1])):
            path = target.with_name(name)
            with contextlib.suppress(OSError):
                if not path.is_symlink() and path.is_file() and not _locked(path):
                    path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _locked(path: Path) -> bool:
    """Whether a process (of another container, say) still holds the file."""
    if fcntl is None:
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
