"""Any video or picture as RGB frames with exact timestamps, and back into a file; the only importer of PyAV.

    info      VideoInfo and Frame: what travels between reader, codec and writer
    source    VideoReader: demux, decode, repair timestamps, colours, upright
    demux     opening a local file, choosing the stream, surviving damage
    timing    missing and unordered timestamps repaired; another frame rate
    colour    tags or a stated guess -> RGB, full range, 8 bit
    orient    display matrix and EXIF orientation
    resize    Resize("256") and Resize("640x360")
    audio     packets copied untouched into a NUT stream, and out again
    writer    VideoWriter: .mp4 .mkv .png .npy, written beside and renamed
"""

from __future__ import annotations

from vidtok.video.info import Frame, VideoInfo
from vidtok.video.resize import Resize
from vidtok.video.source import VideoReader
from vidtok.video.writer import VideoWriter

__all__ = ["Frame", "Resize", "VideoInfo", "VideoReader", "VideoWriter"]
