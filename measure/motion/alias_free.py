"""Shifts and turns of images as Karras et al. define them ("Alias-Free Generative Adversarial Networks", NeurIPS 2021).

Appendix E: whole shifts; shifts by parts of a pixel through a Lanczos kernel of three lobes (E.2); turns through a
filter that passes what both the image's own grid and the turned one can hold, the convolution of their two sinc
kernels under that of two Lanczos windows, applied at four samples a pixel (E.3). A turned image has lost the corners of
its spectrum; `filtered` takes them from an image that was not turned here, so that only what a network does is left.

All operators are followed by which pixels they are valid at: where the kernel saw the image alone.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from softeq.measure.motion.flows import AffineFlow
from softeq.measure.motion.stencils import fold

LOBES = 3
_REACH, _FINE, _FAR = 2 * LOBES, 4, 64  # half a filter's width in pixels; samples a pixel; where its sincs are cut


def shifted(x: Tensor, columns: float, rows: float, boundary: str, *, whole: bool) -> Tensor:
    """(B, C, H, W) moved right and down by so many pixels; beyond the edge it goes on as `boundary` says.

    Args:
        x: images.
        columns, rows: with `whole`, whole numbers.
        boundary: one of measure.motion.stencils.BOUNDARIES.
        whole: pixels are moved, nothing is interpolated.
    """
    height, width = x.shape[-2:]
    across, down = (_mixing(n, t, boundary, whole).to(x) for n, t in ((width, columns), (height, rows)))
    return down @ x @ across.T


def shift_valid(height: int, width: int, columns: float, rows: float, *, whole: bool) -> Tensor:
    """(H, W) bool: pixels that `shifted` made of the image alone."""
    sides = []
    for n, t in ((height, rows), (width, columns)):
        taps, _ = _taps(n, t, whole)
        sides.append(((taps >= 0) & (taps < n)).all(0))
    return sides[0][:, None] & sides[1]


def _taps(n: int, t: float, whole: bool) -> tuple[Tensor, Tensor]:
    """Positions and weights (taps, n) of what each pixel is made of."""
    source = torch.arange(n, dtype=torch.float64) - t
    if whole:
        return source.round().long()[None], torch.ones(1, n, dtype=torch.float64)
    taps = source.floor().long() + torch.arange(1 - LOBES, 1 + LOBES)[:, None]
    weights = torch.sinc(source - taps) * torch.sinc((source - taps) / LOBES)
    return taps, weights / weights.sum(0)


def _mixing(n: int, t: float, boundary: str, whole: bool) -> Tensor:
    taps, weights = _taps(n, t, whole)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    rows = torch.arange(n).expand_as(taps)
    return matrix.index_put_((rows, fold(taps, n, "bspline", boundary)), weights, accumulate=True)


def turned(x: Tensor, flow: AffineFlow, t: float, boundary: str) -> Tensor:
    """(B, C, H, W) after a motion of length t along a flow about the centre, such as a rotation."""
    height, width = x.shape[-2:]
    around = math.ceil((math.hypot(height, width) - min(height, width)) / 2) + _REACH + 1
    rows, columns = (
        fold(torch.arange(-around, n + around), n, "bspline", boundary).to(x.device) for n in (height, width)
    )
    kernel = F.pad(_kernel(_numbers(flow, t), _FINE), (0, 1, 0, 1)).view(2 * _REACH, _FINE, 2 * _REACH, _FINE)
    phases = kernel.flip(0, 2).permute(1, 3, 0, 2).reshape(_FINE**2, 1, 2 * _REACH, 2 * _REACH).to(x)
    points = (flow.sources(t, height, width) + around) * _FINE + _REACH * _FINE - 1
    found = []
    for image in x[:, :, rows][..., columns]:  # one at a time: there are sixteen samples a pixel
        fine = F.pixel_shuffle(F.conv2d(image[:, None], phases, padding=2 * _REACH - 1), _FINE)
        last = torch.tensor([fine.shape[-1] - 1, fine.shape[-2] - 1], dtype=torch.float64)
        grid = (points / last * 2 - 1).to(x).expand(len(fine), -1, -1, -1)
        found.append(F.grid_sample(fine, grid, align_corners=True)[:, 0])
    return torch.stack(found)


def filtered(x: Tensor, flow: AffineFlow, t: float) -> Tensor:
    """(B, C, H, W) with the frequencies alone that the motion, undone, would leave; nothing is moved."""
    kernel = _kernel(_numbers(flow, -t), 1).to(x)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return F.conv2d(flat, kernel[None, None], padding=len(kernel) // 2).reshape(x.shape)


def turn_valid(flow: AffineFlow, t: float, height: int, width: int) -> Tensor:
    """(H, W) bool: pixels that `turned` and `filtered` both made of the image alone."""
    reach = _REACH - 1 / _FINE
    last = torch.tensor([width - 1, height - 1], dtype=torch.float64)
    sources = flow.sources(t, height, width)
    held = ((sources >= reach) & (sources <= last - reach)).all(-1)
    rows, columns = (torch.arange(n) for n in (height, width))
    sides = [(index >= _REACH - 1) & (index <= n - _REACH) for index, n in ((rows, height), (columns, width))]
    return held & sides[0][:, None] & sides[1]


def _numbers(flow: AffineFlow, t: float) -> tuple[float, ...]:
    """How places (column, row) about the centre move."""
    return tuple(torch.linalg.matrix_exp(t * flow.matrix).flatten().tolist())


@lru_cache(maxsize=32)
def _kernel(matrix: tuple[float, ...], fine: int) -> Tensor:
    """(2 * reach * fine - 1,) * 2: what both grids can hold, in the image's own coordinates, `fine` samples a pixel."""
    middle, reach = _FAR * fine, _REACH * fine
    line = torch.arange(-middle, middle, dtype=torch.float64) / fine
    own = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    after = own @ torch.tensor(matrix, dtype=torch.float64).view(2, 2).T
    band = _convolved(*(torch.sinc(places).prod(-1) for places in (own, after)))
    window = _convolved(*(_window(places).prod(-1) for places in (own, after)))
    inner = slice(middle - reach + 1, middle + reach)
    kernel = F.pad((band * window)[inner, inner], (0, 1, 0, 1))
    phases = kernel.view(2 * _REACH, fine, 2 * _REACH, fine)
    return (phases / phases.sum((0, 2), keepdim=True)).view_as(kernel)[:-1, :-1]


def _window(places: Tensor) -> Tensor:
    """Lanczos'."""
    return torch.where(places.abs() < LOBES, torch.sinc(places / LOBES), 0.0)


def _convolved(a: Tensor, b: Tensor) -> Tensor:
    """Of two kernels (2 m, 2 m) with the origin at (m, m), up to a factor; what has no counterpart opposite is 0."""
    spectra = []
    for kernel in (a, b):
        even = kernel.clone()
        even[0], even[:, 0] = 0, 0
        spectra.append(torch.fft.rfft2(torch.fft.ifftshift(even)))
    return torch.fft.fftshift(torch.fft.irfft2(spectra[0] * spectra[1], s=a.shape))
