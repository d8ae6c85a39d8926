"""SSIM and MS-SSIM as pytorch-msssim computes them, several times faster on a CPU.

With s = x + y and d = x - y the five Gaussian means of SSIM become four, E[s], E[d], E[s^2], E[d^2], and

    var_s = E[s^2] - E[s]^2          var_d = E[d^2] - E[d]^2
    contrast  = 1 - 2 q,  q = var_d / (var_s + var_d + 2 C2)
    luminance = 1 - 2 p,  p = E[d]^2 / (E[s]^2 + E[d]^2 + 2 C1)
    ssim = mean(contrast * luminance) = 1 - 2 mean(p) - 2 mean(q) + 4 mean(p q)

which is exactly 1 for equal pictures. s and d are also all that has to be halved for the next scale.

Layout: planes lie channels-last, (H, W, N) with N = frames x channels innermost, where a depthwise
convolution runs at full vector width; the picture is walked in strips of rows that fit the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

TAPS = 11
SCALES = 5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_SIDE = (TAPS - 1) * 2 ** (SCALES - 1)
"""MS-SSIM needs sides larger than this."""

_C1 = 2 * (0.01 * 255) ** 2
_C2 = 2 * (0.03 * 255) ** 2
STRIP_VALUES = 2**19

Strip = Callable[[int, int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""rows [a, b) of s and d, each (b - a, W, N) float32, held in the scratch tensor (2, b - a, W, N) or not"""


class Pyramid:
    """SSIM terms at every scale of a pair of pictures, computed when asked for.

    `strip` gives rows of s = x + y and d = x - y at full size, values in [0, 510] and [-255, 255].
    """

    def __init__(self, strip: Strip, height: int, width: int, planes: int) -> None:
        self._strips = [strip]
        self._sizes = [(height, width)]
        self._planes = planes
        self._terms: list[tuple[torch.Tensor, torch.Tensor]] = []

    def ssim(self) -> torch.Tensor:
        """SSIM of each plane: (N,) float64."""
        return self._level(0)[0]

    def ms_ssim(self) -> torch.Tensor:
        """MS-SSIM of each plane: (N,) float64. Both sides must be larger than MIN_SIDE."""
        assert min(self._sizes[0]) > MIN_SIDE
        product = torch.ones(self._planes, dtype=torch.float64)
        for scale, weight in enumerate(WEIGHTS):
            ssim, contrast = self._level(scale)
            product *= (ssim if scale == SCALES - 1 else contrast).relu() ** weight
        return product

    def _level(self, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
        while len(self._terms) <= scale:
            level = len(self._terms)
            if level:
                self._add_half()
            self._terms.append(_terms(self._strips[level], *self._sizes[level], self._planes))
        return self._terms[scale]

    def _add_half(self) -> None:
        s, d = _halve(self._strips[-1], *self._sizes[-1], self._planes)
        if len(self._strips) > 1:
            self._strips[-1] = _gone  # a smaller scale never looks back: free its planes
        self._strips.append(lambda a, b, _: (s[a:b], d[a:b]))
        self._sizes.append((s.shape[0], s.shape[1]))


def _gone(_first: int, _end: int, _scratch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("this scale was dropped")


@cache
def _window(taps: int, planes: int, vertical: bool) -> torch.Tensor:
    """Depthwise weights (N, 1, taps, 1) or (N, 1, 1, taps): the float32 Gaussian of pytorch-msssim."""
    x = torch.arange(taps, dtype=torch.float32) - taps // 2
    g = torch.exp(-(x**2) / (2 * 1.5**2))
    g /= g.sum()
    return g.view((1, 1, taps, 1) if vertical else (1, 1, 1, taps)).repeat(planes, 1, 1, 1)


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Gaussian over (H, W, N), valid area; an axis shorter than the window stays as it is (as there)."""
    height, width, planes = x.shape
    y = _as_images(x)
    if height >= TAPS:
        y = F.conv2d(y, _window(TAPS, planes, True), groups=planes)
    if width >= TAPS:
        y = F.conv2d(y, _window(TAPS, planes, False), groups=planes)
    return y.permute(0, 2, 3, 1).squeeze(0)


def _as_images(x: torch.Tensor) -> torch.Tensor:
    """(H, W, N) seen as one picture (1, N, H, W); made in this order torch sees that it is channels-last."""
    return x.unsqueeze(0).permute(0, 3, 1, 2)


def _terms(strip: Strip, height: int, width: int, planes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ssim, contrast) of each plane, (N,) float64, averaged over the valid area."""
    margin = TAPS - 1 if height >= TAPS else 0
    rows_out = height - margin
    columns_out = width - TAPS + 1 if width >= TAPS else width
    step = rows_out if not margin else max(32, STRIP_VALUES // (width * planes))
    scratch = torch.empty(4, min(step, rows_out) + margin, width, planes)
    p_sum, q_sum, pq_sum = torch.zeros(3, planes, dtype=torch.float64)
    for top in range(0, rows_out, step):
        end = min(top + step, rows_out) + margin
        part = scratch[:, : end - top]
        p, q = _errors(*strip(top, end, part[:2]), part[2:])
        p_sum += p.sum((0, 1))
        q_sum += q.sum((0, 1))
        pq_sum += p.mul_(q).sum((0, 1))
    area = rows_out * columns_out
    contrast = 1 - 2 * q_sum / area
    return contrast - 2 * p_sum / area + 4 * pq_sum / area, contrast


def _errors(s: torch.Tensor, d: torch.Tensor, scratch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(p, q) of the formulas above for rows of s and d, each (H - 10, W - 10, N); scratch (2, H, W, N)."""
    mean_s, mean_d = _blur(s), _blur(d)
    var_s, var_d = (_blur(torch.mul(x, x, out=square)) for x, square in zip((s, d), scratch, strict=True))
    mean_s *= mean_s
    mean_d *= mean_d
    var_s -= mean_s
    var_d -= mean_d
    q = var_d
    q /= var_s.add_(var_d).add_(_C2)
    p = mean_d
    p /= mean_s.add_(mean_d).add_(_C1)
    return p, q


def _halve(strip: Strip, height: int, width: int, planes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """2x2 means of s and d; an odd side is padded with a zero in front, as the original does."""
    pad_top, pad_left = height % 2, width % 2
    rows = (height + pad_top) // 2
    columns = (width + pad_left) // 2
    halves = torch.empty(2, rows, columns, planes)
    step = max(8, STRIP_VALUES // (2 * width * planes))
    scratch = torch.empty(2, 2 * step, width, planes)
    for top in range(0, rows, step):
        first, end = max(0, 2 * top - pad_top), min(height, 2 * (top + step) - pad_top)
        for half, part in zip(halves, strip(first, end, scratch[:, : end - first]), strict=True):
            x = _as_images(part)
            if pad_left or (pad_top and top == 0):
                x = F.pad(x, (pad_left, 0, pad_top if top == 0 else 0, 0))
            half[top : top + step] = F.avg_pool2d(x, 2).permute(0, 2, 3, 1).squeeze(0)
    return halves[0], halves[1]
