"""Ids of a stage through a learned prior: a network knows what is likely, an entropy coder spends the bits.

    byte 0    0: packed ids follow, as in raw mode;  1, 2: LZMA2, as in lzma mode;  4: a stream of rans.py

The smallest is kept, so this is never larger than lzma mode. A chunk starts with nothing remembered; a stage uses what
the one below knows of the same latent frame. docs/coding.md has all that a reader in another language needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from vidtok.bitstream import adaptive, free, lz
from vidtok.bitstream.bits import Ids
from vidtok.bitstream.lattice import ORDER
from vidtok.bitstream.network import Bytes, Network, Numbers
from vidtok.bitstream.rans import MAX_LOG_LANES, Decoder, Encoder
from vidtok.errors import FormatError

LEARNED = 4
FREE_IDS, IDS_PER_BYTE = 1 << 14, 256  # form 4 holds at most so many ids, so that few bytes never mean much work
LANE_BITS = 1 << 12  # bits that justify a lane

Symbols = npt.NDArray[np.integer]
Coder = Callable[[Numbers, Numbers], Numbers]


class Course:
    """The stages of a chunk, one after the other: what is remembered of the last one.

    At most one stage's memory of the chunk is held, t * h * w * (state + embedding) bytes; none of its only stage.
    """

    def __init__(self, network: Network, first: int, stages: int | None = None) -> None:
        self.network = network
        self.first = first  # number of the chunk's first latent frame in its segment
        self.stages = 0  # gone through
        self._last = (stages or network.config.stages) - 1  # that will come
        self._below: Iterator[Bytes] = iter(())  # what is remembered of the stage before, after each latent frame

    def run(self, symbols: Symbols, code: Coder) -> None:
        """Go through a stage: `code(ends, symbols)` gets shares and symbols of n cells, and returns the symbols.

        `symbols` (t, h, w, n) become what it returns, and free ones above the first stage those in the middle.
        """
        net, stage = self.network, self.stages
        tied = net.tied
        if stage:
            symbols[..., tied:] = net.config.middle
        t, h, w, _ = symbols.shape
        memory, before = [], net.blank(h, w)
        keep = stage < self._last
        for now in range(t):
            around = np.zeros((h + 3, w + 3, net.config.embedding), np.float32)  # a border, and one for odd sides
            below = next(self._below) if stage else None
            known = net.known(before, below, stage, self.first + now, now == 0)
            if net.config.free and not stage:
                own = symbols[now, ..., tied:]
                free.tell(net, known, symbols[now - 1, ..., tied:] if now else None, own, code)
                net.add_free("free_known", own, known)
            for number, (y, x) in enumerate(ORDER):
                cells = symbols[now, y::2, x::2]
                if not cells.size:
                    continue
                flat = cells.reshape(-1, len(net.levels)).astype(np.int64)
                told = net.cells(known, around, number)
                for k, levels in enumerate(net.levels[:tied]):
                    if levels > 1:
                        flat[:, k] = code(told.shares(k), flat[:, k])
                    told.tell(k, flat[:, k])
                cells[:] = flat.reshape(cells.shape)
                around[y + 1 : h + 1 : 2, x + 1 : w + 1 : 2] = net.embed(cells, stage)
            if keep or now + 1 < t:
                before = net.remember(before, around[1 : h + 1, 1 : w + 1], stage)
            if keep:
                memory.append(before)
        self._below, self.stages = _drain(memory), stage + 1

    def codes(self, symbols: Symbols) -> bool:
        """Whether symbols (t, h, w, n) can be those of the next stage, see `free.fit`."""
        return free.fit(symbols, self.network.config, self.stages)

    def skip(self, ids: Ids) -> None:
        """Go through a stage whose ids (t, h, w) are known another way: no work, unless the next one wants to know."""
        self._below, self.stages = self._remembered(ids, self.stages), self.stages + 1

    def _remembered(self, ids: Ids, stage: int) -> Iterator[Bytes]:
        net, before = self.network, self.network.blank(*ids.shape[1:])
        for now in ids:
            before = net.remember(before, net.embed(adaptive.to_symbols(now, net.parts, np.uint8), stage), stage)
            yield before


def _drain(memory: list[Bytes]) -> Iterator[Bytes]:
    """What was remembered, one by one; each is gone when it is given away."""
    memory.reverse()
    while memory:
        yield memory.pop()


def squeeze(part: Ids, course: Course) -> bytes:
    """Ids (t, h, w) of the next stage of a chunk to the smallest of the forms."""
    config, symbols = course.network.config, adaptive.to_symbols(part, course.network.parts, np.uint8)
    if not course.codes(symbols):
        course.skip(part)
        return lz.squeeze(part, config.vocabulary)
    encoder = Encoder()
    with ThreadPoolExecutor(1) as beside:
        other = beside.submit(lz.squeeze, part, config.vocabulary)
        course.run(symbols, encoder.code)
        payload = bytes([LEARNED]) + encoder.finish(log_lanes(encoder.information(), part.shape))
    payload += bytes(max(0, -(-(part.size - FREE_IDS) // IDS_PER_BYTE) - len(payload) + 1))
    return min(other.result(), payload, key=len)


def log_lanes(bits: int, shape: Sequence[int]) -> int:
    """Logarithm of the lanes: many are fast, but each takes some three bytes."""
    cells = shape[1] * shape[2]
    lanes = min(max(bits // LANE_BITS, cells // 128, 1), max(cells // 16, 1), 1 << MAX_LOG_LANES)
    return lanes.bit_length() - 1


def expand(payload: bytes | memoryview, shape: tuple[int, int, int], dtype: str, course: Course) -> Ids:
    """The inverse: ids (t, h, w). FormatError if the payload is not that of so many ids."""
    network = course.network
    if not len(payload) or payload[0] != LEARNED:
        ids = lz.expand(payload, shape, network.config.vocabulary, dtype)
        if ids.size and int(ids.max()) >= network.config.vocabulary:
            raise FormatError(f"id {int(ids.max())} is outside a vocabulary of {network.config.vocabulary}")
        course.skip(ids)
        return ids
    count = shape[0] * shape[1] * shape[2]
    if count > FREE_IDS + IDS_PER_BYTE * (len(payload) - 1):
        raise FormatError(f"{len(payload)} bytes are too few for {count} ids")
    decoder = Decoder(payload[1:])
    symbols = np.zeros((*shape, len(network.levels)), np.uint8)
    course.run(symbols, decoder.code)
    decoder.finish()
    return adaptive.to_ids(symbols, network.parts, dtype)
