"""The network of a learned prior: from ids that are known to frequencies of those that come, in integers.

    ids of t-1, and what is remembered --+                      +-- ids of t that are known around the cell
    ids of t in the stage below, too ----+--> known --> (+) <---+
                                                         |
                                            features --> mix --> for each symbol: hidden --> frequencies
                                                                   ^
                                             symbols before it ----+  the first one chooses the weights

The cells of a latent frame are told in four passes, over the four sub-lattices of its 2 x 2 blocks, each given those
before (M2T, Mentzer et al. 2023, arXiv 2304.07313, shows that a fixed schedule of few passes does well):

    0 2 0 2
    3 1 3 1
    0 2 0 2

Free symbols, those at the end of an id that have nothing to do with its first one, are told before all others (`free`).

Every number is an integer: weights of 8 bits, values 0 to 127. They are held in float32, where products and sums are
exact in any order as long as sums stay below 2^24, which `Network` checks for each output; so matrix products may run
on any BLAS with any number of threads. Who multiplies otherwise is found out when a network is loaded.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidtok.bitstream.adaptive import Part, parts
from vidtok.bitstream.header import MAX_DIGITS
from vidtok.bitstream.lattice import NEAR, ORDER, SOURCES
from vidtok.bitstream.rans import TOTAL
from vidtok.errors import ConfigError, ModelError

Values = npt.NDArray[np.float32]  # whole numbers
Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

MAX = 127  # of values and weights
SHIFT = 7  # sums become values by dividing by 2^SHIFT, rounded down
EXACT = 1 << 24  # whole numbers below are exact in float32
TILE = 1024  # cells whose surroundings are gathered at once
MAX_LEVELS = 256  # of a symbol
MAX_WEIGHTS = 1 << 26  # 256 MiB of float32


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What a prior is for, and its sizes."""

    digits: tuple[int, ...]  # levels of an id's digits, fastest first
    stages: int = 1  # at most, of an id
    free: int = 0  # digits at the end that have nothing to do with the first; above the first stage in the middle
    block: int = 1  # cells a side of the blocks in which free digits are the same, from (0, 0) on
    joint: int = 32  # digits are taken together, one after the other, as long as they have so many levels at most
    period: int = 32  # latent frames of a segment that are told apart, again and again
    embedding: int = 48  # values that stand for an id
    state: int = 64  # values that are remembered
    features: int = 128
    hidden: int = 48  # values of each symbol, before its frequencies

    def __post_init__(self) -> None:
        limits = {"stages": 64, "block": 16, "joint": MAX_LEVELS, "period": 4096}
        limits |= dict.fromkeys(("embedding", "state", "features", "hidden"), 1024)
        for name, limit in limits.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} is 1 to {limit}, got {getattr(self, name)}")
        if not 1 <= len(self.digits) <= MAX_DIGITS:
            raise ConfigError(f"a prior is for ids of 1 to {MAX_DIGITS} digits, got {len(self.digits)}")
        if min(self.digits) < 1 or max(self.digits) > MAX_LEVELS:
            raise ConfigError(f"a prior is for ids with digits of 1 to {MAX_LEVELS} levels, got {list(self.digits)}")
        if not 0 <= self.free < len(self.digits):
            raise ConfigError(f"of {len(self.digits)} digits 0 to {len(self.digits) - 1} can be free, got {self.free}")
        if self.vocabulary > 1 << 62:
            raise ConfigError(f"a prior is for vocabularies of 2^62 at most, got {self.vocabulary}")
        weights = sum(math.prod(shape) for _, shape in self.shapes().values())
        if weights > MAX_WEIGHTS:
            raise ConfigError(f"a prior has {MAX_WEIGHTS} weights at most; these sizes make {weights}")

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return math.prod(self.digits)

    @property
    def levels(self) -> tuple[int, ...]:
        """Of the symbols: digits, taken together where they are small; free ones by themselves."""
        found: list[int] = []
        tied = len(self.digits) - self.free
        for digit in self.digits[:tied]:
            if found and found[-1] * digit <= self.joint:
                found[-1] *= digit
            else:
                found.append(digit)
        return (*found, *self.digits[tied:])

    @property
    def tied(self) -> int:
        """How many symbols are not free."""
        return len(self.levels) - self.free

    @property
    def middle(self) -> tuple[int, ...]:
        """What free symbols are in stages above the first."""
        return tuple(levels // 2 for levels in self.levels[self.tied :])

    @property
    def parts(self) -> list[Part]:
        """Where the symbols are in an id."""
        return parts(self.vocabulary, self.levels)

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows each symbol has in tables: one for each level, and together with each level of the first.

        Free ones have tables of their own.
        """
        first, *others = self.levels[: self.tied]
        return (first, *(first * n for n in others))

    def shapes(self) -> dict[str, tuple[type[np.signedinteger], tuple[int, ...]]]:
        """Type and shape of each tensor."""
        levels, rows = sum(self.levels), sum(self.rows)
        both, wide = self.state + self.embedding, (self.tied - 1) * self.hidden
        found: dict[str, tuple[type[np.signedinteger], tuple[int, ...]]] = {
            "embed": (np.int16, (rows, self.embedding)),
            "remember": (np.int8, (9 * both, self.state)),
            "remember_stage": (np.int16, (self.stages, self.state)),
            "known": (np.int8, (9 * both, self.features)),
            "below": (np.int8, (9 * both, self.features)),
            "known_stage": (np.int16, (self.stages, self.features)),
            "known_pass": (np.int16, (4, self.features)),
            "known_phase": (np.int16, (self.period, self.features)),
            "known_first": (np.int16, (1, self.features)),
            "near": (np.int8, (sum(map(len, NEAR)) * self.embedding, self.features)),
            "mix": (np.int8, (self.features, self.features)),
            "mix_bias": (np.int16, (self.features,)),
            "first": (np.int8, (self.features, self.hidden)),
            "first_bias": (np.int16, (self.hidden,)),
            "others": (np.int8, (self.levels[0] * self.features, wide)),
            "before": (np.int16, (rows, wide)),
            "tell": (np.int8, (levels, self.hidden)),
            "tell_bias": (np.int16, (levels,)),
        }
        return found | self._free_shapes() if self.free else found

    def _free_shapes(self) -> dict[str, tuple[type[np.signedinteger], tuple[int, ...]]]:
        rows, wide = sum(self.levels[self.tied :]), self.free * self.hidden
        gates = self.free * sum(SOURCES) * 2
        return {
            "free_embed": (np.int16, (rows, self.embedding)),
            "free_known": (np.int16, (rows, self.features)),
            "free_pass": (np.int16, (1, self.features)),
            "free": (np.int8, (self.features, wide)),
            "free_bias": (np.int16, (wide,)),
            "free_before": (np.int16, (rows, wide)),
            "copy": (np.int8, (gates, self.hidden)),
            "copy_bias": (np.int16, (gates,)),
        }


def exponentials() -> tuple[int, ...]:
    """65536 * exp(-i / 16) for i = 0 ... 255, rounded; no entry is near where rounding could differ."""
    return tuple(round(65536 * float(np.exp(-i / 16))) for i in range(256))


def shares(logits: Values) -> Numbers:
    """Logits (levels, n) in 1/16 nat -> where each level's share of 65536 starts, and the end, (levels + 1, n).

    With e = exponential of a logit minus the largest, a share is 1 + floor(e * (65536 - levels) / sum of e); what is
    left of 65536 goes to the first of the largest. Quotients are exact: below 2^17, with divisors below 2^25, a float64
    never rounds one up to a whole number.
    """
    levels, count = logits.shape
    behind = (logits.max(0) - logits).astype(np.intp)
    weights = _EXPONENTIALS.take(behind, mode="clip")
    share = (weights * (TOTAL - levels) / weights.sum(0)).astype(np.int64)  # rounds down what is not negative
    share += 1
    share[behind.argmin(0), np.arange(count)] += TOTAL - share.sum(0)
    ends = np.zeros((levels + 1, count), np.int64)
    np.cumsum(share, 0, out=ends[1:])
    return ends


_EXPONENTIALS = np.array(exponentials(), np.float64)


def squash(sums: Values) -> Values:
    """Sums to values: divided by 2^SHIFT, rounded down, held within 0 to 127; in place."""
    sums *= 2.0**-SHIFT
    np.floor(sums, out=sums)
    return clip(sums)


def clip(sums: Values) -> Values:
    """Sums held within 0 to 127; in place."""
    np.maximum(sums, 0, out=sums)
    return np.minimum(sums, MAX, out=sums)


class Network:
    """Tensors of a prior, ready to multiply. ModelError where they do not fit the config or could be inexact."""

    def __init__(self, config: PriorConfig, tensors: Mapping[str, npt.NDArray[np.signedinteger]]) -> None:
        self.config, self.tensors = config, dict(tensors)
        self.parts, self.levels, self.tied = config.parts, config.levels, config.tied
        wanted = config.shapes()
        found = {name: (t.dtype.type, t.shape) for name, t in tensors.items()}
        if found != wanted:
            odd = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))[0]
            raise ModelError(f"the tensors of a prior do not fit its config, first at {odd}")
        _check_sums(config, tensors)
        check_products()
        self._t = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
        self._levels, self._rows = slices(self.levels), slices(config.rows)
        taps = np.cumsum((0, *map(len, NEAR))) * config.embedding
        self._near = [self._t["near"][a:b] for a, b in itertools.pairwise(taps)]
        self._free_rows = slices(self.levels[self.tied :])
        self._gates = slices([2 * count for count in SOURCES] * config.free)  # of each free symbol, of each turn

    # --- from ids to values ---------------------------------------------------------------------

    def embed(self, symbols: npt.NDArray[np.integer], stage: int) -> Values:
        """Symbols (..., n) -> (..., embedding); free ones count in the first stage only."""
        total = np.zeros((*symbols.shape[:-1], self.config.embedding), np.float32)
        for k in range(self.tied):
            total += self.rows("embed", k, symbols[..., 0], symbols[..., k])
        if stage == 0:
            self.add_free("free_embed", symbols[..., self.tied :], total)
        return clip(total)

    def add_free(self, name: str, symbols: npt.NDArray[np.integer], total: Values) -> None:
        """Add the rows of free symbols (..., free) in a table to `total`."""
        for k in range(self.config.free):
            total += self.free_rows(name, k, symbols[..., k])

    def free_rows(self, name: str, k: int, symbols: npt.NDArray[np.integer]) -> Values:
        """Of a table: those of the k-th free symbols."""
        found: Values = self._t[name][self._free_rows[k]].take(symbols, 0)
        return found

    def rows(self, name: str, k: int, first: npt.NDArray[np.integer], own: npt.NDArray[np.integer]) -> Values:
        """Of a table: those of the k-th symbols of ids whose first symbols are `first`."""
        at = own if k == 0 else first.astype(np.int64) * self.levels[k] + own
        found: Values = self._t[name][self._rows[k]].take(at, 0)
        return found

    def blank(self, height: int, width: int) -> Bytes:
        """What is remembered before the first latent frame, (h, w, state + embedding)."""
        return np.zeros((height, width, self.config.state + self.config.embedding), np.uint8)

    def remember(self, before: Bytes, embedded: Values, stage: int) -> Bytes:
        """What is remembered after a latent frame, (h, w, state + embedding): the state, and the embedded ids."""
        now = before.copy()
        now[..., self.config.state :] = embedded
        sums = convolve(now, self._t["remember"]) + self._t["remember_stage"][stage]
        now[..., : self.config.state] = squash(sums)
        return now

    # --- from values to frequencies -------------------------------------------------------------

    def known(self, before: Bytes, below: Bytes | None, stage: int, place: int, first: bool) -> Values:
        """Sums (h, w, features) of what is known before a latent frame.

        `before`: what is remembered of this stage; `below`: of the stage below, this latent frame included; `place`:
        number of the latent frame in its segment; `first`: whether nothing is remembered yet.
        """
        bias = self._t["known_stage"][stage] + self._t["known_phase"][place % self.config.period]
        if first:  # and `before` is 0
            sums = np.zeros((*before.shape[:2], self.config.features), np.float32)
        else:
            sums = convolve(before, self._t["known"])
        if below is not None:
            sums += convolve(below, self._t["below"])
        sums += bias + self._t["known_first"][0] if first else bias
        return sums

    def cells(self, known: Values, around: Values, number: int) -> Cells:
        """The n cells of pass `number`; `around`: embedded ids (h + 2, w + 2, embedding).

        Their border is 0, and so are ids that are not known.
        """
        y, x = ORDER[number]
        own = known[y::2, x::2]
        h, w = own.shape[:2]
        sums = (own + self._t["known_pass"][number]).reshape(h * w, -1)
        if NEAR[number]:
            size = self.config.embedding
            taps = np.empty((h, w, len(NEAR[number]) * size), np.float32)
            for k, (dy, dx) in enumerate(NEAR[number]):
                top, left = y + dy + 1, x + dx + 1
                taps[..., k * size : (k + 1) * size] = around[top : top + 2 * h : 2, left : left + 2 * w : 2]
            sums += taps.reshape(h * w, -1) @ self._near[number]
        return Cells(self, squash(squash(sums) @ self._t["mix"] + self._t["mix_bias"]))

    def first_sums(self, mixed: Values) -> Values:
        """(n, hidden) of first symbols, from values (n, features)."""
        sums: Values = mixed @ self._t["first"] + self._t["first_bias"]
        return sums

    def other_sums(self, mixed: Values, first: Numbers) -> Values:
        """(n, symbols after the first * hidden), by the weights that first symbols (n) choose."""
        order = np.argsort(first, kind="stable")
        grouped, kinds = mixed.take(order, 0), first.take(order)
        sums = self.rows("before", 0, kinds, kinds)
        bounds = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
        for a, b in itertools.pairwise(bounds):
            row = int(kinds[a]) * self.config.features
            sums[a:b] += grouped[a:b] @ self._t["others"][row : row + self.config.features]
        found = np.empty_like(sums)
        found[order] = sums
        return found

    def shares(self, sums: Values, k: int) -> Numbers:
        """Where the levels of symbol k start, see `shares`, from sums (n, hidden)."""
        return _shares(self._told(squash(sums), k))

    def _told(self, hidden: Values, k: int) -> Values:
        """Sums (levels, n) that become the logits of symbol k, from its values (n, hidden)."""
        levels = self._levels[k]
        sums: Values = self._t["tell"][levels] @ hidden.T
        sums += self._t["tell_bias"][levels, None]
        return sums

    # --- free symbols ---------------------------------------------------------------------------

    def free_sums(self, known: Values) -> Values:
        """(..., free * hidden), from sums (..., features) of what is known before a latent frame."""
        sums: Values = squash(known + self._t["free_pass"][0]) @ self._t["free"]
        sums += self._t["free_bias"]
        return sums

    def free_shares(self, sums: Values, k: int, turn: int, others: Numbers, same: npt.NDArray[np.bool_]) -> Numbers:
        """Where the levels of the k-th free symbols of n cells start, (levels + 1, n), see `shares`.

        From sums (n, free * hidden). `others` (sources, n): this symbol of the cells that it may be copied from, -1
        where there is none; `same`: whether all earlier free symbols are as there.
        """
        size, count = self.config.hidden, len(sums)
        hidden = squash(sums[:, k * size : (k + 1) * size].copy())
        logits = np.zeros((self.levels[self.tied + k] + 1, count), np.float32)  # the last one is for -1
        logits[:-1] = self._told(hidden, self.tied + k)
        gates = self._gates[k * len(SOURCES) + turn]
        weights = self._t["copy"][gates] @ hidden.T + self._t["copy_bias"][gates, None]
        places = np.arange(count)
        for other, weight in zip(others, np.where(same, weights[0::2], weights[1::2]), strict=True):
            logits[other, places] += weight
        return _shares(logits[:-1])


class Cells:
    """The cells of a pass, told symbol after symbol."""

    def __init__(self, network: Network, mixed: Values) -> None:
        self._network, self._mixed = network, mixed
        self._first: Numbers = np.zeros(len(mixed), np.int64)
        self._sums: Values = mixed[:, :0]  # of the symbols after the first

    def shares(self, k: int) -> Numbers:
        """Where the levels of symbol k start, (levels + 1, n), see `shares`; those before have been told."""
        if k == 0:
            return self._network.shares(self._network.first_sums(self._mixed), 0)
        size = self._network.config.hidden
        return self._network.shares(self._sums[:, (k - 1) * size : k * size].copy(), k)

    def tell(self, k: int, symbols: Numbers) -> None:
        """These are the k-th symbols (n)."""
        if k == 0:
            self._first, self._sums = symbols, self._network.other_sums(self._mixed, symbols)
        else:
            self._sums += self._network.rows("before", k, self._first, symbols)


def _shares(logits: Values) -> Numbers:
    """Of sums (levels, n), in place: divided by 2^SHIFT they are logits."""
    logits *= 2.0**-SHIFT
    return shares(np.floor(logits, out=logits))


def slices(sizes: Sequence[int]) -> list[slice]:
    """Of so many rows, one after the other."""
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def convolve(values: npt.NDArray[np.generic], weights: Values) -> Values:
    """3x3 sums (h, w, out) around each cell of values (h, w, in), zeros outside; weights (9 * in, out), row by row.

    Cells are gathered with those left and right of them, rows above and below are other views of the same."""
    h, w, size = values.shape
    out = np.empty((h, w, weights.shape[1]), np.float32)
    rows, above, middle, below = max(1, TILE // w), *np.split(weights, 3)
    for top in range(0, h, rows):
        count = min(rows, h - top)
        low, high = max(top - 1, 0), min(top + count + 1, h)
        taps = np.zeros((count + 2, w, 3, size), np.float32)
        inner, own = taps[low - top + 1 : high - top + 1], values[low:high]
        inner[:, 1:, 0], inner[:, :, 1], inner[:, :-1, 2] = own[:, :-1], own, own[:, 1:]
        flat, sums = taps.reshape(-1, 3 * size), out[top : top + count].reshape(count * w, -1)
        np.matmul(flat[: -2 * w], above, out=sums)
        sums += flat[w:-w] @ middle
        sums += flat[2 * w :] @ below
    return out


def _check_sums(config: PriorConfig, tensors: Mapping[str, npt.NDArray[np.signedinteger]]) -> None:
    """ModelError unless every sum stays below 2^24 whatever the values."""

    def size(name: str) -> Numbers:
        return np.abs(tensors[name].astype(np.int32))

    def total(sizes: Numbers, axis: int = 0) -> Numbers:
        found: Numbers = sizes.sum(axis, np.int64) * MAX
        return found

    def largest(name: str, counts: Sequence[int] = config.rows) -> Numbers:
        """Of rows that are added up, one for each symbol."""
        rows = size(name)
        found: Numbers = sum((rows[own].max(0) for own in slices(counts)), np.zeros(rows.shape[1], np.int64))
        return found

    near = np.split(size("near"), np.cumsum([len(taps) * config.embedding for taps in NEAR])[:-1])
    bias = sum(size(f"known_{of}").max(0) for of in ("stage", "phase", "first", "pass"))
    around = np.max([total(part) for part in near], 0)
    others = size("others").reshape(config.levels[0], config.features, (config.tied - 1) * config.hidden)
    bounds = {
        "remember": total(size("remember")) + size("remember_stage").max(0),
        "known": total(size("known")) + total(size("below")) + around + bias,
        "mix": total(size("mix")) + size("mix_bias"),
        "first": total(size("first")) + size("first_bias"),
        "others": total(others, 1).max(0) + largest("before"),
        "tell": total(size("tell"), 1) + size("tell_bias"),
        "embed": largest("embed"),
    }
    if config.free:
        free = config.levels[config.tied :]
        gates = (total(size("copy"), 1) + size("copy_bias")).reshape(config.free, sum(SOURCES), 2).max(2)
        copied = [gates[:, turn].sum(1).max() for turn in slices(SOURCES)]
        bounds["known"] = bounds["known"] + largest("free_known", free) + size("free_pass")[0]
        bounds["free"] = total(size("free")) + size("free_bias") + largest("free_before", free)
        bounds["tell"] = bounds["tell"] + np.max(copied)
        bounds["embed"] = bounds["embed"] + largest("free_embed", free)
    for name, bound in bounds.items():
        most = int(np.max(bound, initial=0))
        if most >= EXACT:
            raise ModelError(f"the sums of a prior ({name}) may reach {most}; 2^24 is the limit")


@functools.cache
def check_products(multiply: Callable[[Values, Values], Values] = np.matmul) -> None:
    """ModelError on a machine whose products of whole numbers in float32 are not exact below 2^24."""
    a = (np.arange(37 * 1032).reshape(37, 1032) * 7919 % 255 - MAX).astype(np.int64)
    b = (np.arange(1032 * 24).reshape(1032, 24) * 104729 % 255 - MAX).astype(np.int64)
    for left, right in ((a, b), (np.abs(a), np.full_like(b, MAX)), (a[:1], b), (a[:, :48], b[:48])):
        floats, product = (left.astype(np.float32), right.astype(np.float32)), left @ right
        for found in (multiply(*floats), multiply(floats[1].T, floats[0].T).T):
            if not np.array_equal(found.astype(np.int64), product):
                raise ModelError("matrix products of this machine's numpy are not exact; no learned prior can be used")
