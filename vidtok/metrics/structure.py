"""SSIM and MS-SSIM as pytorch-msssim computes them, several times faster on a CPU.

With s = x + y and d = x - y the five Gaussian means of SSIM become four, E[s], E[d], E[s^2], E[d^2], and

    var_s = E[s^2] - E[s]^2          var_d = E[d^2] - E[d]^2
    contrast  = 1 - 2 q,  q = var_d / (var_s + var_d + 2 C2)
    luminance = 1 - 2 p,  p = E[d]^2 / (E[s]^2 + E[d]^2 + 2 C1)
    ssim = mean(contrast * luminance) = 1 - 2 mean(p) - 2 mean(q) + 4 mean(p q)

which is exactly 1 for equal pictures. s and d are also all that has to be halved for the next scale. Contrast alone
is what MS-SSIM takes of all scales but the last.

Layout: planes lie channels-last, (H, W, N) with N = frames x channels innermost, where a depthwise
convolution runs at full vector width; the picture is walked in strips of rows that fit the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
import torch.nn.functional as F

TAPS = 11
SCALES = 5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_SIDE = (TAPS - 1) * 2 ** (SCALES - 1)
"""MS-SSIM needs sides larger than this."""

_C1 = 2 * (0.01 * 255) ** 2
_CONTRAST = torch.tensor(2 * (0.03 * 255) ** 2)
STRIP_VALUES = 2**19

Strip = Callable[[int, int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""rows [a, b) of s and d, each (b - a, W, N) float32, held in the scratch tensor (2, b - a, W, N) or not"""


@dataclass(frozen=True)
class Scale:
    """Of a pair of pictures at one scale: means over the valid area for each plane, (N,) float64, `ssim` where it was
    asked for; s and d at half the size, (H, W, N) float32, likewise."""

    contrast: torch.Tensor
    ssim: torch.Tensor | None
    half: tuple[torch.Tensor, torch.Tensor] | None


class Pyramid:
    """SSIM and MS-SSIM of a pair of pictures.

    `strip` gives rows of s = x + y and d = x - y at full size, values in [0, 510] and [-255, 255]. `ssim`, `ms_ssim`:
    what will be asked for; one walk over the full size then does for both.
    """

    def __init__(
        self, strip: Strip, height: int, width: int, planes: int, *, ssim: bool = True, ms_ssim: bool = True
    ) -> None:
        self._strip = strip
        self._size = (height, width)
        self._planes = planes
        self._ssim, self._ms_ssim = ssim, ms_ssim

    @cached_property
    def _largest(self) -> Scale:
        halve = self._ms_ssim and min(self._size) > MIN_SIDE
        return _scale(self._strip, *self._size, self._planes, luminance=self._ssim, halve=halve)

    def ssim(self) -> torch.Tensor:
        """SSIM of each plane: (N,) float64."""
        found = self._largest.ssim
        assert found is not None, "announce what will be asked for"
        return found

    def ms_ssim(self) -> torch.Tensor:
        """MS-SSIM of each plane: (N,) float64. Both sides must be larger than MIN_SIDE."""
        scale = self._largest
        product = scale.contrast.relu() ** WEIGHTS[0]
        for weight in WEIGHTS[1:-1]:
            scale = self._next(scale, last=False)
            product *= scale.contrast.relu() ** weight
        smallest = self._next(scale, last=True).ssim
        assert smallest is not None
        return product * smallest.relu() ** WEIGHTS[-1]

    def _next(self, larger: Scale, *, last: bool) -> Scale:
        """Only the last scale has luminance; it is also the only one that is not halved."""
        assert larger.half is not None, "announce what will be asked for; sides must be larger than MIN_SIDE"
        s, d = larger.half
        return _scale(lambda a, b, _: (s[a:b], d[a:b]), *s.shape, luminance=last, halve=not last)


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


def _scale(strip: Strip, height: int, width: int, planes: int, *, luminance: bool, halve: bool) -> Scale:
    """One walk over the rows. Halving wants sides above the window."""
    margin = TAPS - 1 if height >= TAPS else 0
    rows_out = height - margin
    columns_out = width - TAPS + 1 if width >= TAPS else width
    step = rows_out if not margin else max(32, STRIP_VALUES // (width * planes) // 2 * 2)
    half = torch.empty(2, (height + 1) // 2, (width + 1) // 2, planes) if halve else None
    scratch = torch.empty(4, min(step, rows_out) + margin, width, planes)
    sums = torch.zeros(3, planes, dtype=torch.float64)
    for top in range(0, rows_out, step):
        end = min(top + step, rows_out) + margin
        part = scratch[:, : end - top]
        s, d = strip(top, end, part[:2])
        if half is not None:
            stop = end if end == height else top + step + height % 2
            for small, rows in zip(half, (s, d), strict=True):
                _halve(rows[: stop - top], small, top, height % 2, width % 2)
        sums += _sums(s, d, part[2:], luminance)
    p, q, pq = sums / (rows_out * columns_out)
    contrast = 1 - 2 * q
    return Scale(
        contrast=contrast,
        ssim=contrast - 2 * p + 4 * pq if luminance else None,
        half=None if half is None else (half[0], half[1]),
    )


def _sums(s: torch.Tensor, d: torch.Tensor, scratch: torch.Tensor, luminance: bool) -> torch.Tensor:
    """p, q and p q of the formulas above, added up over rows of s and d: (3, N), zeros for those with p where it is
    not wanted. s and d (H, W, N), scratch (2, H, W, N). The weights of the window have the sum 1, so that a constant
    may be added before it."""
    mean_s, mean_d = _blur(s), _blur(d)
    var_s = _blur(torch.addcmul(_CONTRAST, s, s, out=scratch[0]))
    var_d = _blur(torch.mul(d, d, out=scratch[1]))
    var_s.addcmul_(mean_s, mean_s, value=-1)
    var_d.addcmul_(mean_d, mean_d, value=-1)
    q = var_d.div_(var_s.add_(var_d))
    sums = torch.zeros(3, s.shape[2])
    sums[1] = q.sum((0, 1))
    if luminance:
        mean_d.mul_(mean_d)
        p = mean_d.div_(mean_s.mul_(mean_s).add_(_C1).add_(mean_d))
        sums[0] = p.sum((0, 1))
        sums[2] = p.mul_(q).sum((0, 1))
    return sums


def _halve(rows: torch.Tensor, half: torch.Tensor, top: int, pad_top: int, pad_left: int) -> None:
    """2x2 means of the rows of a picture from its row `top` on, which is even, into its half; an odd side is padded
    with a zero in front, as the original does, so that pairs of rows begin at `top` + 1 and the first row is alone."""
    alone = pad_top if top == 0 else 0
    skipped = pad_top - alone
    x = _as_images(rows[skipped:])
    if pad_left or alone:
        x = F.pad(x, (pad_left, 0, alone, 0))
    means = F.avg_pool2d(x, 2).permute(0, 2, 3, 1).squeeze(0)
    first = top // 2 + skipped
    half[first : first + len(means)] = means
