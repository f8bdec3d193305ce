"""Flows on data that is no image: point sets, vectors under a softeq ``Rep``, features under e3nn's irreps.

All of them are linear or affine on the last axis, so the finite action is a matrix exponential and the tangent one
matrix product. Matrices are kept in float64 and act in the dtype of the data.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.irreps import as_irreps
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.flows import Flow
from softeq.reps import Rep

_TOLERANCE = 1e-9  # on generators: antisymmetric, in a Lie algebra, of one rank


class ZeroFlow(Flow):
    """The flow of what does not move.

    Args:
        name, unit: of the flow that it answers to.
    """

    def __init__(self, name: str = "invariant", unit: str = "dimensionless") -> None:
        self.name, self.unit, self.matrix = name, unit, None

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """``x`` itself."""
        return x

    def tangent(self, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x)


class _MatrixFlow(Flow):
    """``x -> exp(t X) x`` on the last axis of ``(B, ..., n)``; those that derive from it say where X comes from."""

    generator: Tensor

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The data moved by t."""
        return _on_last_axis(x, torch.linalg.matrix_exp(t * self.generator))

    def tangent(self, x: Tensor) -> Tensor:
        """``X x``."""
        return _on_last_axis(x, self.generator)


class LinearFlow(_MatrixFlow):
    """``x -> exp(t X) x`` on the last axis of ``(B, ..., n)``, for any matrix X.

    Args:
        generator: X, ``(n, n)``, finite.
        name, unit: for people; the unit of t.

    Attributes:
        generator: X in float64.
        matrix: X too: the data are the defining space.

    Raises:
        SofteqValueError: a generator that is not square or not finite; data of another size.
    """

    def __init__(self, generator: Tensor, *, name: str = "linear", unit: str = "dimensionless") -> None:
        self.generator = self.matrix = square_matrix("generator", generator)
        self.name, self.unit = name, unit


class RepFlow(_MatrixFlow):
    """``x -> rho(exp(t A)) x`` on the last axis of ``(B, ..., rep.size)``.

    Args:
        rep: bound to a group on R^d.
        matrix: A, ``(d, d)``, of the group's Lie algebra.
        name, unit: for people; the unit of t.

    Attributes:
        rep: the representation.
        matrix: A in float64.
        generator: drho(A), ``(rep.size, rep.size)`` in float64.

    Raises:
        NotMeasurable: A is not in the Lie algebra of the group.
        SofteqTypeError, SofteqValueError: no rep, an unbound one, one without coordinates, or an A of another size.
    """

    def __init__(self, rep: Rep, matrix: Tensor, *, name: str = "group element", unit: str = "dimensionless") -> None:
        self.rep, self.matrix = check_rep(rep), square_matrix("matrix", matrix)
        self.generator = rep.drho(self.matrix)
        if not in_lie_algebra(rep, self.matrix):
            raise NotMeasurable(
                f"{name}: its generator is not in the Lie algebra of {rep.group}, so {rep!r} has no derivative along "
                "it; use a flow of the group (group_flows), or equivariance_error on finite elements"
            )
        self.name, self.unit = name, unit


class IrrepsFlow(_MatrixFlow):
    """``x -> D(exp(t A)) x`` on the last axis of ``(B, ..., irreps.dim)``, in e3nn's coordinates.

    Args:
        irreps: e3nn's, or text such as ``"4x0e + 2x1o"``.
        matrix: A, antisymmetric ``(3, 3)``, on the coordinates (x, y, z) of an e3nn vector.
        name, unit: for people; the unit of t.

    Attributes:
        irreps: e3nn's ``Irreps``.
        matrix: A in float64.
        generator: dD(A), ``(irreps.dim, irreps.dim)`` in float64.

    Raises:
        MissingExtraError: e3nn is not installed.
        NotMeasurable: A generates no rotation of space.
        SofteqValueError: no irreps.
    """

    def __init__(self, irreps: Any, matrix: Tensor, *, name: str = "rotation", unit: str = "radians") -> None:
        self.irreps, self.matrix = as_irreps(irreps, "irreps"), square_matrix("matrix", matrix)
        self.generator = irreps_generator(self.irreps, self.matrix)
        self.name, self.unit = name, unit


class PointFlow(Flow):
    """Points ``(B, ..., d)`` carried along the velocity ``v(p) = matrix p + shift`` about the origin.

    Args:
        matrix: ``(d, d)``.
        shift: ``(d,)``, in units of the coordinates per unit of t; ``None`` is zero (vectors, not places).
        name, unit: for people; the unit of t.

    Raises:
        SofteqValueError: a matrix and a shift of different d, NaN or inf, data of another d.
    """

    matrix: Tensor

    def __init__(
        self, matrix: Tensor, shift: Tensor | None = None, *, name: str = "motion", unit: str = "dimensionless"
    ) -> None:
        self.name, self.unit = name, unit
        self.matrix = square_matrix("matrix", matrix)
        self.shift = self.matrix.new_zeros(len(self.matrix)) if shift is None else shift.detach().cpu().double()
        if self.shift.shape != self.matrix.shape[:1] or not torch.isfinite(self.shift).all():
            raise SofteqValueError(f"shift: expected {len(self.matrix)} finite numbers, got {self.shift.tolist()}")

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The points after t."""
        d = len(self.matrix)
        generator = torch.zeros(d + 1, d + 1, dtype=torch.float64)
        generator[:d, :d], generator[:d, d] = self.matrix, self.shift
        moved = torch.linalg.matrix_exp(t * generator)
        return _on_last_axis(x, moved[:d, :d]) + moved[:d, d].to(x)

    def tangent(self, x: Tensor) -> Tensor:
        """``matrix p + shift`` at every point."""
        return _on_last_axis(x, self.matrix) + self.shift.to(x)


def point_flows(dimension: int = 3) -> tuple[PointFlow, ...]:
    """Rigid motions of point sets ``(B, N, d)``: translations along the axes, then rotations about the origin.

    In space translation_x, _y, _z and right-handed rotation_x, _y, _z; in the plane translation_x, _y and rotation,
    which takes the x axis towards the y axis. Translations are in the units of the coordinates, rotations in radians.

    Raises:
        SofteqValueError: a dimension other than 2 or 3.
    """
    if dimension not in (2, 3) or isinstance(dimension, bool):
        raise SofteqValueError(f"dimension: expected 2 or 3, got {dimension!r}; build a PointFlow for another space")
    eye = torch.eye(dimension, dtype=torch.float64)
    still, length = torch.zeros_like(eye), "coordinate units"
    shifts = [PointFlow(still, eye[k], name=f"translation_{'xyz'[k]}", unit=length) for k in range(dimension)]
    if dimension == 2:
        return (*shifts, PointFlow(torch.stack([-eye[1], eye[0]]), name="rotation", unit="radians"))
    return (*shifts, *(PointFlow(A, name=name, unit="radians") for name, A in _rotations().items()))


def group_flows(rep: Rep) -> tuple[RepFlow, ...]:
    """One flow of vectors ``(B, ..., rep.size)`` per generator in the Lie algebra of the rep's group.

    Raises:
        NotMeasurable: the group has no Lie algebra; measure finite elements with equivariance_error.
        SofteqTypeError, SofteqValueError: no rep, or one that is unbound or has no coordinates.
    """
    group = check_rep(rep).bound_group
    if not len(group.lie_algebra):
        raise NotMeasurable(
            f"{group} has no Lie algebra, so there is no derivative; measure finite elements instead: "
            "equivariance_error(f, x, rep_element(rep_in, g), rep_element(rep_out, g)) with g = group.sample(len(x))"
        )
    return tuple(
        RepFlow(rep, A, name=f"{group} generator {k}", unit="radians" if is_antisymmetric(A) else "dimensionless")
        for k, A in enumerate(group.lie_algebra)
    )


def irreps_flows(irreps: Any) -> tuple[IrrepsFlow, ...]:
    """Rotations about x, y and z of features ``(B, ..., irreps.dim)``; see `IrrepsFlow`."""
    return tuple(IrrepsFlow(irreps, A, name=name) for name, A in _rotations().items())


def irreps_generator(irreps: Any, matrix: Tensor) -> Tensor:
    """dD(A), ``(irreps.dim, irreps.dim)`` in float64, for an antisymmetric A ``(3, 3)``; see `IrrepsFlow`."""
    irreps = as_irreps(irreps, "irreps")
    if matrix.shape != (3, 3) or not is_antisymmetric(matrix):
        raise NotMeasurable(
            "irreps move under rotations of space alone: expected a flow with an antisymmetric 3 x 3 matrix, "
            f"got {matrix.tolist()}"
        )
    velocity = torch.stack([matrix[2, 1], matrix[0, 2], matrix[1, 0]]).double()
    blocks = []
    for copies, irrep in irreps:
        blocks += [torch.einsum("k,kij->ij", velocity, _irrep_generators(irrep.l))] * copies
    return torch.block_diag(*blocks)


def _irrep_generators(degree: int) -> Tensor:
    """Rotations about x, y, z on e3nn's irrep of degree l: ``(3, 2 l + 1, 2 l + 1)`` in float64.

    The Lie algebra's action is itself an equivariant map from vectors times degree l to degree l, and there is but one
    up to a factor: e3nn's 3j symbols, known in float64 (its own generators are computed in the default dtype, in
    float32 to 3e-7). Their size follows from the Casimir, their sign from [X_x, X_y] = X_z.
    """
    from e3nn import o3

    if degree == 0:
        return torch.zeros(3, 1, 1, dtype=torch.float64)
    symbols = o3.wigner_3j(degree, 1, degree, dtype=torch.float64, device="cpu")
    x = symbols.permute(1, 2, 0) * math.sqrt(degree * (degree + 1) * (2 * degree + 1))
    bracket = x[0] @ x[1] - x[1] @ x[0]
    return x if (bracket * x[2]).sum() > 0 else -x


def in_lie_algebra(rep: Rep, matrix: Tensor) -> bool:
    """Whether ``matrix``, ``(d, d)``, is in the Lie algebra that the group's generators span, brackets included."""
    span = rep.bound_group.lie_algebra.flatten(1)
    while True:
        basis = _row_space(span)
        outside = matrix.flatten() - (matrix.flatten() @ basis.mT) @ basis
        if float(outside.norm()) <= _TOLERANCE * max(1.0, float(matrix.norm())):
            return True
        m = basis.unflatten(1, matrix.shape)
        products = torch.einsum("aij,bjk->abik", m, m)
        span = _row_space(torch.cat([basis, (products - products.transpose(0, 1)).flatten(2).flatten(0, 1)]))
        if len(span) == len(basis):
            return False


def _row_space(rows: Tensor) -> Tensor:
    _, singular, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[singular > _TOLERANCE * singular.max()] if len(singular) else basis


def check_rep(rep: Rep) -> Rep:
    """``rep``, or an error: not a Rep, bound to no group, or without coordinates."""
    if not isinstance(rep, Rep):
        raise SofteqTypeError(f"rep: expected a Rep bound to a group, e.g. Vector(SO(3)), got {type(rep).__name__}")
    if rep.size == 0:
        raise SofteqValueError(f"rep: expected at least one coordinate, got {rep!r}")
    return rep


def square_matrix(argument: str, matrix: Tensor) -> Tensor:
    """``matrix`` in float64 on the CPU, or an error: not square, no entries, or not finite."""
    matrix = torch.as_tensor(matrix, dtype=torch.float64).detach().cpu()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise SofteqValueError(f"{argument}: expected a square matrix, got shape {tuple(matrix.shape)}")
    if not torch.isfinite(matrix).all():
        raise SofteqValueError(f"{argument}: expected finite numbers, got NaN or inf")
    return matrix


def is_antisymmetric(matrix: Tensor) -> bool:
    """Whether it generates rotations."""
    return bool((matrix + matrix.mT).abs().max() <= _TOLERANCE)


def _rotations() -> dict[str, Tensor]:
    """Right-handed rotations of space, ``A p = e_k x p``, by name: ``(3, 3)`` in float64."""
    eye = torch.eye(3, dtype=torch.float64)
    return {f"rotation_{axis}": torch.linalg.cross(e.expand(3, 3), eye).mT for axis, e in zip("xyz", eye, strict=True)}


def _on_last_axis(x: Tensor, matrix: Tensor) -> Tensor:
    """``matrix @ x`` on the last axis, after a check of the shape (never of values: it may run under vmap)."""
    n = len(matrix)
    if not x.is_floating_point() or x.ndim < 2 or x.shape[-1] != n:
        raise SofteqValueError(f"x: expected floating-point data (B, ..., {n}), got {tuple(x.shape)} of {x.dtype}")
    return x @ matrix.to(x).mT
