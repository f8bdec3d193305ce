"""Finite group elements that move data exactly: pixels permuted, channels permuted, vectors and points by a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.irreps import as_irreps
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.fields import base_matrix, check_field, fibre_matrix
from softeq.measure.motion.spaces import check_rep, irreps_generator
from softeq.reps import Rep

_TOLERANCE = 1e-6  # on elements that a user computed, perhaps in float32


@dataclass(frozen=True)
class Element:
    """One group element's action on a batch.

    Attributes:
        name: for people.
        act: ``(B, ...)`` to ``(B, ...)``.
    """

    name: str
    act: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """The moved batch."""
        return self.act(x)

    def then(self, other: Element) -> Element:
        """This element, and then the other."""
        return Element(f"{self.name}, {other.name}", lambda x: other.act(self.act(x)))


def quarter_turn(k: int = 1, *, channels_last: bool = False) -> Element:
    """k turns of images by 90 degrees, counter-clockwise as seen; odd k swap height and width.

    Like all elements on images here: ``(B, C, H, W)``, or ``(B, H, W, C)`` with ``channels_last``.
    """
    k = _whole("k", k)
    return _on_images(f"{k} quarter turns", lambda x: x.rot90(k, (-2, -1)), channels_last)


def flip_horizontal(*, channels_last: bool = False) -> Element:
    """Left and right exchanged."""
    return _on_images("flip left-right", lambda x: x.flip(-1), channels_last)


def flip_vertical(*, channels_last: bool = False) -> Element:
    """Top and bottom exchanged."""
    return _on_images("flip top-bottom", lambda x: x.flip(-2), channels_last)


def shift(columns: int, rows: int, *, channels_last: bool = False) -> Element:
    """Content moved right and down by whole pixels, periodically; a map of another resolution needs one of its own."""
    right, down = _whole("columns", columns), _whole("rows", rows)
    return _on_images(f"shift by ({right}, {down})", lambda x: x.roll((down, right), (-2, -1)), channels_last)


def permute_channels(permutation: Sequence[int], *, channels_last: bool = False) -> Element:
    """Channel i of the result is channel ``permutation[i]`` of ``(B, C, ...)``, or of the last axis."""
    order = list(permutation)
    if sorted(order) != list(range(len(order))) or not order:
        raise SofteqValueError(f"permutation: expected each of 0 .. n - 1 once, got {order}")
    axis = -1 if channels_last else 1

    def act(x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[axis] != len(order):
            raise SofteqValueError(f"x: expected {len(order)} channels on axis {axis}, got shape {tuple(x.shape)}")
        return x.index_select(axis, torch.tensor(order, device=x.device))

    return Element(f"channels {order}", act)


def on_tokens(element: Element, grid: tuple[int, int], prefix: int = 0) -> Element:
    """An element on images ``(B, C, H, W)``, on tokens ``(B, prefix + h * w, C)``; the prefix does not move."""
    h, w = (_whole("grid", n) for n in grid)

    def act(x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1] != prefix + h * w:
            raise SofteqValueError(f"x: expected tokens (B, {prefix} + {h} * {w}, C), got {tuple(x.shape)}")
        images = x[:, prefix:].unflatten(1, (h, w)).movedim(-1, 1)
        return torch.cat([x[:, :prefix], element(images).movedim(1, -1).flatten(1, 2)], 1)

    return Element(f"{element.name} on tokens", act)


def matrix_element(matrix: Tensor, shift: Tensor | None = None, *, name: str = "matrix") -> Element:
    """``x -> matrix x + shift`` on the last axis of ``(B, ..., n)``.

    Args:
        matrix: ``(n, n)``, or ``(B, n, n)`` for one of each sample.
        shift: ``(n,)`` or ``(B, n)``; ``None``: none.
        name: for people.
    """
    matrix = _finite("matrix", matrix, 2)
    offset = matrix.new_zeros(matrix.shape[-1]) if shift is None else _finite("shift", shift, 1)
    n = matrix.shape[-1]
    if matrix.shape[-2] != n or offset.shape[-1] != n:
        got = f"{tuple(matrix.shape)} and {tuple(offset.shape)}"
        raise SofteqValueError(f"matrix, shift: expected (n, n) or (B, n, n) and (n,) or (B, n), got {got}")

    def act(x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[-1] != n or any(len(x) != len(m) for m, k in ((matrix, 2), (offset, 1)) if m.ndim > k):
            expected = f"(B, ..., {n}), B as of the elements {tuple(matrix.shape)}"
            raise SofteqValueError(f"x: expected {expected}, got {tuple(x.shape)}")
        rows = x.flatten(1, -2) if x.ndim > 2 else x[:, None]  # (B, N, n)
        moved = rows @ matrix.to(x).mT + offset.to(x).unsqueeze(-2)
        return moved.reshape(x.shape)

    return Element(name, act)


def rep_element(rep: Rep, g: Tensor) -> Element:
    """Vectors ``(B, ..., rep.size)`` under rho(g), g ``(d, d)``, or ``(B, d, d)`` as ``group.sample(B)`` gives it."""
    g = _finite("g", g, 2)
    return matrix_element(check_rep(rep).rho(g), name=f"{rep!r}")


def irreps_element(irreps: Any, rotation: Tensor) -> Element:
    """Features ``(B, ..., irreps.dim)`` under D(R), in e3nn's coordinates.

    D(R) is exp of its generator in float64; e3nn's own ``D_from_matrix`` is good to 1e-6 only, in its default dtype.

    Args:
        irreps: e3nn's, or text.
        rotation: R, ``(3, 3)`` or ``(B, 3, 3)``, orthogonal; one of determinant -1 is parity times a rotation.
    """
    irreps, rotation = as_irreps(irreps, "irreps"), _finite("rotation", rotation, 2)
    eye = torch.eye(3, dtype=torch.float64)
    if rotation.shape[-2:] != (3, 3) or float((rotation @ rotation.mT - eye).abs().max()) > _TOLERANCE:
        raise SofteqValueError(f"rotation: expected orthogonal matrices (3, 3) or (B, 3, 3), got {rotation.tolist()}")
    parities = torch.cat([torch.full((copies * kind.dim,), float(kind.p)) for copies, kind in irreps]).double()
    matrices = [_irreps_matrix(irreps, parities, R) for R in rotation.reshape(-1, 3, 3)]
    return matrix_element(torch.stack(matrices).reshape(*rotation.shape[:-2], irreps.dim, irreps.dim), name=f"{irreps}")


def _irreps_matrix(irreps: Any, parities: Tensor, rotation: Tensor) -> Tensor:
    sign = float(torch.linalg.det(rotation).sign())
    proper = sign * rotation
    # The axis is what the rotation leaves alone; its sign is arbitrary, and the angle's follows it.
    axis = torch.linalg.svd(proper - torch.eye(3, dtype=torch.float64)).Vh[-1]
    skew = (proper - proper.mT) / 2
    sine = axis @ torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    angle = torch.atan2(sine, (proper.trace() - 1) / 2)
    x, y, z = axis.tolist()
    about = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    turn = torch.linalg.matrix_exp(angle * irreps_generator(irreps, about))
    return turn if sign > 0 else parities[:, None] * turn


def field_element(field: Any, element: Any, *, channels_last: bool = False) -> Element:
    """Maps of an escnn ``FieldType`` under an element that takes the grid to itself: pixels and channels.

    Args:
        field: of the plane.
        element: of ``field.gspace.fibergroup``.
        channels_last: maps are ``(B, H, W, C)``.

    Raises:
        NotMeasurable: the element takes pixels between pixels: it is no multiple of a quarter turn, flipped or not.
    """
    fibre, matrix = fibre_matrix(check_field(field), element), base_matrix(field, element)
    exact = matrix.round()
    if float((matrix - exact).abs().max()) > _TOLERANCE:
        raise NotMeasurable(
            f"{element} takes pixels between pixels; measure quarter turns and flips of {field.gspace.name}"
        )

    def act(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != field.size:
            raise SofteqValueError(f"x: expected maps with {field.size} channels, got shape {tuple(x.shape)}")
        return torch.einsum("ij,bjhw->bihw", fibre.to(x), _permuted(x, exact))

    return _on_images(f"{element} of {field.gspace.name}", act, channels_last)


def _permuted(x: Tensor, matrix: Tensor) -> Tensor:
    """Content at p moved to matrix p, for a signed permutation of (column, row)."""
    (a, b), (c, d) = matrix.tolist()
    swapped = a == 0
    images = x.mT if swapped else x
    axes = [axis for axis, entry in ((-1, b if swapped else a), (-2, c if swapped else d)) if entry < 0]
    return images.flip(axes)


def _on_images(name: str, act: Callable[[Tensor], Tensor], channels_last: bool) -> Element:
    axes = "(B, H, W, C)" if channels_last else "(B, C, H, W)"

    def checked(x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise SofteqValueError(f"x: {name} moves images {axes}, got shape {tuple(x.shape)}")
        return act(x.movedim(-1, 1)).movedim(1, -1) if channels_last else act(x)

    return Element(name, checked)


def _whole(argument: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SofteqTypeError(
            f"{argument}: expected a whole number, got {value!r}; other steps are flows, not elements"
        )
    return value


def _finite(argument: str, value: Tensor, axes: int) -> Tensor:
    """In float64 on the CPU, with `axes` axes or a batch of them."""
    value = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    if value.ndim not in (axes, axes + 1) or not torch.isfinite(value).all():
        raise SofteqValueError(
            f"{argument}: expected finite numbers on {axes} axes, or one set per sample, got {value}"
        )
    return value
