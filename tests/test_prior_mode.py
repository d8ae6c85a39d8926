"""Mode prior: any ids come back; the network gives the same numbers on every machine, as plain Python finds them;
broken and hostile payloads are errors, quickly."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import independent_prior as plain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from token_files import PRIOR, PRIOR_ID, PRIOR_MODEL, Pipe, make_file, prior_file, prior_header, prior_tensors

from vidtok.bitstream import network, prior, priors, rans
from vidtok.bitstream.adaptive import to_ids, to_symbols
from vidtok.bitstream.bits import bits_for, packed_bytes
from vidtok.bitstream.describe import describe
from vidtok.bitstream.header import id_bytes
from vidtok.bitstream.network import Network, Numbers, PriorConfig
from vidtok.bitstream.prior import Course
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import choose_entropy, repack
from vidtok.bitstream.writer import TokenWriter
from vidtok.errors import ConfigError, DamagedError, FormatError, ModelError, UnsupportedError

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"joint": 32, "period": 3, "embedding": 3, "state": 2, "features": 5, "hidden": 2}
DIGITS = [(8, 5, 5, 5), (2,) * 18, (1, 3, 1), (256, 7), (2,), (1,), (7,) * 12]
TINY = Network(PRIOR, prior_tensors(PRIOR))
FREE = PriorConfig(digits=(8, 5, 5, 5), free=2, stages=3, **SIZES)
LOOSE = Network(FREE, prior_tensors(FREE, 0, 127, 9000))


def tables(data: st.DataObject, batches: int) -> list[np.ndarray]:
    """Shares of 65536 as the coder takes them, (levels + 1, n) each."""
    found = []
    for _ in range(batches):
        levels, count = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
        weights = data.draw(hnp.arrays("i8", (levels, count), elements=st.sampled_from([0, 1, 7, 5000, 10**9])))
        logits = -16 * np.log(weights.max() + 1.0) + 16 * np.log(weights + 1.0)
        found.append(network.shares(np.floor(logits).astype(np.float32)))
    return found


# --- coder --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(0, 6), st.integers(0, 99))
def test_any_symbols_come_back_from_the_coder(data: st.DataObject, log_lanes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = tables(data, 4)
    for ends in batches:
        assert (ends[0] == 0).all() and (ends[-1] == 65536).all() and (np.diff(ends, axis=0) > 0).all()
    symbols = [rng.integers(0, len(ends) - 1, ends.shape[1]) for ends in batches]
    encoder = rans.Encoder()
    for ends, batch in zip(batches, symbols, strict=True):
        encoder.code(ends, batch)
    exact = sum(
        float((16 - np.log2(np.diff(ends, axis=0)[batch, np.arange(len(batch))])).sum())
        for ends, batch in zip(batches, symbols, strict=True)
    )
    count = sum(map(len, symbols))
    assert math.floor(exact - 1e-6) <= encoder.information() <= exact + 0.09 * count
    stream = encoder.finish(log_lanes)
    assert len(stream) <= 1 + 4 * (1 << log_lanes) + (exact + count) / 8
    for tail in (b"", b"\0", bytes(9)):
        decoder = rans.Decoder(stream + tail)
        for ends, batch in zip(batches, symbols, strict=True):
            assert np.array_equal(decoder.code(ends), batch)
        decoder.finish()
    with pytest.raises(FormatError, match="end where it should"):
        broken = rans.Decoder(stream + b"\1")
        for ends in batches:
            broken.code(ends)
        broken.finish()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.binary(max_size=80))
def test_any_bytes_are_symbols_or_an_error(data: st.DataObject, stream: bytes) -> None:
    batches = tables(data, 2)
    try:
        decoder = rans.Decoder(stream)
        for ends in batches:
            symbols = decoder.code(ends)
            assert len(symbols) == ends.shape[1] and symbols.min() >= 0 and symbols.max() < len(ends) - 1
        decoder.finish()
    except FormatError:
        return


# --- network ------------------------------------------------------------------------------------


def test_tables_do_not_hang_on_floats() -> None:
    """No entry is near the middle between two integers, where another library's exponential could round otherwise."""
    found = network.exponentials()
    for i, value in enumerate(found):
        exact = 65536 * math.exp(-i / 16)
        assert round(exact) == value and abs(abs(exact - round(exact)) - 0.5) > 1e-6
    assert hashlib.sha256(np.array(found, "<i4").tobytes()).hexdigest()[:8] == "68da4e2f"


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 9)), elements=st.integers(-3000, 3000)))
def test_shares_are_those_of_plain_numbers(logits: np.ndarray) -> None:
    shares = np.diff(network.shares(logits), axis=0)
    for column in range(logits.shape[1]):
        assert shares[:, column].tolist() == plain.shares([int(x) for x in logits[:, column]])


@settings(deadline=None, max_examples=25)
@given(st.data(), st.sampled_from(DIGITS), st.integers(0, 99), st.integers(0, 40), st.integers(0, 3))
def test_any_ids_come_back(data: st.DataObject, digits: tuple[int, ...], seed: int, first: int, free: int) -> None:
    config = PriorConfig(digits=digits, free=min(free, len(digits) - 1), block=1 + seed % 3, stages=3, **SIZES)
    learned = Network(config, prior_tensors(config, seed, 127, 9000))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
    dtype = f"<u{id_bytes(config.vocabulary)}"
    arrays = hnp.arrays(dtype, shape, elements=st.integers(0, config.vocabulary - 1))
    writing, reading, again = Course(learned, first), Course(learned, first), Course(learned, first)
    kept = Course(learned, first)
    for stage in range(3):
        ids = data.draw(arrays)
        if data.draw(st.booleans()):
            ids = in_the_middle(ids, learned) if stage else in_blocks(ids, learned)
        payload = prior.squeeze(ids, writing)
        assert 1 <= len(payload) <= 1 + packed_bytes(ids.size, bits_for(config.vocabulary))
        back = prior.expand(payload, shape, dtype, reading)
        assert back.dtype == ids.dtype and np.array_equal(back, ids)
        encoder, symbols = rans.Encoder(), to_symbols(ids, learned.parts)
        if not again.codes(symbols):  # then the stage cannot be of form 4
            wanted = in_the_middle(ids, learned) if stage else in_blocks(ids, learned)
            assert payload[0] != prior.LEARNED and not np.array_equal(ids, wanted)
            again.skip(ids)
            assert np.array_equal(prior.expand(payload, shape, dtype, kept), ids)
            continue
        again.run(symbols, encoder.code)
        theirs = bytes([prior.LEARNED]) + encoder.finish(1)
        assert np.array_equal(prior.expand(theirs, shape, dtype, kept), ids)


def in_the_middle(ids: np.ndarray, learned: Network) -> np.ndarray:
    """The same ids, but for free symbols."""
    symbols = to_symbols(ids, learned.parts)
    symbols[..., learned.tied :] = learned.config.middle
    return to_ids(symbols, learned.parts, ids.dtype.str)


def in_blocks(ids: np.ndarray, learned: Network) -> np.ndarray:
    """The same ids, but for free symbols, which are those of the first cell of their block."""
    symbols, size = to_symbols(ids, learned.parts), learned.config.block
    rows, columns = (np.arange(n) // size * size for n in ids.shape[1:])
    symbols[..., learned.tied :] = symbols[:, rows][:, :, columns][..., learned.tied :]
    return to_ids(symbols, learned.parts, ids.dtype.str)


@pytest.mark.parametrize(
    ("shape", "first", "free", "block"),
    [
        ((2, 3, 4), 0, 0, 1),
        ((3, 1, 1), 7, 0, 1),
        ((1, 1, 3), 2, 1, 1),
        ((2, 5, 2), 31, 2, 2),
        ((2, 9, 7), 5, 2, 1),
        ((2, 11, 9), 2, 3, 2),
    ],
)
def test_the_network_is_that_of_plain_numbers(
    shape: tuple[int, int, int], first: int, free: int, block: int
) -> None:
    """Weights at their limits, so that sums are as large as they get."""
    config = PriorConfig(digits=(6, 3, 4, 5), free=free, block=block, stages=2, **{**SIZES, "joint": 18})
    tensors = prior_tensors(config, 5, 127, 32767)
    learned = Network(config, tensors)
    theirs = plain.Prior(
        {"digits": list(config.digits), "free": free, "block": block, **SIZES, "joint": 18},
        {name: t.tolist() for name, t in tensors.items()},
        first,
    )
    rng = np.random.default_rng(0)
    course = Course(learned, first)
    for stage in range(2):
        ids = rng.integers(0, config.vocabulary, shape).astype("<u2")
        ids[:, :, : shape[2] // 2] = ids[:1, :1, :1]  # copied, in part
        ids = in_the_middle(ids, learned) if stage else in_blocks(ids, learned)
        encoder = rans.Encoder()
        course.run(to_symbols(ids, learned.parts), encoder.code)
        assert theirs.stage(*shape, stream=encoder.finish(1)) == ids.ravel().tolist()


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.integers(0, 128, (9, 7, 3)), rng.integers(-127, 128, (27, 4)).astype(np.float32)
    whole = network.convolve(values, weights)
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    for y, x in ((0, 0), (8, 6), (4, 3)):
        assert whole[y, x].tolist() == (padded[y : y + 3, x : x + 3].reshape(-1) @ weights.astype(np.int64)).tolist()
    for tile in (1, 7, 20):
        monkeypatch.setattr(network, "TILE", tile)
        assert np.array_equal(network.convolve(values, weights), whole)


def test_what_could_be_inexact_is_refused() -> None:
    config = PriorConfig(digits=(5, 5), features=512, state=64, embedding=64, hidden=4)
    with pytest.raises(ModelError, match=r"sums of a prior \(remember\) may reach"):
        Network(config, {name: np.full_like(t, 127) for name, t in prior_tensors(config).items()})
    config = PriorConfig(digits=(5, 5), free=1, features=3, state=3, embedding=3, hidden=1000)
    gates = {name: np.full_like(t, 127 * (name == "copy")) for name, t in prior_tensors(config).items()}
    with pytest.raises(ModelError, match=r"sums of a prior \(tell\) may reach 145161000"):
        Network(config, gates)  # nine cells that may be copied from
    odd = prior_tensors(PRIOR) | {"mix": np.zeros((3, 3), np.int8)}
    with pytest.raises(ModelError, match="first at mix"):
        Network(PRIOR, odd)
    network.check_products()
    for rough in (lambda a, b: a @ b // 2 * 2, lambda a, b: (a @ b).astype(np.int16).astype(np.float32)):
        with pytest.raises(ModelError, match="not exact"):
            network.check_products(rough)


@pytest.mark.parametrize(
    "changes",
    [
        {"free": 2},
        {"free": -1},
        {"block": 0},
        {"digits": ()},
        {"digits": (257,)},
        {"digits": (0,)},
        {"hidden": 0},
        {"stages": 65},
        {"digits": (256,) * 8},
    ],
    ids=str,
)
def test_configs_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PriorConfig(**({"digits": (4, 4)} | changes))  # type: ignore[arg-type]


# --- files --------------------------------------------------------------------------------------


def test_the_golden_prior_is_the_one_of_the_tests() -> None:
    data = (GOLDEN / ("tiny" + priors.SUFFIX)).read_bytes()
    config, tensors = plain.read_prior(data)
    assert config["digits"] == list(PRIOR.digits) and tensors["mix"] == prior_tensors(PRIOR)["mix"].tolist()
    assert priors.of_model(PRIOR_MODEL) == PRIOR_ID and priors.of_model("0" * 64) is None
    assert choose_entropy("auto", PRIOR_MODEL) == ("prior", PRIOR_ID)
    assert choose_entropy("auto", None) == ("lzma", None) and choose_entropy("raw", PRIOR_MODEL) == ("raw", None)


def test_files_are_read_anywhere_and_repacked_both_ways() -> None:
    header = prior_header(codebooks=3, quality=3, chunk_latents=4, segment_frames=21)
    data = make_file(header, 50, seed=3)
    with TokenReader(io.BytesIO(data)) as reader:
        ids = reader.ids[:].copy()
        assert describe(reader)["prior_id"] == PRIOR_ID and describe(reader)["entropy"] == "prior"
        assert np.array_equal(reader.ids[5:7], ids[5:7]) and np.array_equal(reader.ids[-1], ids[-1])
    for quality in (1, 2, 3):
        raw, low, again = io.BytesIO(), io.BytesIO(), io.BytesIO()
        repack(io.BytesIO(data), raw, entropy="raw", quality=quality)
        repack(Pipe(raw.getvalue()), low, entropy="auto")
        repack(io.BytesIO(data), again, entropy="prior", quality=quality)
        assert low.getvalue() == again.getvalue()
        assert len(low.getvalue()) < 0.95 * len(raw.getvalue())
        with TokenReader(io.BytesIO(low.getvalue())) as reader:
            assert np.array_equal(reader.ids[:], ids[..., :quality])
        with TokenReader(io.BytesIO(raw.getvalue())) as reader:
            assert reader.header.prior_id is None
    with TokenReader(io.BytesIO(low.getvalue())) as reader:
        assert np.array_equal(reader.ids[:], ids)


def test_a_prior_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_file(prior_header(), 9)
    monkeypatch.setenv(priors.FOLDERS, "")
    priors.load.cache_clear()
    with TokenReader(io.BytesIO(data)) as reader:
        assert reader.verify() == [] and reader.latents == 3
        with pytest.raises(UnsupportedError, match=f"prior {PRIOR_ID[:12]}, which is not here.*VIDTOK_PRIORS"):
            reader.read_chunk(0)


@pytest.mark.parametrize("changes", [{"digits": (5, 5, 5, 8)}, {"codebooks": 4, "quality": 4}], ids=str)
def test_a_prior_for_other_ids_is_refused(changes: dict[str, Any]) -> None:
    header = prior_header(**changes)
    sink = TokenWriter(io.BytesIO(), header)
    with pytest.raises(FormatError, match=r"3 stages of digits \[8, 5, 5, 5\];"):
        sink.write(np.zeros(header.grid_shape(3), np.int64), range(0, 9 * 3003, 3003))


def test_broken_prior_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(priors.FOLDERS, str(tmp_path))
    path, good = tmp_path / ("x" + priors.SUFFIX), prior_file()
    for data, words in (
        (good[:-1], "cannot be read"),
        (good[:-40] + bytes([good[-40] ^ 1]) + good[-39:], "do not match their content id"),
        (b"", "cannot be read"),
        (good.replace(b'\\"hidden\\"', b'\\"hiddem\\"'), "not a prior"),
    ):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=words):
            priors.read(path)
        assert all(entry.prior_id == PRIOR_ID for entry in priors.known() if entry.path == path)


def test_damage_is_named_and_stays_in_its_chunk() -> None:
    data = bytearray(make_file(prior_header(chunk_latents=4), 40))
    with TokenReader(io.BytesIO(bytes(data))) as reader:
        info, good = reader.chunk_info(1), reader.ids[:4].copy()
    data[info.offset + info.bytes - 3] ^= 16
    with TokenReader(io.BytesIO(bytes(data))) as reader:
        assert np.array_equal(reader.ids[:4], good)
        with pytest.raises(DamagedError, match="chunk 1"):
            reader.read_chunk(1)


def test_few_bytes_are_never_much_work() -> None:
    shape = (64, 64, 64)
    with pytest.raises(FormatError, match="too few"):
        prior.expand(bytes([prior.LEARNED]) + bytes(20), shape, "<u2", Course(TINY, 0))
    for payload in (b"", b"\3", b"\4", b"\4\0", b"\4\x09" + bytes(4096), b"\4\0" + bytes(90)):
        with pytest.raises(FormatError):
            prior.expand(payload, (2, 3, 2), "<u2", Course(TINY, 0))
    high = bytes([0]) + np.full(12, 1000, "<u2").tobytes()  # packed, in more bits than the vocabulary needs
    with pytest.raises(FormatError):
        prior.expand(high, (2, 3, 2), "<u2", Course(TINY, 0))


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=60), st.sampled_from([TINY, LOOSE]), st.integers(0, 1))
def test_any_bytes_are_ids_or_an_error(payload: bytes, learned: Network, stage: int) -> None:
    course = Course(learned, 0)
    for _ in range(stage):
        course.skip(np.zeros((2, 3, 2), "<u2"))
    try:
        ids = prior.expand(bytes([prior.LEARNED, 0]) + payload, (2, 3, 2), "<u2", course)
    except FormatError:
        return
    assert ids.shape == (2, 3, 2) and ids.dtype == "<u2" and int(ids.max()) < 1000
    if stage and learned is LOOSE:
        assert (ids // 40 == 12).all()


def test_free_symbols_above_the_first_stage_cost_nothing() -> None:
    """In the middle they are not told at all; elsewhere the stage is stored as in lzma mode; those after it work."""
    rng = np.random.default_rng(0)
    shape, batches = (3, 9, 8), []
    any_ids = rng.integers(0, 1000, shape).astype("<u2")
    middle = in_the_middle(any_ids, LOOSE)
    course = Course(LOOSE, 0)

    def count(ends: Numbers, symbols: Numbers) -> Numbers:
        batches.append(len(symbols))
        return symbols

    for ids in (any_ids, middle):
        course.run(to_symbols(ids, LOOSE.parts), count)
    turns = [6, 4, 6, 4, 16, 20, 16]  # cells
    assert batches[:14] == [cells for cells in turns for _ in range(2)]
    assert len(batches) == 3 * (14 + 4 * 2) + 3 * 4 * 2  # three latent frames; two other symbols in four passes
    assert np.array_equal(in_the_middle(middle, LOOSE), middle)
    writing, reading = Course(LOOSE, 0), Course(LOOSE, 0)
    for stage, ids in enumerate((any_ids, any_ids, middle)):
        payload = prior.squeeze(ids, writing)
        assert stage != 1 or payload[0] != prior.LEARNED
        assert np.array_equal(prior.expand(payload, shape, "<u2", reading), ids)


def test_config_in_the_file_is_json() -> None:
    """Whoever reads priors in another language finds all of it in the metadata."""
    data = prior_file()
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(head["__metadata__"]) == {"format", "description", "model_id", "content_id", "config"}
    assert head["__metadata__"]["content_id"] == PRIOR_ID
