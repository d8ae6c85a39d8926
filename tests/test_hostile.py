"""Hostile streams and hostile priors: no hang (work is counted, not timed), no balloon, one line of error."""

from __future__ import annotations

import io
import json
import os
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from token_files import PRIOR, PRIOR_ID, golden_files, make_file, make_header, prior_file, prior_header, prior_tensors

from vidtok.bitstream import adaptive, coding, lz, mixing, network, prior, priors, rans
from vidtok.bitstream.network import Network, PriorConfig
from vidtok.bitstream.prior import Course
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.records import ChunkHead, Stage, check_sizes, frame_record
from vidtok.errors import ConfigError, FormatError, ModelError, UnsupportedError

FILES = golden_files()
CODED = [name for name in FILES if name.startswith(("lzma", "adaptive", "prior"))]
TINY = Network(PRIOR, prior_tensors(PRIOR))


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Fail if more bytes than that are held at any time within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < count
    finally:
        tracemalloc.stop()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What is done: cells that went through a network, symbols decoded by it, symbols of context mixing."""
    done = {"cells": 0, "symbols": 0, "mixed": 0}

    def count(owner: Any, name: str, key: str, of: Callable[..., int]) -> None:
        was = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            done[key] += of(*arguments)
            return was(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    count(network, "convolve", "cells", lambda values, weights: values.shape[0] * values.shape[1])
    count(rans.Decoder, "code", "symbols", lambda self, ends, symbols=None: ends.shape[1])
    count(mixing, "expand", "mixed", lambda payload, below, shape, levels: int(np.prod(shape)) * len(levels))
    return done


# --- streams ------------------------------------------------------------------------------------


def with_payload(data: bytes, number: int, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A file up to chunk `number`, its stored bytes changed and all checksums put right but those of ids."""
    with TokenReader(io.BytesIO(data)) as reader:
        head, payloads = reader.read_payloads(number)
        info, seed, header = reader.chunk_info(number), reader.seed, reader.header
    changed = change(payloads)
    stages = [Stage(len(p), zlib.crc32(p), old.ids_crc) for p, old in zip(changed, head.stages, strict=True)]
    front, _ = frame_record(b"C", head._replace(stages=tuple(stages)).to_bytes(header), seed)
    return data[: info.offset] + front + b"".join(changed)


@pytest.mark.parametrize("name", CODED)
def test_other_bytes_under_right_checksums(name: str, steps: dict[str, int]) -> None:
    """Stored bytes that were made up are an error of one line (ids have a checksum too), in steps that ids bound."""
    rng = random.Random(name)
    with TokenReader(io.BytesIO(FILES[name])) as reader:
        number = len(reader.chunks) - 1
        right = reader.read_chunk(number).copy()
        symbols = right.size * max(len(adaptive.parts(v, ())) + 8 for v in reader.header.vocabularies)

    def change(payloads: list[bytes]) -> list[bytes]:
        k = rng.randrange(len(payloads))
        own = bytearray(payloads[k])
        for _ in range(rng.choice((1, 1, 2, 9))):
            own[rng.randrange(len(own))] = rng.randrange(256)
        own = own[: rng.randrange(1, len(own) + 1)] if rng.random() < 0.3 else own
        own += rng.randbytes(rng.choice((0, 0, 0, 1, 7)))
        return [bytes(own) if i == k else payload for i, payload in enumerate(payloads)]

    with at_most(8 << 20):
        for _ in range(25 if "prior" in name else 80):
            before = dict(steps)
            with TokenReader(io.BytesIO(with_payload(FILES[name], number, change)), recover=True) as reader:
                try:
                    assert np.array_equal(reader.read_chunk(number), right)
                except FormatError as error:
                    assert f"chunk {number}: " in str(error) and "\n" not in str(error)
            assert steps["cells"] - before["cells"] <= 3 * right.size
            assert steps["symbols"] - before["symbols"] <= symbols and steps["mixed"] - before["mixed"] <= symbols


def forged(header: Any, latents: int, payloads: list[bytes]) -> tuple[ChunkHead, list[bytes]]:
    stages = tuple(Stage(len(payload), zlib.crc32(payload), 0) for payload in payloads)
    return ChunkHead(0, latents, range(latents), stages), payloads


@pytest.mark.parametrize("entropy", ["lzma", "adaptive", "prior"])
def test_counts_that_few_bytes_cannot_hold(entropy: str, steps: dict[str, int]) -> None:
    """Refused before room is made and before any work, whatever the form."""
    sides = {"grid_height": 2000, "grid_width": 2000, "width": 16000, "height": 16000, "chunk_latents": 65535}
    header = prior_header(**sides) if entropy == "prior" else make_header(entropy=entropy, **sides)
    for latents, refusal in ((65535, "make chunks shorter"), (4, "too few|take 20000000 bytes|does not hold|broken")):
        for form in range(5):
            head, payloads = forged(header, latents, [bytes([form]) + bytes(50)])
            with at_most(40 << 20), pytest.raises(FormatError, match=refusal + "|form") as refused:
                check_sizes(head, header)
                coding.decode_stages(payloads, head, header)
            assert "\n" not in str(refused.value)
    assert steps == {"cells": 0, "symbols": 0, "mixed": 0}


def test_stages_that_nobody_asks_about_cost_no_work(steps: dict[str, int]) -> None:
    """Few bytes of LZMA are many ids, quickly read; a prior goes through them only for a stage that it codes."""
    sides = {"grid_height": 512, "grid_width": 512, "width": 4096, "height": 4096, "chunk_latents": 4}
    header = prior_header(codebooks=2, quality=2, **sides)
    still = np.zeros((4, 512, 512), "<u2")
    payload = lz.squeeze(still, header.vocabularies[0])
    assert len(payload) < 1000
    stages = tuple(Stage(len(payload), zlib.crc32(payload), zlib.crc32(still.data)) for _ in range(2))
    head = ChunkHead(0, 4, range(4), stages)
    with at_most(24 * still.size):
        assert not coding.decode_stages([payload, payload], head, header).any()
    assert steps == {"cells": 0, "symbols": 0, "mixed": 0}
    with pytest.raises(FormatError, match="too few"):
        coding.decode_stages(*forged_pair(payload, bytes([prior.LEARNED]) + bytes(900), stages[0]), header)
    assert steps["cells"] == 0


def forged_pair(sound: bytes, other: bytes, stage: Stage) -> tuple[list[bytes], ChunkHead]:
    return [sound, other], ChunkHead(0, 4, range(4), (stage, Stage(len(other), zlib.crc32(other), 0)))


def test_one_stage_is_remembered_at_most() -> None:
    """t * h * w * (state + embedding) bytes, whatever the number of stages; nothing where there is but one."""
    config = PriorConfig(digits=(2,), stages=3, embedding=60, state=68, features=2, hidden=1)
    learned = Network(config, prior_tensors(config, weight=20))
    symbols = np.zeros((40, 40, 40, 1), np.uint8)
    each, working = symbols.size * 128, 12 << 20  # bytes of a stage; of a latent frame while it is coded
    for stages, most in ((1, 0), (3, each)):
        course = Course(learned, 0, stages)
        with at_most(most + working):
            for _ in range(stages):
                course.run(symbols, lambda ends, told: told)


# --- priors -------------------------------------------------------------------------------------


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(head: Any, body: bytes) -> bytes:
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_config(text: str) -> bytes:
    head, body = split(prior_file())
    head["__metadata__"]["config"] = text
    return joined(head, body)


def with_tensor(name: str, **changes: Any) -> bytes:
    head, body = split(prior_file())
    head[name] |= changes
    return joined(head, body)


def config_with(**changes: Any) -> str:
    return json.dumps(json.loads(split(prior_file())[0]["__metadata__"]["config"]) | changes)


def mix_as(kind: str, width: int) -> bytes:
    """The file with `mix` as 8 x 8 numbers of another type at the end; floats are NaN."""
    head, body = split(prior_file())
    head["mix"] = {"dtype": kind, "shape": [8, 8], "data_offsets": [len(body), len(body) + 64 * width]}
    start = split(prior_file())[0]["mix"]["data_offsets"]
    for tensor in head.values():
        if "data_offsets" in tensor and tensor["data_offsets"][0] > start[0]:
            tensor["data_offsets"] = [offset - 64 for offset in tensor["data_offsets"]]
    return joined(head, body[: start[0]] + body[start[1] :] + b"\xff" * 64 * width)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "cannot be read"),
    "a header of exabytes": (b"\xff" * 7 + b"\x7f" + b"{}", "cannot be read"),
    "a header that is no JSON": (joined("x", b""), "cannot be read"),
    "config: no JSON": (with_config("{"), "config is missing or not valid"),
    "config: a list": (with_config("[]"), "config is missing or not valid"),
    "config: deep": (with_config("[" * 100_000), "config is missing or not valid"),
    "config: a number of many digits": (with_config('{"digits": [' + "9" * 9000 + "]}"), "config is missing or not"),
    "config: huge": (with_config(config_with(features=1 << 40)), "features is 1 to 1024"),
    "config: large in every way": (
        with_config(config_with(features=1024, hidden=1024, embedding=1024, state=1024, digits=[32] * 12)),
        "weights at most",
    ),
    "config: many digits": (with_config(config_with(digits=[256] * 50_000)), "digits, got 50000"),
    "config: digits of no level": (with_config(config_with(digits=[0, 5])), "levels"),
    "config: NaN": (with_config('{"digits": [8, NaN]}'), "not valid"),
    "config: infinity": (with_config('{"digits": [1e999]}'), "not valid"),
    "config: floats": (with_config(config_with(hidden=4.0)), "hidden: 4.0 is not a int"),
    "config: negative": (with_config(config_with(period=-1)), "period is 1 to 4096"),
    "config: true": (with_config(config_with(stages=True)), "stages: True"),
    "config: another": (with_config(config_with(period=3)), "do not fit its config, first at known_phase"),
    "a tensor of another shape": (with_tensor("mix", shape=[4, 16]), "first at mix"),
    "a tensor beyond the file": (with_tensor("mix", shape=[1 << 30, 1 << 30]), "cannot be read"),
    "numbers without sign": (with_tensor("mix", dtype="U8"), "first at mix"),
    "NaN": (mix_as("F32", 4), "first at mix"),
    "NaN in 16 bits": (mix_as("BF16", 2), "first at mix"),
    "numbers of 64 bits": (mix_as("I64", 8), "first at mix"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_prior_files(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with one short line, in little memory, when read; never taken for a prior that can be used."""
    data, words = HOSTILE[case]
    path = tmp_path / ("x" + priors.SUFFIX)
    path.write_bytes(data)
    with at_most((64 << 20) + 12 * len(data)), pytest.raises(ModelError, match=words) as refused:
        priors.read(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    monkeypatch.setenv(priors.FOLDERS, str(tmp_path))
    priors.load.cache_clear()
    try:
        with pytest.raises((ModelError, UnsupportedError)):
            priors.load(PRIOR_ID)
    finally:
        priors.load.cache_clear()


def test_any_change_of_a_prior_is_noticed(tmp_path: Path) -> None:
    """All bytes but those of the names and words in the metadata count."""
    rng, good, path = random.Random(1), prior_file(), tmp_path / "x"
    noticed = 0
    with at_most(8 << 20):
        for _ in range(300):
            data = bytearray(good)
            for _ in range(rng.choice((1, 1, 3))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
            try:
                found = priors.read(path)
            except ModelError as error:
                assert "\n" not in str(error)
                noticed += 1
            else:
                assert priors.content_id(found.config, found.tensors) == PRIOR_ID
    assert noticed > 270


@pytest.mark.parametrize("name", ["remember", "known", "below", "near"])
def test_weights_beyond_exactness(name: str) -> None:
    config = PriorConfig(digits=(32,) * 12, stages=1, joint=32, embedding=512, state=512, features=1024, hidden=16)
    tensors = {n: np.zeros(shape, kind) for n, (kind, shape) in config.shapes().items()}
    Network(config, tensors)
    tensors[name][:] = -128
    with pytest.raises(ModelError, match=r"sums of a prior \((remember|known)\) may reach"):
        Network(config, tensors)


def test_sums_at_the_limit() -> None:
    config = PriorConfig(digits=(2,), features=1024, embedding=1, state=1, hidden=1)
    tensors = {n: np.zeros(shape, kind) for n, (kind, shape) in config.shapes().items()}
    tensors["mix"][:] = 127
    tensors["mix_bias"][:] = 32767
    Network(config, tensors)  # 1024 * 127 * 127 + 32767, just below 2^24
    assert 1024 * 127 * 127 + 32767 < 1 << 24 < 1024 * 128 * 128 + 1
    tensors["known_stage"][:], tensors["known_pass"][:] = 32767, 32767
    Network(config, tensors)
    with pytest.raises(ConfigError, match="features is 1 to 1024"):
        PriorConfig(digits=(2,), features=1025)


def test_odd_things_in_folders_of_priors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes, folders, links that lead nowhere or to themselves, names with controls: passed over, and nobody waits."""
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.mkdir()
    good.mkdir()
    os.mkfifo(bad / ("a" + priors.SUFFIX))
    (bad / ("b" + priors.SUFFIX)).mkdir()
    (bad / ("c" + priors.SUFFIX)).symlink_to("c" + priors.SUFFIX)
    (bad / ("d" + priors.SUFFIX)).symlink_to("/dev/zero")
    (bad / ("e" + priors.SUFFIX)).symlink_to(tmp_path / "gone")
    head, body = split(prior_file())
    for name, content_id in (("f", "../../x"), ("g", ""), ("h\n\x1b[2J", "A" * 64)):
        head["__metadata__"]["content_id"] = content_id
        (bad / (name + priors.SUFFIX)).write_bytes(joined(head, body))
    body = body[:-1] + bytes([body[-1] ^ 1])
    head["__metadata__"]["content_id"] = PRIOR_ID
    (bad / ("i" + priors.SUFFIX)).write_bytes(joined(head, body))
    monkeypatch.setenv(priors.FOLDERS, os.pathsep.join([str(bad), str(tmp_path / "none"), "", str(good)]))
    priors.load.cache_clear()
    assert [entry.path.name[0] for entry in priors.known()] == ["i"]
    with pytest.raises(ModelError, match="do not match their content id"):
        priors.load(PRIOR_ID)
    for name in "abcde":
        with pytest.raises(ModelError, match="cannot be read"):
            priors.read(bad / (name + priors.SUFFIX))
    (good / ("sound" + priors.SUFFIX)).write_bytes(prior_file())
    assert priors.load(PRIOR_ID).tensors["mix"].tolist() == prior_tensors(PRIOR)["mix"].tolist()
    priors.load.cache_clear()


def test_a_hostile_prior_on_the_command_line(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on stderr, exit code 1, for a file whose prior is not what it says."""
    file = tmp_path / "a.vtok"
    file.write_bytes(make_file(prior_header(), 9))
    head, body = split(prior_file())
    head["mix"]["shape"] = [4, 16]
    (tmp_path / ("bad\n" + priors.SUFFIX)).write_bytes(joined(head, body))
    monkeypatch.setenv(priors.FOLDERS, str(tmp_path))
    priors.load.cache_clear()
    for command in (["export", file, "-o", tmp_path / "a.npy"], ["repack", file, "-o", tmp_path / "b.vtok"]):
        ran = run(*command, *(["--entropy", "raw"] if command[0] == "repack" else []))
        assert ran.code == 1 and ran.err.count("\n") == 1 and "first at mix" in ran.err and "\\n" in ran.err
    assert run("info", file).code == 0
    priors.load.cache_clear()
