"""Free symbols: digits at the end of an id that have nothing to do with its first one, such as a motion vector.

They are told in the first stage, before all other symbols of a latent frame, once for each block of cells, in turns
from coarse to fine (`lattice`):

    what is known before the frame --> hidden --+--> logits of all levels --+
                                                |                           +--> frequencies
    the same symbol of the latent frame before  |                           |
    and of neighbours that are told ----------- | --------> which levels    |
                                                +--> how much ----> (+) ----+

So equal neighbours need not be learnt level by level (pointers mixed with a vocabulary: See et al. 2017, arXiv
1704.04368). How much a source counts depends on whether the earlier free symbols of the cell are those of the source.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vidtok.bitstream.lattice import REACH, TURNS
from vidtok.bitstream.network import Network, Numbers, PriorConfig, Values

NONE = -1  # instead of a symbol, where no cell is known


def tell(
    network: Network,
    known: Values,
    before: npt.NDArray[np.integer] | None,
    symbols: npt.NDArray[np.integer],
    code: Callable[[Numbers, Numbers], Numbers],
) -> None:
    """Tell the free symbols (h, w, free) of a latent frame, in place: `code` as in `Course.run`.

    Only those of the blocks' first cells are told; all others of a block become the same. `known`: sums
    (h, w, features) of what is known; `before`: free symbols of the latent frame before, if there is one.
    """
    size = network.config.block
    leaders = symbols[::size, ::size].copy()
    _tell(network, known[::size, ::size], None if before is None else before[::size, ::size], leaders, code)
    symbols[:] = leaders.repeat(size, 0).repeat(size, 1)[: len(symbols), : symbols.shape[1]]


def fit(symbols: npt.NDArray[np.integer], config: PriorConfig, stage: int) -> bool:
    """Whether the free ones of symbols (..., h, w, n) are as they have to be.

    In the first stage the same in each block, above it in the middle.
    """
    free, size = symbols[..., config.tied :], config.block
    if stage:
        return bool((free == np.array(config.middle, np.uint8)).all())
    h, w = free.shape[-3:-1]
    leaders = free[..., ::size, ::size, :]
    return all(
        np.array_equal(free[..., y::size, x::size, :], leaders[..., : -(-(h - y) // size), : -(-(w - x) // size), :])
        for y in range(min(size, h))
        for x in range(min(size, w))
    )


def _tell(
    network: Network,
    known: Values,
    before: npt.NDArray[np.integer] | None,
    symbols: npt.NDArray[np.integer],
    code: Callable[[Numbers, Numbers], Numbers],
) -> None:
    """The same for one cell of each block."""
    h, w, count = symbols.shape
    sums = network.free_sums(known)
    plane = np.full((h + 2 * REACH, w + 2 * REACH, count), NONE, np.int64)
    past = np.full(symbols.shape, NONE, np.int64) if before is None else before.astype(np.int64)
    inner = plane[REACH : h + REACH, REACH : w + REACH]
    for number, turn in enumerate(TURNS):
        told = np.array(symbols[turn.cells], np.int64, order="C")
        high, wide, _ = told.shape
        if not told.size:
            continue
        sources = [past[turn.cells], *(plane[turn.neighbours(dy, dx, high, wide)] for dy, dx in turn.near)]
        others = np.stack(sources, -1).reshape(high * wide, count, -1).T  # (sources, free, n)
        own, flat = sums[turn.cells].reshape(high * wide, -1), told.reshape(high * wide, count)
        same = np.ones((len(sources), high * wide), np.bool_)
        for k, levels in enumerate(network.levels[network.tied :]):
            if levels > 1:
                flat[:, k] = code(network.free_shares(own, k, number, others[:, k], same), flat[:, k])
            if k + 1 < count:
                same &= others[:, k] == flat[:, k]
                own = own + network.free_rows("free_before", k, flat[:, k])
        symbols[turn.cells] = inner[turn.cells] = told
