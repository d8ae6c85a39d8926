"""Pictures within a page: data URIs of JPEG files, and maps of numbers as PNG with a scale of colours."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

# dark blue to yellow, rising in lightness, so that it reads without colours too
ANCHORS = ((24, 15, 61), (59, 40, 128), (62, 92, 148), (45, 137, 141), (74, 180, 110), (167, 214, 64), (250, 232, 70))


def data_uri(picture: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def heat_map(values: np.ndarray[Any, Any], most: float) -> bytes:
    """(h, w) numbers from 0 to `most` -> a PNG of as many pixels, with a palette."""
    shades = np.clip(np.nan_to_num(values) / most * 255 + 0.5, 0, 255).astype(np.uint8)
    height, width = shades.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), shades], axis=1)  # each line begins with its filter, none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def colour_scale() -> bytes:
    """The colours from 0 to the most, left to right."""
    return heat_map(np.arange(256, dtype=np.float32)[None], 255.0)


def _palette() -> bytes:
    places = np.linspace(0, 1, len(ANCHORS))
    channels = [np.interp(np.linspace(0, 1, 256), places, [anchor[c] for anchor in ANCHORS]) for c in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8).tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
