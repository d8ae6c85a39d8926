"""What the ids of a token file look like: how many are used, how evenly, how often they repeat.

Exact for every vocabulary. Up to 2**20 ids a table of counts is kept; above that, sorted runs of (id, count)
that go to a temporary file when they grow, so memory stays bounded however long the video is.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

Array = np.ndarray[Any, Any]

DENSE_VOCABULARY = 2**20
RUN_LIMIT = 2**21
BUFFER_LIMIT = 2**18


class TokenStatistics:
    """Statistics over ids (t, h, w) or (t, h, w, K), pushed any number of latent frames at a time; -1 is no id.

    `vocabulary`: ids per codebook, one int for all or one for each. `digits`: levels of the digits of an id,
    fastest first, the same for all codebooks or one tuple for each; () if unknown.
    """

    def __init__(
        self,
        vocabulary: int | Sequence[int],
        digits: Sequence[int] | Sequence[Sequence[int]] = (),
        codebooks: int = 0,
    ) -> None:
        count = codebooks or (1 if isinstance(vocabulary, int) else len(vocabulary))
        sizes = [vocabulary] * count if isinstance(vocabulary, int) else [int(v) for v in vocabulary]
        self._levels = _levels_of(digits, count)
        self._histograms = [_DenseCounts(v) if v <= DENSE_VOCABULARY else _SparseCounts() for v in sizes]
        self._sizes = sizes
        self._last: Array | None = None
        self._repeats = 0
        self._repeatable = 0
        self._ids = 0

    def update(self, ids: Array) -> None:
        """Count ids (n, h, w) or (n, h, w, K); latent frames follow those pushed before."""
        if ids.shape[0] == 0:
            return
        self._count_repeats(ids)
        columns = ids.reshape(-1, len(self._histograms))
        for k, histogram in enumerate(self._histograms):
            column = columns[:, k]
            column = column[column >= 0] if ids.dtype.kind == "i" else column
            self._ids += column.size
            histogram.add(column)

    def end_clip(self) -> None:
        """What is pushed next is another video: its first latent frame repeats nothing."""
        self._last = None

    def merge(self, other: TokenStatistics) -> None:
        """Add what another of the same vocabularies has counted, of other videos."""
        assert self._sizes == other._sizes
        for mine, theirs in zip(self._histograms, other._histograms, strict=True):
            for values, counts in theirs.items():
                mine.add_counts(values, counts)
        self._ids += other._ids
        self._repeats += other._repeats
        self._repeatable += other._repeatable

    def packed(self) -> dict[str, Any]:
        """All that was counted, as numbers and arrays; `unpacked` is the way back."""
        books = []
        for histogram in self._histograms:
            pieces = list(histogram.items()) or [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
            books.append([np.concatenate([piece[i] for piece in pieces]) for i in (0, 1)])
        totals = [self._ids, self._repeats, self._repeatable]
        return {"vocabulary": self._sizes, "digits": [list(d) for d in self._levels], "totals": totals, "books": books}

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> TokenStatistics:
        """What `packed` gave, counted on from there."""
        statistics = cls(packed["vocabulary"], packed["digits"])
        for histogram, (values, counts) in zip(statistics._histograms, packed["books"], strict=True):
            histogram.add_counts(np.asarray(values), np.asarray(counts))
        statistics._ids, statistics._repeats, statistics._repeatable = packed["totals"]
        return statistics

    def result(self) -> dict[str, Any]:
        """The statistics so far.

        `ids` counted; `used` distinct ids and `usage` = used / vocabulary (0..1); `entropy` bits per id;
        `perplexity` = 2**entropy; `digit_entropy` bits of each digit (None if unknown); `repeats`: share of
        ids equal to the one a latent frame earlier at the same place (None with one latent frame). With K > 1
        codebooks used is the sum, usage, entropy and perplexity are means over those that have ids, digit_entropy is a
        list of lists.
        """
        books = [self._book(k) for k in range(len(self._histograms))]
        held = [book for book in books if book["ids"]] or books
        digits = [book["digit_entropy"] for book in books]
        return {
            "ids": self._ids,
            "used": sum(book["used"] for book in books),
            "usage": _mean([book["usage"] for book in held]),
            "entropy": _mean([book["entropy"] for book in held]),
            "perplexity": _mean([2.0 ** book["entropy"] for book in held]),
            "digit_entropy": digits[0] if len(digits) == 1 else (digits if digits[0] is not None else None),
            "repeats": self._repeats / self._repeatable if self._repeatable else None,
        }

    def _count_repeats(self, ids: Array) -> None:
        if self._last is not None:
            self._compare(ids[:1], self._last[None])
        self._compare(ids[1:], ids[:-1])
        self._last = ids[-1].copy()

    def _compare(self, ids: Array, before: Array) -> None:
        """Count which of `ids` equal those at the same place `before`."""
        equal, both = ids == before, ids.size
        if ids.dtype.kind == "i":
            held = (ids >= 0) & (before >= 0)
            equal, both = equal & held, int(np.count_nonzero(held))
        self._repeats += int(np.count_nonzero(equal))
        self._repeatable += both

    def _book(self, k: int) -> dict[str, Any]:
        """Statistics of codebook k, in one pass over its (ids, counts)."""
        total = used = 0
        weighted = 0.0  # sum of c log2 c
        levels = self._levels[k]
        tables = [np.zeros(level, np.int64) for level in levels]
        for values, counts in self._histograms[k].items():
            total += int(counts.sum())
            used += len(counts)
            weighted += float(np.sum(counts * np.log2(counts)))
            _add_digits(tables, values, counts)
        return {
            "ids": total,
            "used": used,
            "usage": used / self._sizes[k],
            "entropy": max(0.0, math.log2(total) - weighted / total) if total else 0.0,
            "digit_entropy": [_entropy(table) for table in tables] if levels else None,
        }


class _DenseCounts:
    """One count for every id of a small vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        self._counts = np.zeros(vocabulary, np.int64)
        self._buffer: list[Array] = []
        self._buffered = 0

    def add(self, ids: Array) -> None:
        self._buffer.append(ids.astype(np.int64))
        self._buffered += len(ids)
        if self._buffered >= BUFFER_LIMIT:
            self._flush()

    def add_counts(self, values: Array, counts: Array) -> None:
        self._counts[values.astype(np.int64)] += counts.astype(np.int64)

    def items(self) -> Iterator[tuple[Array, Array]]:
        self._flush()
        values = np.flatnonzero(self._counts)
        if len(values):
            yield values, self._counts[values]

    def _flush(self) -> None:
        if self._buffer:
            self._counts += np.bincount(np.concatenate(self._buffer), minlength=len(self._counts))
            self._buffer, self._buffered = [], 0


class _SparseCounts:
    """Counts of the ids that occur: sorted runs in memory, the large ones in a temporary file."""

    def __init__(self) -> None:
        self._buffer: list[Array] = []
        self._buffered = 0
        self._run = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
        self._spilled: list[tuple[int, int]] = []
        self._file: BinaryIO | None = None

    def add(self, ids: Array) -> None:
        self._buffer.append(ids.astype(np.uint64))
        self._buffered += len(ids)
        if self._buffered >= BUFFER_LIMIT:
            self._flush()
            if len(self._run[0]) >= RUN_LIMIT:
                self._spill()

    def add_counts(self, values: Array, counts: Array) -> None:
        self._run = _merge([self._run, (values.astype(np.uint64), counts.astype(np.int64))])
        if len(self._run[0]) >= RUN_LIMIT:
            self._spill()

    def items(self) -> Iterator[tuple[Array, Array]]:
        """(ids, counts) in rising order of ids, in pieces."""
        self._flush()
        if not self._spilled:
            if len(self._run[0]):
                yield self._run
            return
        self._spill()
        yield from self._merge_spilled()

    def _flush(self) -> None:
        if self._buffer:
            fresh = np.unique(np.concatenate(self._buffer), return_counts=True)
            self._run = _merge([self._run, (fresh[0], fresh[1].astype(np.int64))])
            self._buffer, self._buffered = [], 0

    def _spill(self) -> None:
        values, counts = self._run
        if not len(values):
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="vidtok-statistics-")  # noqa: SIM115 closed with self
            weakref.finalize(self, self._file.close)
        self._spilled.append((self._file.seek(0, 2), len(values)))
        self._file.write(values.tobytes())
        self._file.write(counts.tobytes())
        self._run = (values[:0], counts[:0])

    def _read(self, run: int, first: int, end: int) -> tuple[Array, Array]:
        """Entries [first, end) of a spilled run."""
        assert self._file is not None
        offset, length = self._spilled[run]
        end = min(end, length)
        parts = []
        for base, dtype in ((offset, np.uint64), (offset + 8 * length, np.int64)):
            self._file.seek(base + 8 * first)
            parts.append(np.frombuffer(self._file.read(8 * (end - first)), dtype))
        return parts[0], parts[1]

    def _merge_spilled(self) -> Iterator[tuple[Array, Array]]:
        """Merge all runs, a block of each in memory; ids up to the smallest block end are complete."""
        block = max(1024, RUN_LIMIT // len(self._spilled))
        places = [0] * len(self._spilled)
        while True:
            heads = {
                run: self._read(run, places[run], places[run] + block)
                for run, (_, length) in enumerate(self._spilled)
                if places[run] < length
            }
            if not heads:
                return
            bound = min(values[-1] for values, _ in heads.values())
            pieces = []
            for run, (values, counts) in heads.items():
                cut = int(np.searchsorted(values, bound, side="right"))
                places[run] += cut
                pieces.append((values[:cut], counts[:cut]))
            yield _merge(pieces)


def _merge(runs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """One sorted run of (distinct ids, counts) out of several."""
    values = np.concatenate([run[0] for run in runs])
    counts = np.concatenate([run[1] for run in runs])
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    if not len(values):
        return values, counts
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.add.reduceat(counts, starts)


def _add_digits(tables: list[Array], values: Array, counts: Array) -> None:
    """Add the digits of ids that occur `counts` times to a table of counts for each digit."""
    rest = values.astype(np.uint64)
    for table in tables:
        level = np.uint64(len(table))
        rest, digit = np.divmod(rest, level)
        np.add.at(table, digit.astype(np.int64), counts)


def _entropy(counts: Array) -> float:
    """Entropy in bits of a table of counts."""
    seen = counts[counts > 0].astype(np.float64)
    total = float(seen.sum())
    return max(0.0, math.log2(total) - float(np.sum(seen * np.log2(seen))) / total) if total else 0.0


def _levels_of(digits: Sequence[int] | Sequence[Sequence[int]], codebooks: int) -> list[tuple[int, ...]]:
    """Digit levels of every codebook; one flat list counts for all."""
    flat = [d for d in digits if isinstance(d, int)]
    nested = [tuple(int(x) for x in d) for d in digits if not isinstance(d, int)]
    if nested:
        return nested
    return [tuple(flat)] * codebooks


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
