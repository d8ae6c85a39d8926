"""Videos to discrete tokens and back.

    model = vidtok.load("default")          tokens = model.encode(frames)      frames = model.decode(tokens)
    vidtok.encode("a.mp4", "a.vtok")        vidtok.decode("a.vtok", "b.mp4")
    with vidtok.open("a.vtok") as f:        f.header, f.ids[10:20]

Importing this imports neither torch nor numpy nor av: each function imports what it needs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from vidtok.bitstream.container import TokenReader
    from vidtok.codec import DecodeReport, EncodeReport
    from vidtok.model.model import Model

__version__ = "0.1.0"
__all__ = ["__version__", "decode", "encode", "load", "open"]

StrPath = str | os.PathLike[str]


def load(name: StrPath = "default", *, device: str = "auto", precision: str = "auto") -> Model:
    """The tokenizer called `name` (built-in name, alias, folder or file) on `device`, ready to encode and decode."""
    from vidtok.checkpoint import load as load_model

    return load_model(name, device=device, precision=precision)


def encode(source: StrPath, target: StrPath | BinaryIO, **options: Any) -> EncodeReport:
    """Write the tokens of the video `source` to `target`; `options` are the fields of `codec.EncodeOptions`."""
    from vidtok.codec import EncodeOptions, encode_file

    return encode_file(source, target, EncodeOptions(**options))


def decode(source: StrPath | BinaryIO, target: StrPath, **options: Any) -> DecodeReport:
    """Write the video held by the token file `source`; `options` are the fields of `codec.DecodeOptions`."""
    from vidtok.codec import DecodeOptions, decode_file

    return decode_file(source, target, DecodeOptions(**options))


def open(path: StrPath | BinaryIO) -> TokenReader:
    """A token file for reading: `.header`, `.ids[a:b]`, `.ids_for_frames(a, b)`; numpy only."""
    from vidtok.bitstream.container import TokenReader

    return TokenReader(path)
