"""Token files: packed ids, container, repacking, exchange with .npy.

No torch anywhere; numpy only where ids are touched, so that a header is read quickly. `describe.describe`
and `repack.repack` are imported from where they are (a function here would hide the module of its name).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidtok.bitstream.exchange import export_ids, import_ids
    from vidtok.bitstream.header import Audio, Colour, TokenHeader
    from vidtok.bitstream.reader import TokenReader
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
    "export_ids": "exchange",
    "import_ids": "exchange",
}

__all__ = [
    "Audio",
    "Chunk",
    "ChunkInfo",
    "Colour",
    "TokenHeader",
    "TokenReader",
    "TokenWriter",
    "export_ids",
    "import_ids",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vidtok.bitstream.{HOMES[name]}"), name)
