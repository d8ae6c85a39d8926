"""Packed ids: id i takes bits [i*b, (i+1)*b) of the byte stream, lowest bit first.

64 ids of b bits fill exactly b words of 64 bits, so ids are worked on in groups of 64, as columns:

    ids (g, 64) --transpose--> 64 rows of g  --shift, or--> b rows of g --transpose--> words (g, b)

which is a few dozen numpy operations on long rows whatever the number of ids (an order of magnitude
faster than np.packbits on a matrix of bits, and the same bytes).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidtok.errors import FormatError

MAX_BITS = 63
TILE = 4096  # groups of 64 ids worked on at once: 2 MiB of words, fits the cache

Ids = npt.NDArray[np.unsignedinteger]


def bits_for(vocabulary: int) -> int:
    """Bits of one id out of `vocabulary` >= 1: ceil(log2(vocabulary)), 0 for a vocabulary of 1."""
    return (vocabulary - 1).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` ids of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(ids: npt.NDArray[np.integer], bits: int) -> bytes:
    """Integers (any shape, taken in C order) in [0, 2^bits) to ceil(n * bits / 8) bytes, 0 <= bits <= 63."""
    flat = np.ascontiguousarray(ids).reshape(-1)
    if flat.size and (int(flat.max()) >> bits or int(flat.min()) < 0):
        raise FormatError(f"ids {int(flat.min())} to {int(flat.max())} do not fit {bits} bits")
    if bits in (8, 16, 32):
        return flat.astype(f"<u{bits // 8}", copy=False).tobytes()
    out = bytearray()
    for start in range(0, flat.size if bits else 0, 64 * TILE):
        out += _pack_tile(flat[start : start + 64 * TILE], bits)
    return bytes(out[: packed_bytes(flat.size, bits)])


def _pack_tile(flat: npt.NDArray[np.integer], bits: int) -> memoryview:
    groups = -(-flat.size // 64)
    if flat.size % 64:
        flat = np.concatenate([flat, np.zeros(groups * 64 - flat.size, flat.dtype)])
    rows = np.ascontiguousarray(flat.reshape(groups, 64).T).astype(np.uint64)
    words = np.zeros((bits, groups), np.uint64)
    spare = np.empty(groups, np.uint64)
    for k in range(64):
        i, shift = divmod(k * bits, 64)
        words[i] |= np.left_shift(rows[k], np.uint64(shift), out=spare)
        if shift + bits > 64:
            words[i + 1] |= np.right_shift(rows[k], np.uint64(64 - shift), out=spare)
    return np.ascontiguousarray(words.T).astype("<u8", copy=False).reshape(-1).view(np.uint8).data


def unpack(data: bytes | memoryview, count: int, bits: int, dtype: npt.DTypeLike = np.uint64) -> Ids:
    """The `count` ids of `bits` bits in `data`, which must have exactly ceil(count * bits / 8) bytes."""
    wanted = packed_bytes(count, bits)
    if len(data) != wanted:
        raise FormatError(f"{count} ids of {bits} bits take {wanted} bytes, not {len(data)}")
    if bits in (8, 16, 32):
        return np.frombuffer(data, f"<u{bits // 8}").astype(dtype)
    out = np.zeros(count, dtype)
    if not bits or not count:
        return out
    spare = count * bits % 8
    if spare and data[-1] >> spare:
        raise FormatError(f"the last byte of {count} packed ids has stray bits")
    step = 8 * bits * TILE
    for number, start in enumerate(range(0, wanted, step)):
        part = out[number * 64 * TILE : (number + 1) * 64 * TILE]
        _unpack_tile(data[start : start + step], bits, part)
    return out


def _unpack_tile(data: bytes | memoryview, bits: int, out: Ids) -> None:
    groups = -(-out.size // 64)
    whole = out.size == groups * 64
    padded = data if whole else bytes(data) + bytes(groups * bits * 8 - len(data))
    words = np.ascontiguousarray(np.frombuffer(padded, "<u8").reshape(groups, bits).T)
    columns = (out if whole else np.empty(groups * 64, out.dtype)).reshape(groups, 64)
    mask = np.uint64((1 << bits) - 1)
    value, spare = np.empty(groups, np.uint64), np.empty(groups, np.uint64)
    for k in range(64):
        i, shift = divmod(k * bits, 64)
        np.right_shift(words[i], np.uint64(shift), out=value)
        if shift + bits > 64:
            value |= np.left_shift(words[i + 1], np.uint64(64 - shift), out=spare)
        np.bitwise_and(value, mask, out=columns[:, k], casting="unsafe")
    if not whole:
        out[:] = columns.reshape(-1)[: out.size]
