"""Spatial derivatives of sampled images, and the interpolants that they are the derivatives of.

Each stencil says how an image between its pixels is understood:

    bspline    the cubic spline through the pixels (Unser, Aldroubi, Eden, 1993): the derivative is of fourth order;
    fourier    the trigonometric polynomial through them: exact for band-limited images;
    central    Catmull-Rom (Keys, 1981), whose derivative is the central difference: second order;
    reference  bilinear, whose derivative at a pixel is a forward or a backward difference as the float rounding of the
               sampling grid falls: what Gruver, Finzi, Goldblum, Wilson (ICLR 2023) measure, for reproduction only.

Beyond its edge an image goes on with its mirror image (x1, x0 | x0, x1, ...), or it is periodic. The mirror of
`reference` stands on the edge pixel, as in the paper's code (x1 | x0, x1, ...).
Every stencil is separable: per axis a small (n, n) derivative matrix, built once in float64. No derivative is taken
through a resampler anywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable

STENCILS: tuple[str, ...] = ("bspline", "fourier", "central", "reference")
BOUNDARIES: tuple[str, ...] = ("mirror", "periodic")
_SPLINE = {-1: 1 / 6, 0: 4 / 6, 1: 1 / 6}  # the cubic B-spline at the integers
_CENTRAL = {-1: -0.5, 1: 0.5}  # ... and its derivative there
_EXACT = 1e-9  # pixels
_ON_PIXEL = {"mirror": "mirror on pixel"}
_DENSE_LIMIT = 2**33  # products of the dense Fourier sum per channel: a 300 x 300 image at as many points
_CHUNK = 2**24  # numbers held at once by that sum


def check_choice(stencil: str, boundary: str) -> None:
    """Raises SofteqValueError for an unknown stencil or boundary."""
    for name, value, choices in (("stencil", stencil, STENCILS), ("boundary", boundary, BOUNDARIES)):
        if value not in choices:
            raise SofteqValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def image_gradient(x: Tensor, stencil: str = "bspline", boundary: str = "mirror") -> tuple[Tensor, Tensor]:
    """d/dcolumn and d/drow of images, per pixel.

    Args:
        x: (..., H, W), floating.
        stencil: one of STENCILS.
        boundary: one of BOUNDARIES.

    Returns:
        Two tensors shaped like `x`, in its dtype; 0 along an axis of one pixel.

    Raises:
        SofteqValueError: an unknown stencil or boundary.
    """
    check_choice(stencil, boundary)
    return image_slope(x, -1, stencil, boundary), image_slope(x, -2, stencil, boundary)


def image_slope(x: Tensor, axis: int, stencil: str, boundary: str) -> Tensor:
    """The derivative of images (..., H, W) along the columns (axis -1) or the rows (-2), per pixel."""
    return slope(x, axis % x.ndim, stencil, boundary)


def slope(x: Tensor, axis: int, stencil: str, boundary: str) -> Tensor:
    """The derivative of a floating tensor along one axis of its grid (0 is the first), per step, shaped like `x`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision rounds the matrix too coarsely
    matrix = derivative_matrix(x.shape[axis], stencil, boundary, wide.dtype).to(wide)
    if axis == x.ndim - 1:
        return (wide @ matrix.T).to(x.dtype)
    return (matrix @ wide.flatten(axis + 1)).reshape(x.shape).to(x.dtype)


def resample(x: Tensor, points: Tensor, stencil: str = "bspline", boundary: str = "mirror") -> Tensor:
    """The images' interpolant at the given points: the one whose derivative at the pixels is the stencil.

    Args:
        x: (B, C, H, W), floating.
        points: (H', W', 2), (column, row) in pixels; pixel (0, 0) of `x` is at 0, 0. Not differentiated.
        stencil, boundary: see `image_gradient`.

    Returns:
        (B, C, H', W') in x's dtype; where every point is a pixel, those pixels as they are.

    Raises:
        SofteqValueError: an unknown stencil or boundary.
        NotMeasurable: `fourier` on more pixels than its dense sum can take (shifts and stretches have no limit).
    """
    check_choice(stencil, boundary)
    height, width = x.shape[-2:]
    columns, rows = points.detach().to("cpu", torch.float64).reshape(-1, 2).unbind(1)
    if on_pixels(points):
        places = ((rows, height), (columns, width))
        row, column = (fold(p.round().long(), n, stencil, boundary).to(x.device) for p, n in places)
        return x[..., row, column].reshape(*x.shape[:-2], *points.shape[:-1])
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if points.ndim == 3 and bool((points == _crossed(points)).all()):
        across, down = (
            _axis_matrix(p, n, stencil, boundary).to(wide)
            for p, n in ((points[0, :, 0], width), (points[:, 0, 1], height))
        )
        return (down @ wide @ across.T).to(x.dtype)
    if stencil == "fourier":
        if height * width * len(columns) > _DENSE_LIMIT:
            raise NotMeasurable(
                f"stencil: 'fourier' resamples {height} x {width} pixels at {len(columns)} points by a dense sum, "
                "which is too long; use 'bspline', or smaller images (its tangents have no such limit)"
            )
        found = _dense(wide, _dirichlet(columns, width, boundary), _dirichlet(rows, height, boundary))
    else:
        if stencil == "bspline":
            across, down = (_prefilter(n, boundary).to(wide) for n in (width, height))
            wide = down @ wide @ across.T
        found = _local(wide, axis_taps(columns, width, stencil, boundary), axis_taps(rows, height, stencil, boundary))
    return found.reshape(*x.shape[:-2], *points.shape[:-1]).to(x.dtype)


def _crossed(points: Tensor) -> Tensor:
    """(H, W, 2): the columns of the first row and the rows of the first column: `points`, where the axes part."""
    rows, columns = torch.broadcast_tensors(points[:, :1, 1], points[:1, :, 0])
    return torch.stack([columns, rows], dim=-1)


def _axis_matrix(position: Tensor, n: int, stencil: str, boundary: str) -> Tensor:
    """(points, n) float64: the interpolant at the positions along one axis, from the pixels there."""
    position = position.detach().to("cpu", torch.float64)
    if stencil == "fourier":
        return _dirichlet(position, n, boundary)
    index, weight = axis_taps(position, n, stencil, boundary)
    matrix = torch.zeros(len(position), n, dtype=torch.float64)
    matrix.index_put_((torch.arange(len(position)).expand_as(index), index), weight, accumulate=True)
    return matrix @ _prefilter(n, boundary) if stencil == "bspline" else matrix


def on_pixels(points: Tensor) -> bool:
    """Whether all points (..., 2) are pixels, up to rounding: what moves them interpolates nothing."""
    return bool((points - points.round()).abs().max() < _EXACT) if points.numel() else True


@lru_cache(maxsize=128)
def derivative_matrix(n: int, stencil: str, boundary: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """(n, n) float64: the derivative at the n pixels of one axis from their values. Do not write into it.

    `dtype` matters to `reference` alone, whose differences hang on that dtype's rounding.
    """
    if stencil == "fourier":
        return _fourier_matrix(n, boundary)
    if stencil == "reference":
        return _reference_matrix(n, boundary, dtype)
    central = _band(n, _CENTRAL, boundary)
    return central @ _prefilter(n, boundary) if stencil == "bspline" else central


def fold(index: Tensor, n: int, stencil: str, boundary: str) -> Tensor:
    """Whole positions of any size along an axis of n to the pixels that stand there, as the stencil goes on."""
    return _fold(index, n, _ON_PIXEL.get(boundary, boundary) if stencil == "reference" else boundary)


def _fold(index: Tensor, n: int, boundary: str) -> Tensor:
    """Indices of any size to those of the pixels that stand there."""
    if boundary == "periodic":
        return index % n
    if boundary == "mirror on pixel":
        index = index % max(2 * n - 2, 1)
        return torch.minimum(index, 2 * n - 2 - index)
    index = index % (2 * n)
    return torch.where(index < n, index, 2 * n - 1 - index)


def _band(n: int, weights: dict[int, float], boundary: str) -> Tensor:
    matrix = torch.zeros(n, n, dtype=torch.float64)
    pixels = torch.arange(n)
    for offset, weight in weights.items():
        value = torch.tensor(weight, dtype=torch.float64)
        matrix.index_put_((pixels, _fold(pixels + offset, n, boundary)), value, accumulate=True)
    return matrix


def prefiltered(x: Tensor, axis: int, boundary: str) -> Tensor:
    """The cubic spline's coefficients along one axis, from the values there."""
    matrix = _prefilter(x.shape[axis], boundary).to(x)
    return torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)


@lru_cache(maxsize=64)
def _prefilter(n: int, boundary: str) -> Tensor:
    """(n, n): the spline's coefficients from the pixels."""
    inverse = torch.linalg.inv(_band(n, _SPLINE, boundary))
    # It falls off by 0.27 a pixel: far out it is nothing to float64, but denormal in float32, which is slow.
    return torch.where(inverse.abs() < 1e-20, 0.0, inverse)


def _fourier_matrix(n: int, boundary: str) -> Tensor:
    if boundary == "mirror":  # half of the periodic extension, of twice the length
        return _mirrored(_fourier_matrix(2 * n, "periodic")[:n])
    frequency = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    if n % 2 == 0:
        frequency[n // 2] = 0.0  # the interpolant has the cosine of the highest frequency, flat at the pixels
    spectrum = torch.fft.fft(torch.eye(n, dtype=torch.float64), dim=0)
    return torch.fft.ifft(2j * math.pi / n * frequency[:, None] * spectrum, dim=0).real


def _mirrored(weights: Tensor) -> Tensor:
    """Weights (..., 2 n) on an image followed by its mirror image, as weights (..., n) on the image."""
    first, second = weights.chunk(2, dim=-1)
    return first + second.flip(-1)


def _reference_matrix(n: int, boundary: str, dtype: torch.dtype) -> Tensor:
    """Differences to the side on which the rounded coordinate of `affine_grid(align_corners=True)` falls."""
    if n == 1:
        return torch.zeros(1, 1, dtype=torch.float64)
    coordinate = (torch.linspace(-1, 1, n, dtype=dtype) + 1) * ((n - 1) / 2)  # as F.grid_sample undoes the scaling
    left = coordinate.floor().long()
    boundary = _ON_PIXEL.get(boundary, boundary)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for index, sign in ((left, -1.0), (left + 1, 1.0)):
        matrix.index_put_(
            (torch.arange(n), _fold(index, n, boundary)), torch.tensor(sign, dtype=torch.float64), accumulate=True
        )
    return matrix


def axis_taps(position: Tensor, n: int, stencil: str, boundary: str) -> tuple[Tensor, Tensor]:
    """Indices and weights, each (taps, points), of a local interpolant along one axis."""
    left = position.floor()
    u = position - left
    offsets: tuple[int, ...] = (-1, 0, 1, 2)
    if stencil == "reference":
        boundary = _ON_PIXEL.get(boundary, boundary)
        offsets, weights = (0, 1), [1 - u, u]
    elif stencil == "central":
        weights = [
            u * (u * (2 - u) - 1) / 2,
            (u * u * (3 * u - 5) + 2) / 2,
            u * (u * (4 - 3 * u) + 1) / 2,
            u * u * (u - 1) / 2,
        ]
    else:
        weights = [(1 - u) ** 3 / 6, (u * u * (3 * u - 6) + 4) / 6, (u * (u * (3 - 3 * u) + 3) + 1) / 6, u**3 / 6]
    index = torch.stack([_fold(left.long() + offset, n, boundary) for offset in offsets])
    return index, torch.stack(weights)


def _local(x: Tensor, columns: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor]) -> Tensor:
    """(..., H, W) -> (..., points)."""
    pixels = x.flatten(-2).flatten(0, -2).T.contiguous()  # (H W, ...): what a point takes lies together
    found = torch.zeros(columns[0].shape[1], pixels.shape[1], dtype=x.dtype, device=x.device)
    for row, row_weight in zip(*rows, strict=True):
        for column, column_weight in zip(*columns, strict=True):
            taken = pixels.index_select(0, (row * x.shape[-1] + column).to(x.device))
            found = torch.addcmul(found, taken, (row_weight * column_weight).to(x)[:, None])
    return found.T.contiguous().reshape(*x.shape[:-2], -1)


def _dirichlet(position: Tensor, n: int, boundary: str) -> Tensor:
    """(points, n): weights of the trigonometric interpolant along one axis."""
    if boundary == "mirror":
        return _mirrored(_dirichlet(position, 2 * n, "periodic"))
    distance = position[:, None] - torch.arange(n, dtype=torch.float64)
    distance = distance - n * (distance / n).round()
    angle = math.pi * distance / n
    below = angle.sin() if n % 2 else angle.tan()
    # At distance n / 2 of an even n the tangent is infinite to rounding, and the weight 0, as it should be.
    return torch.where(distance == 0, 1.0, (n * angle).sin() / (n * torch.where(distance == 0, 1.0, below)))


def _dense(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """(..., H, W) and weights (points, W), (points, H) -> (..., points)."""
    size = max(1, _CHUNK // max(1, x.shape[:-1].numel()))
    pieces = [
        (x @ across.T.to(x) * down.T.to(x)).sum(-2)
        for across, down in zip(columns.split(size), rows.split(size), strict=True)
    ]
    return torch.cat(pieces, dim=-1)
