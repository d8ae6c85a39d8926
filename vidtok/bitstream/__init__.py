"""Token files: packed ids, container, repacking, exchange with .npy.

No torch anywhere; numpy only where ids are touched, so that a header is read quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidtok.bitstream.describe import describe
    from vidtok.bitstream.exchange import export_ids, import_ids
    from vidtok.bitstream.header import Audio, Colour, TokenHeader
    from vidtok.bitstream.reader import TokenReader
    from vidtok.bitstream.repack import repack
    from vidtok.bitstream.views import Chunk, ChunkInfo
    from vidtok.bitstream.writer import TokenWriter

HOMES = {
    "Audio": "header",
    "Chunk": "views",
    "ChunkInfo": "views",
    "Colour": "header",
    "TokenHeader": "header",
    "TokenReader": "reader",
    "TokenWriter": "writer",
    "describe": "describe",
    "export_ids": "exchange",
    "import_ids": "exchange",
    "repack": "repack",
}

__all__ = [
    "Audio",
    "Chunk",
    "ChunkInfo",
    "Colour",
    "TokenHeader",
    "TokenReader",
    "TokenWriter",
    "describe",
    "export_ids",
    "import_ids",
    "repack",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vidtok.bitstream.{HOMES[name]}"), name)
