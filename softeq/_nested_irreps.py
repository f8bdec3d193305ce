"""Ladders of subgroups of O(3) between irreps: what each subgroup allows beyond Schur's lemma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softeq._ladder import Described, Ladder, ladders_of, spaces
from softeq._nested_groups import checked_groups, labels
from softeq.errors import SofteqValueError
from softeq.groups import Group, O

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


def irreps_ladders(irreps_in: Irreps, irreps_out: Irreps, biased: Irreps, ladder: Any) -> dict[str, Ladder]:
    """The spaces of a layer's weight ``(out, in)`` and bias, ``(biased.dim,)``, under nested subgroups of O(3).

    Raises:
        SofteqTypeError, SofteqValueError: a ladder that is none, or does not begin with O(3); empty irreps.
    """
    if not irreps_in.dim or not irreps_out.dim:
        raise SofteqValueError(f"ladder: expected None between empty irreps, {irreps_in!r} and {irreps_out!r}")
    with torch.device("cpu"):  # also where a model is built on the meta device
        own = O(3)
    groups = checked_groups(ladder, own, "the irreps")
    shape = irreps_out.dim, irreps_in.dim
    parts: dict[str, Described] = {"weight": (shape, (str(irreps_in), str(irreps_out), groups))}
    if biased.dim:
        parts["bias"] = (biased.dim,), ("0e", str(biased), groups)
    return ladders_of(_irreps_spaces, parts, labels(groups))


def _irreps_spaces(irreps_in: str, irreps_out: str, groups: Sequence[Group]) -> dict[str, Tensor]:
    from softeq.irreps import as_irreps, coordinates  # the layer there is built on this module

    width = as_irreps(irreps_in, "irreps_in").dim
    inputs = coordinates(as_irreps(irreps_in, "irreps_in"))
    blocks = []
    for kind_out, rows in coordinates(as_irreps(irreps_out, "irreps_out")).items():
        for kind_in, columns in inputs.items():
            flat = rows[:, None, :, None] * width + columns[None, :, None, :]
            first = torch.eye(kind_in.dim, dtype=torch.float64).view(1, -1) * kind_in.dim**-0.5
            own = first if kind_in == kind_out else first.new_zeros(0, kind_out.dim * kind_in.dim)
            levels = [own, *(_maps(kind_in, kind_out, group) for group in groups[1:])]
            blocks.append((flat.reshape(len(rows) * len(columns), -1), levels))
    return spaces(blocks)


def _maps(kind_in: Any, kind_out: Any, group: Group) -> Tensor:
    """An orthonormal basis of the maps between two irreps that commute with a subgroup, ``(rank, d_out d_in)``."""
    size = kind_out.dim * kind_in.dim
    gram = torch.zeros(size, size, dtype=torch.float64)
    for element in _generating(group):
        constraint = torch.kron(_matrix(kind_out, element), _matrix(kind_in, element)) - torch.eye(size)
        gram += constraint.T @ constraint
    values, vectors = torch.linalg.eigh(gram)
    return vectors[:, values < 1e-10].T.contiguous()


def _generating(group: Group) -> list[Tensor]:
    """Elements whose powers are dense in a subgroup of O(3): of each one-parameter subgroup the turn by one radian."""
    turns = [torch.linalg.matrix_exp(a / torch.linalg.matrix_norm(a, 2)) for a in group.lie_algebra]
    return [*turns, *group.discrete_generators]


def _matrix(kind: Any, element: Tensor) -> Tensor:
    """An irrep's matrix of an element of O(3), in float64, from how its spherical harmonics move.

    e3nn's own way goes through Euler angles, which lose half of the digits near the poles.
    """
    from e3nn import o3

    points = torch.randn(4 * kind.dim, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sign = torch.linalg.det(element).sign()
    before, after = (o3.spherical_harmonics(kind.l, x, normalize=True) for x in (points, points @ (sign * element).T))
    matrix = torch.linalg.lstsq(before, after).solution.T
    return matrix * kind.p if sign < 0 else matrix
