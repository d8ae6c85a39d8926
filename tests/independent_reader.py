"""A reader of token files written from docs/format.md alone: no code shared with vidtok, no numpy.

python tests/independent_reader.py clip.vtok       prints counts, timestamps, ids
"""

from __future__ import annotations

import lzma
import sys
import zlib
from math import exp, log
from pathlib import Path


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
    assert file.take(8) == b"\x89VTK\r\n\x1a\n" and file.take(1) == b"\1"
    end = file.u32() + file.at
    sections = {}
    while file.at < end:
        tag = file.varint()
        sections[tag // 2] = Bytes(file.take(file.varint()))
        assert tag // 2 <= 12 or tag % 2 == 0, "unknown and needed"
    crc = zlib.crc32(file.data[start : file.at])
    assert crc == file.u32(), "damaged header"
    grid, layout, coding = sections[1], sections[2], sections[3]
    head = {"h": grid.varint(), "w": grid.varint(), "K": grid.varint(), "crc": crc}
    stages, own = max(head["K"], 1), grid.varint()
    head["vocabularies"] = [grid.varint() for _ in range(own)] if own else [grid.varint()] * stages
    names = ("rule", "time_stride", "space_stride", "chunk_latents", "segment_frames", "look_back")
    head |= {name: layout.varint() for name in names}
    head["entropy"] = coding.varint()
    assert head["rule"] == 0 and head["entropy"] in (0, 1, 2, 3), "causal; modes 0 to 3 only"
    head["prior_id"] = coding.take(32).hex() if head["entropy"] == 3 else None
    if 4 in sections:
        head |= {"width": sections[4].varint(), "height": sections[4].varint()}
    head["varying"] = 12 in sections
    assert not head["varying"] or sections[12].varint() == 1, "stages by segment only"
    head["clock"] = 5 in sections
    if head["clock"]:
        head["time_base"] = (sections[5].varint(), sections[5].varint())
        head["frame_step"] = sections[5].varint()
    if 6 in sections:
        head["model"] = sections[6].take(sections[6].varint()).decode()
        head["model_id"] = sections[6].take(len(sections[6].data) - sections[6].at).hex()
    if 7 in sections:
        digits = sections[7]
        lists = [[digits.varint() for _ in range(digits.varint())] for _ in range(digits.varint() or 1)]
        head["digits"] = lists if len(lists) == stages else lists * stages
    else:
        head["digits"] = [[]] * stages
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


def mixed(data, t, h, w, vocabulary, digits, below):
    """Form 3 of mode adaptive: symbols through context mixing, and ids made of them."""
    parts, unit = [], 1
    for digit in digits or [vocabulary]:
        top = max(0, (digit - 1).bit_length() - 1) // 8 * 8
        parts += [(unit, top, (digit - 1 >> top) + 1, digit)] + [(unit, s, 256, digit) for s in range(top - 8, -1, -8)]
        unit *= digit
    n, cells = len(parts), h * w
    states, size = {}, 1 << min(20, max(12, (18 * t * cells * n).bit_length()))
    weights = [19660] * (n * 2 * 16 * 5)
    low, high, at, code = 0, 2**32 - 1, 4, int.from_bytes((bytes(data) + bytes(4))[:4], "big")
    got, under = [], [[id // u % d >> s & 255 for u, s, _, d in parts] for id in below or ()]
    for i in range(t * cells):
        past = got[i - cells] if i >= cells else [0] * n
        older = got[i - 2 * cells] if i >= 2 * cells else [0] * n
        left = got[i - 1] if i % w else [0] * n
        above = got[i - w] if i % cells >= w else [0] * n
        this, still, prefix = [], 1, 0
        for d, (_, _, levels, _) in enumerate(parts):
            first = this[0] if d else 4095
            other = under[i][d] * 4096 + under[i][0] if below else older[d] * 4096 + past[d]
            keys = (
                past[d] * 8192 + first * 2 + still,
                left[d] * 4096 + above[d],
                prefix,
                past[d] * 7997 + left[d] * 15145 + above[d] * 27671 + first * 17,
                (other * 7989 + first * 45) % 2**31,
            )
            starts = [(key * 0x2C9277B5 + (8 * d + c + 1) * 0x5851F42D) // 512 for c, key in enumerate(keys)]
            node, value, half = 1, 0, 1 << (levels - 1).bit_length()
            while half > 1:
                half //= 2
                if value + half >= levels:
                    node *= 2
                    continue
                spots = [(start ^ node * 0x9E5) % size for start in starts]
                known = [states.get(spot, (2**21, 0)) for spot in spots]
                logs = [256 * log(((q >> 10) + 0.5) / (4095.5 - (q >> 10))) for q, _ in known]
                opinions = [max(-2047, min(2047, round(x))) for x in logs]
                j = ((d * 2 + still) * 16 + node % 16) * 5
                odds = sum(o * v for o, v in zip(opinions, weights[j : j + 5], strict=True)) >> 16
                p = max(16, min(65520, round(65536 / (1 + exp(-max(-2047, min(2047, odds)) / 256)))))
                middle = low + ((high - low) // 65536) * p + (high - low) % 65536 * p // 65536
                bit = code <= middle
                low, high = (low, middle) if bit else (middle + 1, high)
                while low >> 24 == high >> 24:
                    low, high = low * 256 % 2**32, high * 256 % 2**32 + 255
                    code = code * 256 % 2**32 + (data[at] if at < len(data) else 0)
                    at += 1
                miss = (65536 * bit - p) * 8
                for k, o in enumerate(opinions):
                    weights[j + k] += (o * miss + 2**17) >> 18
                for spot, (q, seen) in zip(spots, known, strict=True):
                    rate = 655360 // (10 * seen + 17)
                    states[spot] = (q + (((2**22 - 1) * bit - q) * rate >> 16), min(seen + 1, 60))
                value += half * bit
                node = node * 2 + bit
            this.append(value)
            still = int(still and i >= cells and value == past[d])
            prefix = (prefix * 1491 + value + 1) % 2**31
        got.append(this)
    return [sum((v << s) * u for v, (u, s, _, _) in zip(this, parts, strict=True)) for this in got]


def find_prior(prior_id, first):
    """One of the priors beside the golden files, for a chunk whose first latent frame has that number."""
    from independent_prior import Prior, read_prior

    for path in sorted((Path(__file__).parent / "golden").glob("*.prior.safetensors")):
        if prior_id.encode() in path.read_bytes():
            return Prior(*read_prior(path.read_bytes()), first)
    raise AssertionError(f"no prior {prior_id}")


def latents_before(header, number):
    """Latent frames of the same segment before a chunk."""
    frames, stride, each = header["segment_frames"], header["time_stride"], header["chunk_latents"]
    if not frames:
        return number * each
    whole = 1 + -(-(frames - 1) // stride)
    return number % -(-whole // each) * each


def read_chunk(header, head, payload):
    number, flags, latents = head.varint(), head.varint(), head.varint()
    held = head.varint() if header["varying"] else len(header["vocabularies"])
    stages = [(head.varint(), head.u32(), head.u32()) for _ in range(held)]
    pts, data, columns = [], Bytes(payload), []
    course = find_prior(header["prior_id"], latents_before(header, number)) if header["prior_id"] else None
    if header["clock"]:
        frames, now, step = head.varint(), head.zigzag(), header["frame_step"]
        for i in range(frames):
            if i:
                step += head.zigzag() if flags & 1 else 0
                now += step
            pts.append(now)
    for k, ((size, crc, ids_crc), vocabulary) in enumerate(zip(stages, header["vocabularies"][:held], strict=True)):
        stored = data.take(size)
        width = 2 if vocabulary <= 1 << 16 else 4 if vocabulary <= 1 << 32 else 8
        if header["entropy"] == 2 and stored[0] == 3:
            digits = header["digits"][k]
            same = k and (header["digits"][k - 1], header["vocabularies"][k - 1]) == (digits, vocabulary)
            below = columns[-1] if same else None
            ids = mixed(stored[1:], latents, header["h"], header["w"], vocabulary, digits, below)
        elif course and stored[0] == 4:
            ids = course.stage(latents, header["h"], header["w"], stream=stored[1:])
        elif header["entropy"]:
            ids = expand(stored, latents, header["h"], header["w"], vocabulary, width)
        else:
            ids = unpack(stored, latents * header["h"] * header["w"], vocabulary)
        if course and stored[0] != 4:
            course.stage(latents, header["h"], header["w"], ids)
        assert zlib.crc32(stored) == crc and max(ids) < vocabulary
        assert zlib.crc32(b"".join(i.to_bytes(width, "little") for i in ids)) == ids_crc
        columns.append(ids)
    columns += [[-1] * len(columns[0])] * (len(header["vocabularies"]) - held)
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
