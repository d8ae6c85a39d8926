"""A video into a token file and back: `encode_file` and `decode_file`, each the story on one screen."""

from vidtok.codec.decode import decode_clips, decode_file, frame_range, load_for
from vidtok.codec.encode import encode_file, estimate_file, open_source
from vidtok.codec.options import DecodeOptions, DecodeReport, EncodeOptions, EncodeReport, choose_quality

__all__ = [
    "DecodeOptions",
    "DecodeReport",
    "EncodeOptions",
    "EncodeReport",
    "choose_quality",
    "decode_clips",
    "decode_file",
    "encode_file",
    "estimate_file",
    "frame_range",
    "load_for",
    "open_source",
]
