"""Ids of a stage through LZMA: a mode that costs no model, only looks for what was there before.

    byte 0    0: packed ids follow, as in raw mode;  1: LZMA2 of the ids in (t, h, w) order;  2: in (h, w, t) order

The ids go in as little-endian numbers of 2, 4 or 8 bytes (the smallest that holds the vocabulary), into a raw
LZMA2 stream whose settings follow from that width alone, since each byte of an id has its own statistics. The
smallest of the three is kept, so this costs at most a byte more than raw.
"""

from __future__ import annotations

import lzma

import numpy as np

from vidtok.bitstream.bits import Ids, bits_for, pack, unpack
from vidtok.errors import FormatError

PACKED, BY_TIME, BY_PLACE = range(3)
LITERAL = {2: (1, 1, 1), 4: (0, 2, 2), 8: (0, 3, 3)}  # (lc, lp, pb) by bytes of an id


def filters(count: int, width: int) -> list[dict[str, int]]:
    """Settings for `count` ids of `width` bytes: the dictionary holds them all."""
    size = max(4096, 1 << (count * width - 1).bit_length())
    lc, lp, pb = LITERAL[width]
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(size, 1 << 30),
             "lc": lc, "lp": lp, "pb": pb}]  # fmt: skip


def squeeze(part: Ids, vocabulary: int) -> bytes:
    """Ids (t, h, w) below `vocabulary` to the smallest of the three forms."""
    forms = [bytes([PACKED]) + pack(part, bits_for(vocabulary))]
    settings = filters(part.size, part.itemsize)
    for form, ordered in ((BY_TIME, part), (BY_PLACE, part.transpose(1, 2, 0))):
        stream = lzma.compress(ordered.tobytes(), lzma.FORMAT_RAW, filters=settings)
        forms.append(bytes([form]) + stream)
    return min(forms, key=len)


def expand(payload: bytes | memoryview, shape: tuple[int, int, int], vocabulary: int, dtype: str) -> Ids:
    """The inverse: ids (t, h, w). FormatError if the payload is not that of so many ids; takes no more memory."""
    t, h, w = shape
    count, width = t * h * w, np.dtype(dtype).itemsize
    form = payload[0] if len(payload) else None
    if form == PACKED:
        return unpack(payload[1:], count, bits_for(vocabulary), dtype).reshape(shape)
    if form not in (BY_TIME, BY_PLACE):
        raise FormatError(f"ids are stored in form {form}; 0 to 2 are known")
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters(count, width))
    try:
        data = decoder.decompress(payload[1:], max_length=count * width)
        if len(data) == count * width and not decoder.eof:
            data += decoder.decompress(b"", max_length=1)  # the end mark
    except lzma.LZMAError as error:
        raise FormatError(f"the LZMA stream is broken: {error}") from None
    if len(data) != count * width or not decoder.eof or decoder.unused_data:
        raise FormatError(f"the LZMA stream does not hold {count} ids of {width} bytes")
    ids = np.frombuffer(data, dtype)
    return ids.reshape(shape) if form == BY_TIME else np.ascontiguousarray(ids.reshape(h, w, t).transpose(2, 0, 1))
