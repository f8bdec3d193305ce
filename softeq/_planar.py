"""The filters that commute with a group of rotations and reflections of the plane, from escnn, as orthonormal bases.

escnn (Weiler and Cesa 2019, arXiv 1911.08251; Cesa, Lang and Weiler 2022) is imported where a layer is built. Its
extra: ``pip install 'softeq[escnn]'``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError

if TYPE_CHECKING:
    from escnn.group import Representation
    from escnn.gspaces import GSpace
    from escnn.nn import FieldType

OPTIONS = ("frequencies_cutoff", "rings", "sigma", "basis_filter")
"""What of escnn's ``R2Conv`` decides which filters its basis spans."""


def field_type(value: Any, name: str) -> FieldType:
    """``value``, checked to be escnn's ``FieldType`` over the plane.

    Raises:
        MissingExtraError: escnn is not installed.
        SofteqTypeError: something else.
        SofteqValueError: a field that does not live on the plane.
    """
    try:
        from escnn.gspaces import GSpace2D
        from escnn.nn import FieldType
    except ImportError as error:
        raise MissingExtraError("steerable convolutions need escnn: pip install 'softeq[escnn]'") from error
    if not isinstance(value, FieldType):
        raise SofteqTypeError(f"{name}: expected an escnn FieldType, got {type(value).__name__}")
    if not isinstance(value.gspace, GSpace2D):
        raise SofteqValueError(f"{name}: expected fields on the plane (a gspace ...OnR2), got {value.gspace}")
    return value


@contextlib.contextmanager
def escnn_at_work() -> Iterator[None]:
    """Lets escnn build its bases where a recent scikit-learn is installed, and quietly.

    escnn hands scikit-learn's randomized SVD an ``np.matrix``, which that refuses (escnn issue 112): dihedral groups
    cannot be built. Without it escnn uses SciPy's exact SVD. Set back afterwards.
    """
    import escnn.group._numerical as numerical

    before = getattr(numerical, "randomized_svd", None)
    numerical.randomized_svd = None
    try:
        # It prints a warning where no filter maps one field into another; here that is an empty block.
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        numerical.randomized_svd = before


def symmetries_of_the_grid(gspace: GSpace) -> list[tuple[Any, Tensor]]:
    """The elements of the fiber group that map the pixel grid to itself, each with its 2 x 2 matrix of integers."""
    group = gspace.fibergroup
    elements = group.grid(4) if group.continuous else group.elements
    found = []
    for element in elements:
        matrix = torch.as_tensor(gspace.basespace_action(element), dtype=torch.float64)
        if (matrix - matrix.round()).abs().max() < 1e-9:
            found.append((element, matrix.round().long()))
    return found


def move_pixels(x: Tensor, matrix: Tensor) -> Tensor:
    """``(..., k, k)`` with the pixel at place p, from the centre, moved to ``matrix p``; x to the right and y up.

    Args:
        x: square images.
        matrix: ``(2, 2)``, integers: a quarter turn, a flip, or a product of them.
    """
    k = x.shape[-1]
    # Twice the pixels' coordinates from the centre, as integers: row-major like an image.
    ticks = 2 * torch.arange(k) - (k - 1)
    points = torch.stack([ticks.repeat(k), (-ticks).repeat_interleave(k)])
    right, up = matrix.T @ points  # from where each pixel comes
    return x.flatten(-2)[..., ((k - 1 - up) // 2) * k + (right + k - 1) // 2].view_as(x)


def _averaged(filters: Tensor, rep_in: Representation, rep_out: Representation, gspace: GSpace) -> Tensor:
    """The filters ``(n, out, in, k, k)`` averaged over ``symmetries_of_the_grid``.

    escnn samples its filters in float32; the average commutes with quarter turns and flips to float64's rounding.
    """
    total = torch.zeros_like(filters)
    elements = symmetries_of_the_grid(gspace)
    for element, matrix in elements:
        moved = move_pixels(filters, matrix.T)
        after = torch.as_tensor(rep_out(~element), dtype=torch.float64)
        before = torch.as_tensor(rep_in(element), dtype=torch.float64)
        total += torch.einsum("op,npquv,qi->noiuv", after, moved, before)
    return total / len(elements)


def orthonormal_rows(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of ``(n, size)``: ``(rank, size)``, in float64.

    It depends on the span alone, not on the vectors that are given: the projections of the unit vectors are made
    orthonormal in order. So a checkpoint in these coordinates outlives escnn's own choice of vectors.
    """
    size = rows.shape[1]
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    # escnn's float32 leaves exact dependences visible at 1e-7.
    span = vectors[values > 1e-4 * values.max().clamp_min(1e-300)]
    basis = span.new_zeros(0, len(span))  # in the coordinates of the span
    # Vectors too near to those before are left out. Enough remain: what is missing to the full rank has squared length
    # 1 or more over all unit vectors together, so one of them is at least 1 / sqrt(size) away.
    least = 0.5 / math.sqrt(size)
    for vector in span.T:
        if len(basis) == len(span):
            break
        for _ in range(2):  # twice is enough for orthogonality to rounding
            vector = vector - basis.T @ (basis @ vector)
        if vector.norm() > least:
            basis = torch.cat([basis, (vector / vector.norm())[None]])
    return basis @ span


def filters_between(
    rep_in: Representation,
    rep_out: Representation,
    gspace: GSpace,
    kernel_size: int,
    dilation: int,
    options: Mapping[str, Any],
) -> Tensor:
    """An orthonormal basis of escnn's filters between two fields, ``(rank, out, in, k, k)``, float64; rank may be 0.

    Bases with escnn's own options are kept for the next layer; do not write into them.
    """
    build = _solved if options else _kept
    return build(rep_in, rep_out, gspace, kernel_size, dilation, **options)


def _solved(
    rep_in: Representation, rep_out: Representation, gspace: GSpace, kernel_size: int, dilation: int, **options: Any
) -> Tensor:
    from escnn.nn import FieldType, R2Conv

    types = FieldType(gspace, [rep_in]), FieldType(gspace, [rep_out])
    shape = (rep_out.size, rep_in.size, kernel_size, kernel_size)
    try:
        with escnn_at_work():
            conv = R2Conv(*types, kernel_size, dilation=dilation, bias=False, initialize=False, **options)
    except ValueError as error:
        if "basis for the steerable filter is empty" not in str(error):
            raise SofteqValueError(f"escnn: {error}") from error
        return torch.zeros(0, *shape, dtype=torch.float64)
    # escnn shares a basis between all modules that use it, so `.double()` on one of them has changed this one too.
    expansion = copy.deepcopy(conv.basisexpansion).float()
    weights = torch.eye(expansion.dimension(), dtype=torch.float32)
    sampled = torch.stack([expansion(weight) for weight in weights]).detach().double().view(-1, *shape)
    averaged = _averaged(sampled, rep_in, rep_out, gspace)
    return orthonormal_rows(averaged.flatten(1)).view(-1, *shape)


_kept = functools.lru_cache(maxsize=256)(_solved)


def invariants_of(rep: Representation, gspace: GSpace) -> Tensor:
    """An orthonormal basis of the vectors that the group leaves alone, ``(rank, size)``, float64."""
    columns, place = [], 0
    for irrep_id in rep.irreps:
        irrep = rep.group.irrep(*irrep_id)
        if irrep.is_trivial():
            columns.append(torch.as_tensor(rep.change_of_basis[:, place], dtype=torch.float64))
        place += irrep.size
    if not columns:
        return torch.zeros(0, rep.size, dtype=torch.float64)
    filters = torch.stack(columns).view(-1, rep.size, 1, 1, 1)
    return orthonormal_rows(_averaged(filters, gspace.trivial_repr, rep, gspace).flatten(1))
