"""What a TokenReader hands out: chunks and where they stand, ids as an array that is read when sliced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from vidtok.bitstream.reader import TokenReader


class ChunkInfo(NamedTuple):
    """Where a chunk stands in the video and in the file. `bytes` is 0 where it has been lost."""

    number: int
    segment: int
    first_latent: int
    latents: int
    first_frame: int
    frames: int
    offset: int
    bytes: int


class Chunk(NamedTuple):
    """A chunk that was read: ids (n, h, w[, K]) and its frames' timestamps; None with a `problem`."""

    info: ChunkInfo
    ids: np.ndarray | None
    pts: Sequence[int] | None
    problem: str | None = None


class ChunkList(Sequence[ChunkInfo]):
    """The chunks of a reader, made when asked for."""

    def __init__(self, reader: TokenReader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader.index)

    def __getitem__(self, which: Any) -> Any:
        numbers = range(len(self))[which]
        if isinstance(numbers, range):
            return [self._reader.chunk_info(number) for number in numbers]
        return self._reader.chunk_info(numbers)


class IdsView:
    """The ids of a file as an array that is read when sliced: view[a:b], view[i], view[a:b, y, x].

    Where segments hold fewer stages than the header says (`header.varying`), ids of the others are -1.
    """

    def __init__(self, reader: TokenReader) -> None:
        self._reader = reader

    @property
    def shape(self) -> tuple[int, ...]:
        """(t, h, w) or (t, h, w, K)."""
        return self._reader.header.grid_shape(self._reader.latents)

    @property
    def ndim(self) -> int:
        """3 or 4."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest of uint16, 32 and 64 that holds the vocabulary; of int16, 32 and 64 where ids may be -1."""
        import numpy as np

        return np.dtype(self._reader.header.id_type)

    def __len__(self) -> int:
        return self._reader.latents

    def __getitem__(self, key: Any) -> Any:
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if first is Ellipsis or key == ():
            return self._reader.read_latents(0, len(self))[key]
        if not isinstance(first, slice):
            number = range(len(self))[first]
            return self._reader.read_latents(number, number + 1)[(0, *rest)]
        wanted = range(len(self))[first]
        if not wanted:
            return self._reader.read_latents(0, 0)[(slice(None), *rest)]
        low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1
        part = self._reader.read_latents(low, high)
        return part[(slice(None) if wanted.step == 1 else [i - low for i in wanted], *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        import numpy as np

        data = self[:]
        return np.asarray(data, dtype)
