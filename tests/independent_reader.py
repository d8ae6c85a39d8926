"""A reader of token files written from docs/format.md alone: no code shared with vidtok, no numpy.

python tests/independent_reader.py clip.vtok       prints counts, timestamps, ids
"""

from __future__ import annotations

import lzma
import sys
import zlib


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert 0 <= n <= len(self.data) - self.at, "too short"
        self.at += n
        return self.data[self.at - n : self.at]

    def u32(self):
        return int.from_bytes(self.take(4), "little")

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def zigzag(self):
        n = self.varint()
        return -(n + 1) // 2 if n % 2 else n // 2


def read_header(file):
    start = file.at
    assert file.take(8) == b"\x89VTK\r\n\x1a\n" and file.take(1) == b"\0"
    end = file.u32() + file.at
    sections = {}
    while file.at < end:
        tag = file.varint()
        sections[tag // 2] = Bytes(file.take(file.varint()))
        assert tag // 2 <= 11 or tag % 2 == 0, "unknown and needed"
    crc = zlib.crc32(file.data[start : file.at])
    assert crc == file.u32(), "damaged header"
    grid, layout, coding = sections[1], sections[2], sections[3]
    head = {"h": grid.varint(), "w": grid.varint(), "K": grid.varint(), "crc": crc}
    stages, own = max(head["K"], 1), grid.varint()
    head["vocabularies"] = [grid.varint() for _ in range(own)] if own else [grid.varint()] * stages
    names = ("rule", "time_stride", "space_stride", "chunk_latents", "segment_frames", "look_back")
    head |= {name: layout.varint() for name in names}
    head["entropy"] = coding.varint()
    assert head["rule"] == 0 and head["entropy"] in (0, 1), "causal, raw and lzma only"
    if 4 in sections:
        head |= {"width": sections[4].varint(), "height": sections[4].varint()}
    head["clock"] = 5 in sections
    if head["clock"]:
        head["time_base"] = (sections[5].varint(), sections[5].varint())
        head["frame_step"] = sections[5].varint()
    if 6 in sections:
        head["model"] = sections[6].take(sections[6].varint()).decode()
        head["model_id"] = sections[6].take(len(sections[6].data) - sections[6].at).hex()
    return head


def read_record(file, header_crc):
    start = file.at
    assert file.take(1) == b"\xf5"
    kind = file.take(1)
    head = Bytes(file.take(file.varint()))
    crc = zlib.crc32(file.data[start : file.at], header_crc)
    assert crc == file.u32(), "damaged record"
    return start, kind, head, crc, file.take(head.varint())


def unpack(data, count, vocabulary):
    bits = (vocabulary - 1).bit_length()
    number = int.from_bytes(data, "little")
    assert len(data) == (count * bits + 7) // 8 and number >> count * bits == 0
    return [number >> i * bits & (1 << bits) - 1 for i in range(count)]


def expand(data, t, h, w, vocabulary, width):
    """A stage in lzma mode: a byte for the form, then packed ids, or LZMA2 in (t, h, w) or (h, w, t) order."""
    if data[0] == 0:
        return unpack(data[1:], t * h * w, vocabulary)
    lc, lp, pb = {2: (1, 1, 1), 4: (0, 2, 2), 8: (0, 3, 3)}[width]
    settings = {"id": lzma.FILTER_LZMA2, "lc": lc, "lp": lp, "pb": pb}
    settings["dict_size"] = max(4096, 1 << (t * h * w * width - 1).bit_length())
    plain = lzma.decompress(data[1:], lzma.FORMAT_RAW, None, [settings])
    ids = [int.from_bytes(plain[i : i + width], "little") for i in range(0, len(plain), width)]
    return ids if data[0] == 1 else [ids[i * t + k] for k in range(t) for i in range(h * w)]


def read_chunk(header, head, payload):
    number, flags, latents = head.varint(), head.varint(), head.varint()
    stages = [(head.varint(), head.u32(), head.u32()) for _ in header["vocabularies"]]
    pts, data, columns = [], Bytes(payload), []
    if header["clock"]:
        frames, now, step = head.varint(), head.zigzag(), header["frame_step"]
        for i in range(frames):
            if i:
                step += head.zigzag() if flags & 1 else 0
                now += step
            pts.append(now)
    for (size, crc, ids_crc), vocabulary in zip(stages, header["vocabularies"], strict=True):
        stored = data.take(size)
        width = 2 if vocabulary <= 1 << 16 else 4 if vocabulary <= 1 << 32 else 8
        if header["entropy"]:
            ids = expand(stored, latents, header["h"], header["w"], vocabulary, width)
        else:
            ids = unpack(stored, latents * header["h"] * header["w"], vocabulary)
        assert zlib.crc32(stored) == crc and max(ids) < vocabulary
        assert zlib.crc32(b"".join(i.to_bytes(width, "little") for i in ids)) == ids_crc
        columns.append(ids)
    return number, latents, pts, [i for together in zip(*columns, strict=True) for i in together]


def read_file(data):
    """Header, latent frames, timestamps, flat ids in (t, h, w[, K]) order, audio bytes, trailer."""
    file = Bytes(data)
    header = read_header(file)
    out = {"header": header, "latents": 0, "pts": [], "ids": [], "audio": b""}
    seen, last = [], file.at
    while True:
        start, kind, head, crc, payload = read_record(file, header["crc"])
        if kind == b"C":
            number, latents, pts, ids = read_chunk(header, head, payload)
            assert number == len(seen)
            seen.append((start - last, file.at - start, crc))
            last = file.at
            out["latents"] += latents
            out["pts"] += pts
            out["ids"] += ids
        else:
            assert kind == b"T" or kind.islower(), "unknown and needed"
            assert kind not in b"aT" or head.u32() == zlib.crc32(payload)
            out["audio"] += payload if kind == b"a" else b""
        if kind == b"T":
            break
    assert file.u32() == file.at - 4 - start and file.take(4) == b"\x89VTE" and file.at == len(data)
    end = Bytes(payload)
    out |= {"flags": end.varint()}
    assert end.varint() == out["latents"]
    end.varint()
    if header["clock"]:
        out |= {
            "frames": end.varint(),
            "first": end.zigzag(),
            "span": end.varint(),
            "last_duration": end.varint(),
        }
        assert out["frames"] == len(out["pts"])
    assert [(end.varint(), end.varint(), end.u32()) for _ in seen] == seen and end.at == len(payload)
    return out


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as opened:
        for key, value in read_file(opened.read()).items():
            print(key, value)
