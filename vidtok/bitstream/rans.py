"""Interleaved rANS: symbols to 16-bit words and back, many at a time, with frequencies that add up to 65536.

Asymmetric numeral systems (Duda 2009, arXiv 0902.0271; 2013, arXiv 1311.2540) keep a number, the state, that grows by
a symbol's information when the symbol is put in. Here a state is 2^16 to 2^32 - 1; before it would grow beyond, its low
16 bits leave as a word. L states, the lanes, take turns, so that numpy works on L symbols at once:

    symbols of a batch    0 1 2 ... L-1 | L ... 2L-1 | ... the last step may be shorter
    lane                  0 1 2 ... L-1 | 0 ...  L-1 |

The decoder starts from the lanes' states and takes words as they come, in each step those of the lower lanes first; so
the encoder goes through all steps backwards. It starts with 2^16 in every lane, and there the decoder has to end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidtok.errors import FormatError

Numbers = npt.NDArray[np.int64]

BITS = 16
TOTAL = 1 << BITS  # what frequencies add up to
LOWEST = 1 << 16  # state
MAX_LOG_LANES = 8


class Encoder:
    """Takes batches of symbols in the decoder's order; `finish` makes bytes of them."""

    def __init__(self) -> None:
        self._batches: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]] = []  # each symbol's share and start

    def code(self, ends: Numbers, symbols: Numbers) -> Numbers:
        """A batch of n symbols; `ends` (levels + 1, n): where each level's share of 0 .. 65536 starts, and the end."""
        places = np.arange(len(symbols))
        low = ends[symbols, places]
        self._batches.append(((ends[symbols + 1, places] - low).astype(np.int32), low.astype(np.int32)))
        return symbols

    def information(self) -> int:
        """Bits of all symbols, or a little more: logarithms are taken as straight between powers of two.

        Sums of such numbers are exact, so no machine finds another.
        """
        total = 0.0
        for share, _ in self._batches:
            mantissa, exponent = np.frexp(share.astype(np.float64))
            total += float((BITS + 2 - exponent - 2 * mantissa).sum())
        return int(total)

    def finish(self, log_lanes: int) -> bytes:
        """Bytes: log_lanes, 2^log_lanes states of four bytes, words of two."""
        lanes = 1 << log_lanes
        states = np.full(lanes, LOWEST, np.int64)
        words: list[Numbers] = []
        for share, low in reversed(self._batches):
            for start in range((len(share) - 1) // lanes * lanes, -1, -lanes):
                f, c = share[start : start + lanes].astype(np.int64), low[start : start + lanes]
                x = states[: len(f)]
                full = x >= f << 16
                if full.any():
                    words.append(x[full] & 0xFFFF)
                    x = np.where(full, x >> 16, x)
                whole, rest = np.divmod(x, f)
                states[: len(f)] = (whole << 16) + rest + c
        words.reverse()
        body = np.concatenate(words) if words else np.zeros(0, np.int64)
        return bytes([log_lanes]) + states.astype("<u4").tobytes() + body.astype("<u2").tobytes()


class Decoder:
    """Gives batches of symbols back. FormatError where bytes are missing, or were never written by `Encoder`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.lanes = 1 << min(data[0], MAX_LOG_LANES) if len(data) else 1
        head = 1 + 4 * self.lanes
        if len(data) < head or data[0] > MAX_LOG_LANES:
            raise FormatError(f"{len(data)} bytes are no stream of coded ids: its start is broken")
        self._states = np.frombuffer(data, "<u4", self.lanes, 1).astype(np.int64)
        if int(self._states.min()) < LOWEST:
            raise FormatError(f"a stream of coded ids starts in state {int(self._states.min())}, below {LOWEST}")
        body = data[head:]
        self._words = np.frombuffer(body, "<u2", len(body) // 2).astype(np.int64)
        self._odd = bytes(body[len(body) // 2 * 2 :])
        self._place = 0

    def code(self, ends: Numbers, symbols: Numbers | None = None) -> Numbers:
        """The symbols of the next batch, as many as `ends` has columns."""
        levels, count = ends.shape[0] - 1, ends.shape[1]
        bases = np.arange(count) << BITS
        starts = np.empty(count * levels + 1, np.int64)  # of all cells' levels, one cell after the other
        starts[-1] = count << BITS
        np.add(ends[:-1].T, bases[:, None], out=starts[:-1].reshape(count, levels))
        found = np.empty(count, np.int64)
        for first in range(0, count, self.lanes):
            base = bases[first : first + self.lanes]
            x = self._states[: len(base)]
            slot = (x & 0xFFFF) + base
            after = starts.searchsorted(slot, "right")  # one is at most `slot`: that of a share of the right cell
            low = starts.take(after - 1)
            x = (starts.take(after) - low) * (x >> 16) + (slot - low)
            small = (x < LOWEST).nonzero()[0]
            if small.size:
                words = self._words[self._place : self._place + small.size]
                if len(words) < small.size:
                    raise FormatError("a stream of coded ids ends too early")
                x[small] = x[small] << 16 | words
                self._place += small.size
            self._states[: len(base)] = x
            found[first : first + self.lanes] = after
        found -= np.arange(1, count * levels + 1, levels)
        return found

    def finish(self) -> None:
        """Raise unless the stream ends here, but for zeros."""
        if (self._states != LOWEST).any() or self._words[self._place :].any() or self._odd.strip(b"\0"):
            raise FormatError("a stream of coded ids does not end where it should")
