"""Read and write every golden file here and now, in several ways, and say as JSON what came of it.

    PYTHONPATH=. python tests/proof.py [--torch]

Run by tests/test_proof.py under other settings of numpy, BLAS and torch, and by scripts/check_other_environment under
other versions of them; needs numpy and safetensors only. --torch loads torch first, and tries its products as well.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from token_files import golden_files, prior_tensors

from vidtok.bitstream import mixing, network, prior, rans
from vidtok.bitstream.adaptive import to_symbols
from vidtok.bitstream.network import Network, PriorConfig
from vidtok.bitstream.prior import Course
from vidtok.bitstream.reader import TokenReader
from vidtok.bitstream.repack import repack
from vidtok.bitstream.writer import TokenWriter

TESTS = Path(__file__).resolve().parent


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ids_digest(ids: np.ndarray) -> str:
    """As in digests.json."""
    return sha256(ids.astype("<u8").tobytes())


def golden(name: str) -> dict[str, list[str]]:
    """Digests of the ids, each way to read them; and of the file, each way to write it."""
    stored, tile = TESTS / "golden" / name, network.TILE
    with TokenReader(stored) as reader:
        header, pts = reader.header, list(reader.pts)
        mode, whole = header.entropy, np.asarray(reader.ids[:])
        read = [whole, np.concatenate([whole[:0], *(reader.ids[i : i + 1] for i in range(reader.latents))])]
        damaged, last, sound = reader.damaged_source, reader.last_duration, b"".join(reader.audio())
    for other in (1, 7) if mode == "prior" else ():  # cells at once
        network.TILE = other
        with TokenReader(stored) as reader:
            read.append(np.concatenate([whole[:0], *(c.ids for c in reader.iter_chunks() if c.ids is not None)]))
    network.TILE = tile
    again, single = io.BytesIO(), io.BytesIO()
    repack(stored, again, entropy=mode)
    with TokenWriter(single, header) as sink:  # a latent frame at a time
        done = 0
        for i in range(len(whole)):
            end = header.geometry.frames(i + 1) if header.has_frames and not header.segment_frames else len(pts)
            sink.write(whole[i : i + 1], pts[done:end])
            done = max(done, end)
        if sound:
            sink.write_audio(sound)
        sink.finish(damaged_source=damaged, last_duration=last)
    written = [again.getvalue(), single.getvalue(), golden_files()[name]]
    return {"ids": sorted({ids_digest(ids) for ids in read}), "file": sorted({sha256(data) for data in written})}


def golden_stream() -> str:
    """Sum of streams of a network of the usual sizes with random weights, on a grid of several lanes and tiles."""
    config = PriorConfig(digits=(32, *[5] * 7), stages=2)
    learned = Network(config, prior_tensors(config, 3, 16, 3000))
    rng = np.random.default_rng(4)
    digest = hashlib.sha256()
    writing, reading = Course(learned, 30), Course(learned, 30)
    for _ in range(2):
        encoder = rans.Encoder()
        ids = rng.integers(0, config.vocabulary, (3, 33, 36)).astype("<u4")
        symbols = to_symbols(ids, learned.parts)
        writing.run(symbols, encoder.code)
        stream = encoder.finish(prior.log_lanes(encoder.information(), ids.shape))
        digest.update(stream)
        back, decoder = np.zeros(symbols.shape, np.uint8), rans.Decoder(stream)
        reading.run(back, decoder.code)
        decoder.finish()
        assert np.array_equal(back, symbols), "what was written is not what is read"
    return digest.hexdigest()[:16]


def features() -> list[str]:
    """Features of the CPU that numpy's own kernels may use, of those that it could do without."""
    core: Any = getattr(np, "_core", None) or np.core  # numpy 2, numpy 1
    umath = core._multiarray_umath
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


def torch_products() -> dict[str, Any]:
    """Whether torch's products are those of integers too, with oneDNN and without, and what it ran with."""
    import torch

    def product(a: Any, b: Any) -> Any:
        return (torch.from_numpy(a.copy()) @ torch.from_numpy(b.copy())).numpy()

    for one_dnn in (True, False):
        with torch.backends.mkldnn.flags(enabled=one_dnn):
            network.check_products.__wrapped__(product)
    return {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def main() -> None:
    """One line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true")
    options = parser.parse_args()
    os.environ["VIDTOK_PRIORS"] = str(TESTS / "golden")
    found: dict[str, Any] = {"torch": torch_products()} if options.torch else {}
    packages = ["numpy", "safetensors", *(["torch"] if options.torch else [])]
    packages += ["numba"] if mixing.compiled() else []
    found["versions"] = {"python": platform.python_version()} | {name: version(name) for name in packages}
    found["features"] = features()
    found["stream"] = golden_stream()
    found["files"] = {name: golden(name) for name in golden_files()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
