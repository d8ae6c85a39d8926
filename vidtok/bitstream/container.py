"""The token file: TokenHeader, TokenWriter, TokenReader. docs/format.md describes the bytes.

header | chunk | chunk | audio | chunk | ... | trailer with index | footer
"""

from __future__ import annotations

from vidtok.bitstream.header import Audio, Colour, TokenHeader
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.views import Chunk, ChunkInfo
from vidtok.bitstream.writer import TokenWriter

__all__ = ["Audio", "Chunk", "ChunkInfo", "Colour", "TokenHeader", "TokenReader", "TokenWriter"]
