"""Token files: packed ids, the container, repacking, exchange with .npy. No torch; numpy only where ids are touched."""

from __future__ import annotations

from vidtok.bitstream.container import Audio, Chunk, ChunkInfo, Colour, TokenHeader, TokenReader, TokenWriter

__all__ = ["Audio", "Chunk", "ChunkInfo", "Colour", "TokenHeader", "TokenReader", "TokenWriter"]
