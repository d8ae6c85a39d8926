"""Choosing a quality for each segment: the whole video is encoded at the highest one first, then cut.

    frames -> EncodeStream, all stages -> token file, temporary -> the stages chosen of each segment -> token file
         \\-> decoders of every quality -> PSNR of each segment /

The ids of a lower quality are a prefix of those of a higher one, and so are the bytes of a chunk: what every choice
costs is known exactly, and cutting needs no second encoding. What is kept in memory is a few numbers a chunk. Where ids
are refined there are two such takes of the video, plain and refined, and segments are chosen from both.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vidtok.bitstream.container import TokenHeader, TokenReader, TokenWriter
from vidtok.bitstream.records import CHUNK, ChunkHead, frame_record
from vidtok.bitstream.repack import of_quality
from vidtok.bitstream.trailer import Index, write_trailer
from vidtok.bitstream.wire import varint
from vidtok.codec.options import EncodeOptions, Warn
from vidtok.metrics.fidelity import psnr_of
from vidtok.model.model import Model
from vidtok.model.stream import Schedule

MOST_TRIES = 16  # corrections of a budget by the few bytes that are known only when all is chosen


class Gauge:
    """The PSNR of every quality, from what decoders make of the ids: exactly that of the file cut to it."""

    def __init__(self, model: Model, height: int, width: int, schedule: Schedule) -> None:
        self._streams = [model.decoder(height, width, schedule) for _ in range(model.qualities)]
        self._waiting: list[np.ndarray] = []  # frames of which no ids came yet
        self._values: list[list[float]] = [[] for _ in self._streams]  # of the frames of the running segment
        self.segments: list[tuple[float, ...]] = []  # for each segment the sum over its frames at quality 1, 2, ...

    def push(self, frames: np.ndarray, ids: np.ndarray) -> None:
        """Frames (T, H, W, 3) uint8 and the ids (n, h, w, qualities) that came when they were encoded."""
        if len(frames):
            self._waiting.append(frames)
        if not len(ids):
            return
        source = np.concatenate(self._waiting)
        count = 0
        for quality, (stream, values) in enumerate(zip(self._streams, self._values, strict=True), 1):
            decoded = stream.push(ids[..., 0] if quality == 1 else ids[..., :quality])[: len(source)]
            count = len(decoded)
            values += [frame_psnr(a, b) for a, b in zip(source, decoded, strict=False)]
        self._waiting = [source[count:]]

    def end_segment(self) -> None:
        """What is pushed afterwards starts anew."""
        if self._values[0]:
            self.segments.append(tuple(math.fsum(values) for values in self._values))
        self._values = [[] for _ in self._streams]
        self._waiting = []
        for stream in self._streams:
            stream.restart()


def frame_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR over RGB of a frame (H, W, 3) uint8, as `eval` has it: 100 dB where both are equal."""
    off = a.astype(np.int32) - b
    return psnr_of(int(np.einsum("ijk,ijk->", off, off, dtype=np.int64)) / off.size)


class Take(NamedTuple):
    """The video encoded one way, with all stages."""

    reader: TokenReader
    gauge: Gauge | None


class Medley:
    """Segments of takes of the same video, put together: `sources` says for each segment which take it is from."""

    def __init__(self, takes: Sequence[Take], sources: Sequence[int]) -> None:
        self._readers, self.sources = [take.reader for take in takes], sources
        first = self._readers[0]
        self.header, self.chunks, self.segments, self.frames = first.header, first.chunks, first.segments, first.frames
        self.summary, self.damaged_source, self.last_duration = first.summary, first.damaged_source, first.last_duration
        self.audio = first.audio
        gauges = [take.gauge.segments for take in takes if take.gauge]
        self.sums = [gauges[k][segment] for segment, k in enumerate(sources)] if gauges else []  # of PSNR, by quality

    def _reader(self, chunk: int) -> TokenReader:
        return self._readers[self.sources[self.chunks[chunk].segment]]

    def read_head(self, chunk: int) -> ChunkHead:
        return self._reader(chunk).read_head(chunk)

    def read_payloads(self, chunk: int) -> tuple[ChunkHead, list[bytes]]:
        return self._reader(chunk).read_payloads(chunk)


class Costs:
    """The bytes of a file, less its audio, for any choice of stages, from one that holds all of them everywhere."""

    def __init__(self, reader: TokenReader | Medley) -> None:
        self.reader, self.header = reader, reader.header
        self.segment_of = [chunk.segment for chunk in reader.chunks]
        heads = [reader.read_head(chunk.number) for chunk in reader.chunks]
        self._records = {varying: [self._sizes(head, varying) for head in heads] for varying in (False, True)}

    def _sizes(self, head: ChunkHead, varying: bool) -> list[int]:
        """Bytes of a chunk at quality 1, 2, ... in a file whose segments differ, or do not."""
        header = replace(self.header, varying=varying)
        return [_record_bytes(head, stages, header) for stages in range(1, header.stages + 1)]

    def segments(self) -> list[list[int]]:
        """Bytes of each segment at quality 1, 2, ... in a file whose segments differ: its records and index entries."""
        found = [[0] * self.header.stages for _ in range(self.reader.segments)]
        for segment, sizes in zip(self.segment_of, self._records[True], strict=True):
            for k, size in enumerate(sizes):
                found[segment][k] += size + 1 + len(varint(size)) + 4
        return found

    def total(self, stages: Sequence[int]) -> int:
        """Bytes of the file with so many stages in each segment, audio records left out."""
        header = header_for(self.header, stages)
        start = position = len(header.to_bytes())
        index = Index()
        for segment, sizes in zip(self.segment_of, self._records[header.varying], strict=True):
            index.add(position, sizes[stages[segment] - 1], 0)
            position += index.lengths[-1]
        return position + len(write_trailer(self.reader.summary, index, header, start, 0, position))


def _record_bytes(head: ChunkHead, stages: int, header: TokenHeader) -> int:
    held = head._replace(stages=head.stages[:stages])
    front, _ = frame_record(CHUNK, held.to_bytes(header), 0)
    return len(front) + held.payload_bytes


def header_for(header: TokenHeader, stages: Sequence[int]) -> TokenHeader:
    """The header of a file with so many stages in each segment, cut from one that holds all in all."""
    most = max(stages, default=1)
    return replace(of_quality(header, most), varying=len(set(stages)) > 1)


# --- choosing -----------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """Stages of each segment, what they are cut from, and the mean PSNR of all frames where it was measured."""

    stages: Sequence[int]
    source: Medley
    psnr: float | None


def choose(takes: Sequence[Take], options: EncodeOptions, warn: Warn) -> Chosen:
    """What the target of `options` asks for, of takes that have all stages. What cannot be reached is said once."""
    reader = takes[0].reader
    frames = [reader.header.segment_frames] * reader.segments
    if frames:
        frames[-1] = reader.frames - sum(frames[:-1])
    if options.target_psnr is not None:
        chosen = _by_psnr(takes, options.target_psnr, frames)
        own = zip(chosen.source.sums, chosen.stages, frames, strict=True)
        low = sum(sums[q - 1] / n < options.target_psnr for sums, q, n in own)
        if low:
            warn(f"{low} of {len(frames)} segments stay below {options.target_psnr:g} dB at the highest quality")
        return chosen
    assert options.target_bpp is not None
    pixels = reader.frames * (reader.header.width or 0) * (reader.header.height or 0)
    chosen, size = _by_bytes(takes, options.target_bpp * pixels / 8)
    if size * 8 / pixels > options.target_bpp:
        bpp = size * 8 / pixels
        warn(f"--target-bpp {options.target_bpp:g} cannot be reached: quality 1 takes {bpp:.4f} bits per pixel")
    return chosen


def _by_psnr(takes: Sequence[Take], wanted: float, frames: Sequence[int]) -> Chosen:
    """Of each segment the take that reaches `wanted` dB with fewest bytes, else the one that comes nearest."""
    ways = [Medley(takes, [k] * len(frames)) for k in range(len(takes))]
    plans = [for_psnr(wanted, way.sums, frames) for way in ways]
    sizes = [Costs(way).segments() for way in ways]

    def loss(segment: int, take: int) -> tuple[bool, float]:
        quality = plans[take][segment]
        found = ways[take].sums[segment][quality - 1]
        short = found / frames[segment] < wanted
        return short, -found if short else sizes[take][segment][quality - 1]

    sources = [min(range(len(takes)), key=lambda k: loss(i, k)) for i in range(len(frames))]
    return _chosen(Medley(takes, sources), [plans[k][i] for i, k in enumerate(sources)])


def _by_bytes(takes: Sequence[Take], budget: float) -> tuple[Chosen, int]:
    """The best that `budget` bytes can be, and its bytes: all segments of one take, or of each the better one."""
    segments = range(takes[0].reader.segments)
    ways = [Medley(takes, [k] * len(segments)) for k in range(len(takes))]
    if len(takes) > 1:
        curves = [list(zip(Costs(way).segments(), way.sums, strict=True)) for way in ways]
        ways.append(Medley(takes, [int(above(curves[1][i], curves[0][i]) > 0) for i in segments]))

    def plan(way: Medley) -> tuple[Chosen, int]:
        costs = Costs(way)
        stages = for_bytes(costs, budget, way.sums or [tuple(range(1, costs.header.stages + 1))] * len(segments))
        return _chosen(way, stages), costs.total(stages)

    def worth(found: tuple[Chosen, int]) -> tuple[bool, float, int]:
        chosen, size = found
        return size <= budget, (chosen.psnr or 0.0) if size <= budget else -size, -size

    return max(map(plan, ways), key=worth)


Curve = tuple[Sequence[float], Sequence[float]]


def above(one: Curve, other: Curve) -> float:
    """By how much a curve (bytes, sums of PSNR), rising, lies above another: the mean over the logarithm of the bytes
    that both have; where they have none in common, by the ends."""
    (sizes, sums), (others, other_sums) = ((np.log(bytes_), gains) for bytes_, gains in (one, other))
    at = np.linspace(max(sizes[0], others[0]), min(sizes[-1], others[-1]), 33)
    if at[0] >= at[-1]:
        return float(sums[-1] - other_sums[-1])
    return float(np.mean(np.interp(at, sizes, sums) - np.interp(at, others, other_sums)))


def _chosen(source: Medley, stages: Sequence[int]) -> Chosen:
    total = math.fsum(sums[q - 1] for sums, q in zip(source.sums, stages, strict=True)) if source.sums else None
    return Chosen(stages, source, None if total is None else total / source.frames)


def for_bytes(costs: Costs, budget: float, gains: Sequence[Sequence[float]]) -> list[int]:
    """Stages of each segment so that the file, its audio left out, has at most `budget` bytes; all 1 if it cannot.

    `gains`: for each segment how good quality 1, 2, ... are (sums of the PSNR of its frames). What is chosen is
    the better of one quality for all, and of steps up in the order of what they gain a byte, as long as they fit.
    """
    count, most = costs.reader.segments, costs.header.stages
    same = [[quality] * count for quality in range(1, most + 1)]
    plans = [plan for plan in same if costs.total(plan) <= budget] or same[:1]
    if count > 1 and most > 1 and (mixed := _mixed(costs, budget, gains)):
        plans.append(mixed)

    def worth(plan: list[int]) -> tuple[float, int]:
        return math.fsum(gains[i][q - 1] for i, q in enumerate(plan)), -costs.total(plan)

    return max(plans, key=worth)


def _mixed(costs: Costs, budget: float, gains: Sequence[Sequence[float]]) -> list[int] | None:
    """The plan of steps up; None where even none of them fits (segments that differ cost a byte a chunk)."""
    sizes = costs.segments()
    uneven = [costs.header.stages] + [1] * (len(sizes) - 1)
    beside = costs.total(uneven) - sum(size[q - 1] for size, q in zip(sizes, uneven, strict=True))
    left = budget - beside
    for _ in range(MOST_TRIES):  # what is beside the segments may take a few bytes more
        plan = _climb(sizes, gains, left)
        excess = costs.total(plan) - budget
        if excess <= 0:
            return plan
        left -= excess
    return None


def _climb(sizes: Sequence[Sequence[int]], gains: Sequence[Sequence[float]], budget: float) -> list[int]:
    """Steps up from quality 1 everywhere, the one of the largest gain a byte first, as long as `budget` bytes last."""
    plan = [1] * len(sizes)
    left = budget - sum(size[0] for size in sizes)
    steps: list[tuple[float, int, int]] = []

    def offer(segment: int) -> None:
        """The best step of a segment that fits: (minus gain a byte, segment, quality)."""
        now = plan[segment]
        found = []
        for quality in range(now + 1, len(sizes[segment]) + 1):
            gain = gains[segment][quality - 1] - gains[segment][now - 1]
            price = sizes[segment][quality - 1] - sizes[segment][now - 1]
            if gain > 0 and price <= left:
                found.append((-gain / max(price, 1), segment, quality))
        if found:
            heapq.heappush(steps, min(found))

    for segment in range(len(sizes)):
        offer(segment)
    while steps:
        _, segment, quality = heapq.heappop(steps)
        price = sizes[segment][quality - 1] - sizes[segment][plan[segment] - 1]
        if price <= left:
            plan[segment] = quality
            left -= price
        offer(segment)  # from here on, or, where that no longer fits, a smaller one
    return plan


def for_psnr(wanted: float, segments: Sequence[Sequence[float]], frames: Sequence[int]) -> list[int]:
    """The lowest quality of each segment whose mean PSNR reaches `wanted` dB, else the highest.

    `segments`: sums over so many `frames` at quality 1, 2, ...
    """
    plan = []
    for sums, count in zip(segments, frames, strict=True):
        enough = [quality for quality, total in enumerate(sums, 1) if total / count >= wanted]
        plan.append(enough[0] if enough else len(sums))
    return plan


def cut(reader: TokenReader | Medley, sink: TokenWriter, stages: Sequence[int]) -> None:
    """Copy a file to one with `header_for` these stages, as many of each segment; nothing is coded anew."""
    for chunk in reader.chunks:
        head, payloads = reader.read_payloads(chunk.number)
        kept = stages[chunk.segment]
        sink.write_stored(head._replace(stages=head.stages[:kept]), payloads[:kept])
    for piece in reader.audio():
        sink.write_audio(piece)
    sink.finish(damaged_source=reader.damaged_source, last_duration=reader.last_duration)
