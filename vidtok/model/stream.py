"""Any length and size through a tokenizer: frames pushed in, ids out, and the reverse, in bounded memory.

Chunks (how many latent frames go through the network at once), tiles and batches only group the work; the
network sees the same neighbours either way, so the results are equal bit for bit on CPU. A recurrent model works on
the whole picture, whatever the tile.

    +-------+-------+--       a tile is computed with `halo` cells around its core, fewer at the border of the
    | core  |  halo           picture, and only the core is kept; each tile carries its own state through time
    +-------+---
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidtok.errors import UsageError
from vidtok.geometry import ceil_div
from vidtok.model.layers import State
from vidtok.model.patches import from_patches
from vidtok.model.tokenizer import Tokenizer

CELLS_PER_PASS = 8192  # latent cells that go through the network at once, where nothing else is asked for
CELLS_PER_FRAME = 160_000  # larger grids (beyond 4K video) are tiled by default
DEFAULT_TILE = 1024  # pixels


@dataclass(frozen=True)
class Schedule:
    """How the work is grouped: resources only, never results."""

    chunk_frames: int | None = None  # frames per pass, rounded up to whole latent frames
    tile: int | None = None  # core of a tile in pixels, a multiple of the model's stride; 0: no tiles
    batch: int = 1  # tiles of equal shape per pass

    def __post_init__(self) -> None:
        if self.chunk_frames is not None and self.chunk_frames < 1:
            raise UsageError(f"--chunk-frames {self.chunk_frames}: at least 1")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: at least 1")
        if self.tile is not None and self.tile < 0:
            raise UsageError(f"--tile {self.tile}: at least 0")


@dataclass(frozen=True)
class Span:
    """Cells [start, end) of an axis, kept part [core_start, core_end)."""

    start: int
    end: int
    core_start: int
    core_end: int

    @property
    def outer(self) -> slice:
        return slice(self.start, self.end)

    @property
    def core(self) -> slice:
        return slice(self.core_start, self.core_end)

    @property
    def kept(self) -> slice:
        return slice(self.core_start - self.start, self.core_end - self.start)


def cut(cells: int, core: int, halo: int) -> list[Span]:
    """Cover `cells` by tiles of `core` cells with up to `halo` more on each side."""
    return [Span(max(0, a - halo), min(cells, a + core + halo), a, min(cells, a + core)) for a in range(0, cells, core)]


Tile = tuple[Span, Span]


class _Tiles:
    """Tiles of one grid, grouped so that each pass takes up to `batch` of equal shape, with a state per group."""

    def __init__(self, grid: tuple[int, int], space: int, halo: int | None, schedule: Schedule) -> None:
        tile = schedule.tile
        if tile is None:
            tile = DEFAULT_TILE if grid[0] * grid[1] > CELLS_PER_FRAME else 0
        if tile % space:
            raise UsageError(f"--tile {tile}: a multiple of {space}, the model's stride")
        core = tile // space or max(grid)
        if halo is None:  # every cell depends on all of them
            core, halo = max(grid), 0
        shapes: dict[tuple[int, int], list[Tile]] = defaultdict(list)
        for rows in cut(grid[0], core, halo):
            for columns in cut(grid[1], core, halo):
                shapes[rows.end - rows.start, columns.end - columns.start].append((rows, columns))
        self.states: list[State]
        self.groups = [g[i : i + schedule.batch] for g in shapes.values() for i in range(0, len(g), schedule.batch)]
        self.restart()

    def restart(self, latent: int = 0) -> None:
        """Forget the past; what comes next is latent frame `latent` of its segment."""
        self.states = [State(latent)] * len(self.groups)


class _Stream:
    def __init__(self, tokenizer: Tokenizer, height: int, width: int, dtype: torch.dtype, schedule: Schedule) -> None:
        if height < 1 or width < 1:
            raise UsageError(f"frames of {width}x{height} pixels: both sides are at least 1")
        self.tokenizer, self.dtype = tokenizer, dtype
        self.geometry = tokenizer.geometry
        self.height, self.width = height, width
        self.grid = self.geometry.grid(height, width)
        self.device = next(tokenizer.parameters()).device
        cells = self.grid[0] * self.grid[1]
        self.latents_per_pass = (
            ceil_div(schedule.chunk_frames, self.geometry.time)
            if schedule.chunk_frames
            else max(1, min(16, CELLS_PER_PASS // cells))
        )


class EncodeStream(_Stream):
    """Frames in, ids out as soon as a latent frame is complete."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        height: int,
        width: int,
        *,
        dtype: torch.dtype = torch.float32,
        schedule: Schedule | None = None,
        quality: int | None = None,
        refine: int = 0,
    ) -> None:
        schedule = schedule or Schedule()
        super().__init__(tokenizer, height, width, dtype, schedule)
        self.quality = tokenizer.config.check_quality(quality)
        tokenizer.config.check_refine(refine)
        self.refine = refine
        self._tiles = _Tiles(self.grid, self.geometry.space, tokenizer.encoder_halo, schedule)
        self._pending: list[Tensor] = []  # (n, H, W, 3) pieces, padded sizes

    def push(self, frames: np.ndarray | Tensor) -> np.ndarray:
        """uint8 (T, H, W, 3), any T -> ids (n, h, w) int64 of all latent frames now complete, n may be 0.

        At qualities above 1 ids are (n, h, w, quality)."""
        piece = torch.as_tensor(frames)
        if piece.dtype != torch.uint8 or piece.shape[1:] != (self.height, self.width, 3):
            raise UsageError(
                f"frames are uint8 (T, {self.height}, {self.width}, 3), got {piece.dtype} {tuple(piece.shape)}"
            )
        if len(piece):
            piece = self._pad(piece)
            if not self._pending:
                self._pending.append(piece[:1].expand(self.geometry.time - 1, -1, -1, -1))
            self._pending.append(piece)
        held = sum(map(len, self._pending))
        return self._run(held - held % self.geometry.time)

    def flush(self) -> np.ndarray:
        """End of the segment: the remaining ids. What is pushed afterwards starts anew."""
        held = sum(map(len, self._pending))
        if short := -held % self.geometry.time:
            self._pending.append(self._pending[-1][-1:].expand(short, -1, -1, -1))
        ids = self._run(held + short)
        self._pending = []
        self._tiles.restart()
        return ids

    @property
    def _shape(self) -> tuple[int, ...]:
        return (*self.grid, self.quality) if self.quality > 1 else self.grid

    def _pad(self, piece: Tensor) -> Tensor:
        """Repeat the right and bottom edge up to whole cells."""
        space = self.geometry.space
        if down := -self.height % space:
            piece = torch.cat([piece, piece[:, -1:].expand(-1, down, -1, -1)], dim=1)
        if right := -self.width % space:
            piece = torch.cat([piece, piece[:, :, -1:].expand(-1, -1, right, -1)], dim=2)
        return piece

    def _run(self, count: int) -> np.ndarray:
        """Encode the first `count` pending frames, a multiple of the time stride, pass by pass."""
        if not count:
            return np.empty((0, *self._shape), np.int64)
        frames = torch.cat(self._pending)
        self._pending = [frames[count:].clone()]  # even if empty: the mark of a running segment
        size = self.latents_per_pass * self.geometry.time
        return np.concatenate([self._pass(frames[a : min(a + size, count)]) for a in range(0, count, size)])

    def _pass(self, frames: Tensor) -> np.ndarray:
        space = self.geometry.space
        ids = torch.empty(len(frames) // self.geometry.time, *self._shape, dtype=torch.int64)
        for i, group in enumerate(self._tiles.groups):
            pixels = torch.stack(
                [frames[:, r.start * space : r.end * space, c.start * space : c.end * space] for r, c in group]
            ).to(self.device)
            out, self._tiles.states[i] = self.tokenizer.encode_pixels(
                pixels, self._tiles.states[i], self.dtype, self.quality, self.refine
            )
            for (rows, columns), part in zip(group, out.cpu(), strict=True):
                ids[:, rows.core, columns.core] = part[:, rows.kept, columns.kept]
        return ids.numpy()


class DecodeStream(_Stream):
    """Ids in, frames out: the frames that each latent frame holds, padding in space cut off."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        height: int,
        width: int,
        *,
        dtype: torch.dtype = torch.float32,
        schedule: Schedule | None = None,
    ) -> None:
        schedule = schedule or Schedule()
        super().__init__(tokenizer, height, width, dtype, schedule)
        self._tiles = _Tiles(self.grid, self.geometry.space, tokenizer.decoder_halo, schedule)
        self._first = True

    def push(self, ids: np.ndarray) -> np.ndarray:
        """Ids (n, h, w), or (n, h, w, quality) -> uint8 (T, H, W, 3), of one quality from a start to the next.

        The first latent frame of a segment gives one frame, others `time`.
        """
        if ids.shape[1:3] != self.grid or ids.ndim > 4 or (ids.ndim == 4 and ids.shape[3] > self.tokenizer.qualities):
            stages = f"[, 1 to {self.tokenizer.qualities}]" if self.tokenizer.qualities > 1 else ""
            raise UsageError(f"ids are (n, {self.grid[0]}, {self.grid[1]}{stages}), got {ids.shape}")
        passes = [self._pass(ids[a : a + self.latents_per_pass]) for a in range(0, len(ids), self.latents_per_pass)]
        if not passes:
            return np.empty((0, self.height, self.width, 3), np.uint8)
        frames = np.concatenate(passes) if len(passes) > 1 else passes[0]
        if self._first:
            self._first = False
            frames = frames[self.geometry.time - 1 :]
        return frames

    def restart(self, latent: int = 0) -> None:
        """What is pushed afterwards begins with latent frame `latent` of a segment, its past unknown."""
        self._tiles.restart(latent)
        self._first = latent == 0

    def _pass(self, ids: np.ndarray) -> np.ndarray:
        space, frames_per_latent = self.geometry.space, self.geometry.time
        source = torch.from_numpy(ids.astype(np.int64, copy=False))
        frames = torch.empty(
            len(ids) * frames_per_latent, self.grid[0] * space, self.grid[1] * space, 3, dtype=torch.uint8
        )
        for i, group in enumerate(self._tiles.groups):
            part = torch.stack([source[:, r.outer, c.outer] for r, c in group]).to(self.device)
            out, self._tiles.states[i] = self.tokenizer.decode_ids(part, self._tiles.states[i], self.dtype)
            for (rows, columns), patches in zip(group, out, strict=True):
                pixels = from_patches(patches[None, :, rows.kept, columns.kept], self.geometry)[0]
                frames[
                    :,
                    rows.core_start * space : rows.core_end * space,
                    columns.core_start * space : columns.core_end * space,
                ] = pixels.cpu()
        return frames[:, : self.height, : self.width].numpy()
