"""Ids to train a prior on: whole token files in memory, cut into batches that follow from (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidtok.bitstream.adaptive import to_symbols
from vidtok.bitstream.free import fit
from vidtok.bitstream.lattice import TURNS
from vidtok.bitstream.network import PriorConfig
from vidtok.bitstream.reader import TokenReader
from vidtok.errors import ConfigError

Symbols = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stretch:
    """Latent frames that a chunk would hold, and the number of the first in its segment."""

    file: int
    start: int
    latents: int
    place: int


def find_files(names: Sequence[str]) -> list[Path]:
    """Token files and those in folders (*.vtok, at any depth), in order; ConfigError where a name leads nowhere."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        files = sorted(path.rglob("*.vtok")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise ConfigError(f"{name}: no token file there")
        found += files
    return found


class TokenData:
    """The ids of some files of one model as symbols (t, h, w, K, n)."""

    def __init__(self, files: Sequence[Path], latents: int, joint: int, free: int = 0, block: int = 1) -> None:
        """Chunks hold `latents` latent frames; symbols as of `PriorConfig.joint`, `free` and `block`.

        ConfigError where files are of several models, their ids have no digits, or free ones are not as they must be.
        """
        self._sizes: dict[str, int] = {"joint": joint, "free": free, "block": block}
        self.files = list(files)
        self.model_id: str | None = None
        self.digits: tuple[int, ...] = ()
        self.stages = 0
        self.symbols: list[Symbols] = []
        self.stretches: list[Stretch] = []
        for file in self.files:
            self._add(file, latents)
        if not self.stretches:
            raise ConfigError("no token file to train on")

    def _add(self, file: Path, latents: int) -> None:
        with TokenReader(file) as reader:
            header = reader.header
            digits = {header.stage_digits(k) for k in range(header.stages)}
            if len(digits) != 1 or digits == {()} or header.model_id is None:
                raise ConfigError(f"{file}: a prior needs ids of a known model that have the same digits in all stages")
            self.model_id, self.digits = self.model_id or header.model_id, self.digits or header.stage_digits(0)
            if (header.model_id, {self.digits}) != (self.model_id, digits):
                raise ConfigError(f"{file} is of another model than {self.files[0]}")
            self.stages = max(self.stages, header.stages)
            ids = np.asarray(reader.ids[:])
            ids = ids if header.codebooks else ids[..., None]
            if header.varying:  # only the stages that all segments have
                ids = ids[..., (ids >= 0).all(axis=(0, 1, 2))]
            what = PriorConfig(digits=self.digits, **self._sizes)
            stages = [to_symbols(ids[..., k], what.parts, np.uint8) for k in range(ids.shape[3])]
            if not all(fit(stage, what, k) for k, stage in enumerate(stages)):
                raise ConfigError(
                    f"{file}: the last {what.free} digits are not the same in blocks of {what.block} cells a side, "
                    "or not in the middle above the first stage"
                )
            whole, segment = len(ids), reader.layout.segment_latents
        number = len(self.symbols)
        self.symbols.append(np.stack(stages, 3))
        for begin in range(0, whole, segment or max(whole, 1)):
            end = min(begin + segment, whole) if segment else whole
            for start in range(begin, end, latents):
                self.stretches.append(Stretch(number, start, min(latents, end - start), start - begin))

    def batch(self, seed: int, step: int, count: int, size: int) -> tuple[Symbols, int]:
        """Symbols (B, T, s, s, K, n) and the number of their first latent frame: crops of stretches of one place.

        All have as many latent frames as the shortest; s is `size`, or less where a grid is smaller, and even. Where
        symbols are free, crops lie on the lattice on which those are told.
        """
        unit = TURNS[0].step * self._sizes["block"] if self._sizes["free"] else 1
        rng = np.random.default_rng([seed, step, 2])
        leader = self.stretches[int(rng.integers(len(self.stretches)))]
        same = [s for s in self.stretches if s.place == leader.place and s.latents >= leader.latents]
        chosen = [leader, *(same[int(rng.integers(len(same)))] for _ in range(count - 1))]
        side = min(size, *(min(self.symbols[s.file].shape[1:3]) for s in chosen)) // 2 * 2
        if not side:
            raise ConfigError("a grid of one cell a side is too small to train on")
        crops = []
        for s in chosen:
            full = self.symbols[s.file][s.start : s.start + leader.latents]
            top, left = (unit * int(rng.integers((n - side) // unit + 1)) for n in full.shape[1:3])
            crops.append(full[:, top : top + side, left : left + side])
        stages = min(crop.shape[3] for crop in crops)
        return np.stack([crop[..., :stages, :] for crop in crops]), leader.place
