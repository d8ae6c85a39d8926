"""The token file: TokenHeader, TokenWriter, TokenReader. docs/format.md describes the bytes.

header | chunk | chunk | ... | audio | ... | trailer with index | footer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidtok.bitstream.header import Audio, Colour, TokenHeader
    from vidtok.bitstream.reader import TokenReader
    from vidtok.bitstream.views import Chunk, ChunkInfo
    from vidtok.bitstream.writer import TokenWriter

__all__ = ["Audio", "Chunk", "ChunkInfo", "Colour", "TokenHeader", "TokenReader", "TokenWriter"]


def __getattr__(name: str) -> Any:
    """Each name from where it lives, when first asked for: whoever reads a header loads no writer."""
    from vidtok import bitstream

    return getattr(bitstream, name)
