"""Motion: where in the frame before the content of a cell was, as two digits of an id.

A vector (dx, dy) says, in pixels a frame, that pixel (x, y) of the j-th frame of a latent frame looks like
(x + j dx, y + j dy) of the last frame before it. Both components are from one table, fine for what is slow and coarse
for what is fast. Between cell centres vectors are interpolated, so that blocks have no edges and what grows or turns
is followed as well (control grid interpolation, Sullivan and Baker 1991).

The encoder finds vectors in the frames themselves, block by block of 2 x 2 cells: first with every whole vector in
pictures made smaller, then with those of the table around the best, and where it costs little with the same as beside:
a field that is smooth takes few bits. It has nothing to learn, and nothing is known of ids when it runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.errors import ConfigError
from vidtok.geometry import Geometry

FLOOR = 8.0  # mean squared error, of luma 0 to 255, below which less is hardly worth anything
MOVING = 0.1  # what moving at all costs, in doublings of the error
APART = 0.3  # what a vector costs for each of the four blocks beside that has another
AROUND = 2  # steps of the table on each side that are tried around the best whole vector
BESIDE = ((0, 1), (2, 1), (1, 0), (1, 2))  # (y, x) of the four in a field with a border of one


class Motion(nn.Module):
    """Vectors of a table of displacements, all in pixels a frame, and what is done with them."""

    def __init__(self, displacements: Sequence[float], digits: Sequence[int], geometry: Geometry) -> None:
        super().__init__()
        rising = all(a < b for a, b in itertools.pairwise((0.0, *displacements)))
        if not displacements or not rising or not displacements[-1] <= 64:
            raise ConfigError(f"motion is rising displacements above 0, at most 64 pixels a frame; got {displacements}")
        levels = 2 * len(displacements) + 1
        if tuple(digits) != (levels, levels):
            raise ConfigError(f"motion of {len(displacements)} makes two digits of {levels} levels; got {list(digits)}")
        if geometry.space % 2 or 2 * geometry.space % geometry.time:
            raise ConfigError(
                f"motion wants an even space stride, twice of which is a multiple of the time stride; "
                f"got {geometry.space} and {geometry.time}"
            )
        self.geometry, self.still = geometry, len(displacements)
        table = [-d for d in reversed(displacements)] + [0.0] + list(displacements)
        self.register_buffer("table", torch.tensor(table), persistent=False)
        self.table: Tensor

    # --- vectors and digits ---------------------------------------------------------------------

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes (..., 2) in [-1, 1] -> vectors (..., 2), dx and dy."""
        return self.table[((codes + 1) * self.still).round().long()]

    def latent(self, digits: Tensor) -> Tensor:
        """Digits (..., 2) -> latent (..., 2) float32 that a FSQ rounds to them."""
        return torch.atanh((digits.float() / self.still - 1).clamp(-0.9999, 0.9999))

    def features(self, vectors: Tensor) -> Tensor:
        """Vectors (..., 2) -> (..., 4) for networks: in units of the longest, and how long."""
        share = vectors / self.table[-1]
        return torch.cat([share, share.abs()], dim=-1)

    # --- what was there, moved --------------------------------------------------------------------

    def frames(self, frame: Tensor, vectors: Tensor) -> Tensor:
        """The frame before (B, H, W, 3) and vectors (B, h, w, 2) -> what they make of the next ones (B, T, H, W, 3)."""
        time, image = self.geometry.time, frame.permute(0, 3, 1, 2)
        steps = torch.arange(1, time + 1, device=frame.device).view(-1, 1, 1, 1, 1)
        fields = _spread(vectors, self.geometry.space) * steps
        moved = _sample(image.expand(time, *image.shape).flatten(0, 1), fields.flatten(0, 1))
        return moved.view(time, *image.shape).permute(1, 0, 3, 4, 2)

    def cells(self, values: Tensor, vectors: Tensor) -> Tensor:
        """What belongs to cells, (B, 1, h, w, C), moved by a latent frame's time."""
        image = values[:, 0].permute(0, 3, 1, 2)
        moved = _sample(image, vectors * (self.geometry.time / self.geometry.space))
        return moved.permute(0, 2, 3, 1)[:, None].contiguous()

    # --- search -------------------------------------------------------------------------------------

    @torch.no_grad()
    def search(self, before: Tensor, now: Tensor) -> Tensor:
        """Luma 0 to 255 of the frame before (B, H, W) and of a latent frame (B, T, H, W) -> digits (B, h, w, 2)."""
        time, space = self.geometry.time, self.geometry.space
        rows, columns = now.shape[2] // space, now.shape[3] // space
        found = self._whole(_shrink(before[:, None], time), _shrink(now[:, -1:], time))
        ahead = sorted({(time + 1) // 2, time})  # frames that are compared
        half = _shrink(before[:, None], 2)
        target = torch.stack([_shrink(now[:, j - 1 : j], 2) for j in ahead])[:, None]  # (frames, 1, B, 1, H, W)
        size = half.shape[2:]
        own, scale = _centres(size, half.device), half.new_tensor([2 / size[1], 2 / size[0]])

        def wrong(tried: Sequence[Tensor]) -> Tensor:
            """What each of these fields of digits (B, blocks down, blocks across, 2) costs."""
            digits = torch.stack(list(tried))
            vectors = self.table[digits]
            moves = torch.stack([vectors * (j / 2) * scale for j in ahead])  # (frames, n, B, down, across, 2)
            at = _repeated(moves.flatten(0, 2), own, space)
            images = half.expand(*moves.shape[:2], *half.shape).flatten(0, 2)
            errors = (_look_up(images, at).view(*moves.shape[:2], *half.shape) - target).square_()
            means = _block_means(errors.flatten(0, 2), space).view(*moves.shape[:-1]).mean(0)
            return _worth(means) + MOVING * (digits != self.still).any(-1)

        steps = range(-AROUND, AROUND + 1)
        costs, tried = [], []
        for y in steps:
            row = [(found + found.new_tensor([x, y])).clamp(0, 2 * self.still) for x in steps]
            costs.append(wrong(row))
            tried += row
        found = _agree(_least(tried, torch.cat(costs)), wrong, passes=1)
        return _repeat(found, 2)[:, :rows, :columns]

    def _whole(self, before: Tensor, last: Tensor) -> Tensor:
        """Digits (B, blocks down, blocks across, 2) of whole vectors: pictures by `time` smaller, moved by pixels."""
        reach = math.ceil(float(self.table[-1]))
        count, (height, width) = 2 * reach + 1, last.shape[2:]
        wide = F.pad(before, (reach,) * 4, mode="replicate")
        size = 2 * self.geometry.space // self.geometry.time
        errors = []
        for y in range(count):
            moved = wide[:, 0, y : y + height].unfold(-1, width, 1).permute(0, 2, 1, 3)  # (B, x, H, W)
            errors.append(_block_means((moved - last).square_(), size))
        volume = _worth(torch.cat(errors, dim=1)).permute(0, 2, 3, 1)  # (B, down, across, vectors)
        off = torch.arange(count, device=last.device) - reach
        volume = volume + MOVING * ((off[:, None] != 0) | (off != 0)).flatten()

        def wrong(tried: Sequence[Tensor]) -> Tensor:
            return torch.stack([volume.gather(-1, chosen)[..., 0] for chosen in tried])

        best = _agree(volume.argmin(-1, keepdim=True), wrong, passes=2)[..., 0]
        whole = torch.stack([best % count - reach, best // count - reach], dim=-1)
        return (whole[..., None] - self.table).abs().argmin(-1)


def luma(frames: Tensor) -> Tensor:
    """Frames (..., 3) in [-1, 1] -> (...), whole numbers 0 to 255: (2 R + 5 G + B) / 8 of uint8 values, rounded down.
    Those are whole eighths; half an eighth more keeps what floats make of them on the right side."""
    red, green, blue = frames.float().unbind(-1)
    eighths = green.mul(5).add_(red, alpha=2).add_(blue)
    return eighths.mul_(127.5 / 8).add_(127.5 + 1 / 16).floor_().clamp_(0, 255)


def _spread(vectors: Tensor, space: int) -> Tensor:
    """Vectors of cells (B, h, w, 2) -> of pixels (B, h * space, w * space, 2), linear between centres."""
    field = vectors.permute(0, 3, 1, 2)
    return F.interpolate(field, scale_factor=float(space), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def _repeat(cells: Tensor, times: int) -> Tensor:
    """(B, h, w, n) -> (B, h * times, w * times, n)."""
    b, h, w, n = cells.shape
    return cells[:, :, None, :, None].expand(b, h, times, w, times, n).reshape(b, h * times, w * times, n)


def _repeated(blocks: Tensor, pixels: Tensor, times: int) -> Tensor:
    """Values of blocks (B, down, across, n), each repeated for `times` x `times` pixels, plus those of pixels (H, W, n)
    -> (B, H, W, n). Rows are added whole, which is much faster than a block at a time."""
    height, width, n = pixels.shape
    b, down = blocks.shape[:2]
    rows = blocks.repeat_interleave(times, dim=2)[:, :, :width]
    if height % times:
        return rows.repeat_interleave(times, dim=1)[:, :height] + pixels
    return (rows[:, :, None] + pixels.view(down, times, width, n)).view(b, height, width, n)


def _sample(image: Tensor, off: Tensor) -> Tensor:
    """Image (B, C, H, W) at (x, y) + off (B, H, W, 2), in its pixels, linear between them, held at the border."""
    height, width = image.shape[2:]
    return _look_up(image, off * off.new_tensor([2 / width, 2 / height]) + _centres((height, width), off.device))


def _centres(size: Sequence[int], device: torch.device) -> Tensor:
    """(x, y) of the pixels of an image (H, W), which reaches from -1 to 1: (H, W, 2)."""
    height, width = size
    y = (torch.arange(height, device=device) * 2 + 1) / height - 1
    x = (torch.arange(width, device=device) * 2 + 1) / width - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)


def _look_up(image: Tensor, at: Tensor) -> Tensor:
    """Image (B, C, H, W) at `at` (B, H, W, 2), in units of `_centres`, linear between pixels, held at the border."""
    return F.grid_sample(image, at, mode="bilinear", padding_mode="border", align_corners=False)


def _shrink(image: Tensor, times: int) -> Tensor:
    """(B, 1, H, W) -> whole numbers (B, 1, H / times, W / times), rounded up where it does not divide."""
    return F.avg_pool2d(image, times, ceil_mode=True, count_include_pad=False).round()


def _block_means(values: Tensor, size: int) -> Tensor:
    """(..., H, W) -> means (..., down, across) of blocks, those at the border smaller."""
    return F.avg_pool2d(values, size, ceil_mode=True, count_include_pad=False)


def _worth(errors: Tensor) -> Tensor:
    """Errors (..., down, across) -> their logarithms, as the bits are that it takes to code them, those around
    included: what is beside a block speaks for its vector too."""
    padded = F.pad(errors.reshape(-1, 1, *errors.shape[-2:]), (1, 1, 1, 1), mode="replicate").view(
        *errors.shape[:-2], errors.shape[-2] + 2, errors.shape[-1] + 2
    )
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return ((across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 16 + FLOOR).log2()


def _agree(chosen: Tensor, wrong: Callable[[Sequence[Tensor]], Tensor], passes: int) -> Tensor:
    """Labels (B, down, across, n) after each took one of those beside where that costs less: `wrong`, and `APART` for
    each of the four that differ. Half of the blocks at a time, like the squares of a chessboard (Besag 1986)."""
    down, across = chosen.shape[1:3]
    board = (torch.arange(down, device=chosen.device)[:, None] + torch.arange(across, device=chosen.device)) % 2
    for colour in (0, 1) * passes:
        labels = _bordered(chosen)
        beside = [labels[:, y : y + down, x : x + across] for y, x in BESIDE]
        tried = [chosen, *beside]
        alike = torch.stack([torch.stack([(t == b).all(-1) for b in beside]).sum(0) for t in tried])
        costs = wrong(tried) - APART * alike
        chosen = torch.where((board == colour)[..., None], _least(tried, costs), chosen)
    return chosen


def _bordered(labels: Tensor) -> Tensor:
    """(B, down, across, n) -> with the border repeated once."""
    rows = torch.cat([labels[:, :1], labels, labels[:, -1:]], dim=1)
    return torch.cat([rows[:, :, :1], rows, rows[:, :, -1:]], dim=2)


def _least(tried: Sequence[Tensor], costs: Tensor) -> Tensor:
    """Of labels (B, down, across, n), for each block the first of those that cost (n, B, down, across) least."""
    best, every = costs.argmin(0), torch.stack(list(tried))
    return every.gather(0, best[None, ..., None].expand(1, *every.shape[1:]))[0]
