"""The audio stream on its way in (kept aside until the last chunk is written) and out (as a file)."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

PIECE_BYTES = 1 << 16
IN_MEMORY_BYTES = 8 << 20


class AudioSpool:
    """Audio waiting for the end: so that its place never depends on how the video was read."""

    def __init__(self, folder: Path | None) -> None:
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, dir=str(folder) if folder else None)  # noqa: SIM115
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Keep another piece."""
        self.file.write(data)
        self.bytes += len(data)

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces of 64 KiB."""
        self.file.seek(0)
        while piece := self.file.read(PIECE_BYTES):
            yield piece

    def close(self) -> None:
        """Forget it."""
        self.file.close()


class AudioFile(io.RawIOBase):
    """Pieces of audio as a file that can be read, not sought."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill as much of `buffer` as one piece can."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
