"""The filters that commute with rotations and reflections of the plane or of space, from escnn, as orthonormal bases.

escnn (Weiler and Cesa 2019, arXiv 1911.08251; Cesa, Lang and Weiler 2022) is imported where a layer is built. Its
extra: ``pip install 'softeq[escnn]'``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError

if TYPE_CHECKING:
    from escnn.group import Group, Representation
    from escnn.gspaces import GSpace
    from escnn.nn import FieldType

OPTIONS = ("frequencies_cutoff", "rings", "sigma", "basis_filter")
"""What of escnn's ``R2Conv`` and ``R3Conv`` decides which filters its basis spans."""


def field_type(value: Any, name: str, dims: int | None = None) -> FieldType:
    """``value``, checked to be escnn's ``FieldType`` over the plane or over space.

    Args:
        value: of the user.
        name: the argument's name, for the errors.
        dims: 2 for the plane, 3 for space, ``None`` for either.

    Raises:
        MissingExtraError: escnn is not installed.
        SofteqTypeError: something else.
        SofteqValueError: a field that lives elsewhere.
    """
    try:
        from escnn.gspaces import GSpace2D, GSpace3D
        from escnn.nn import FieldType
    except ImportError as error:
        raise MissingExtraError("steerable convolutions need escnn: pip install 'softeq[escnn]'") from error
    if not isinstance(value, FieldType):
        raise SofteqTypeError(f"{name}: expected an escnn FieldType, got {type(value).__name__}")
    kinds = {2: (GSpace2D,), 3: (GSpace3D,), None: (GSpace2D, GSpace3D)}[dims]
    if not isinstance(value.gspace, kinds):
        example = "space (such as octaOnR3())" if dims == 3 else "the plane (such as rot2dOnR2)"
        raise SofteqValueError(f"{name}: expected fields on {example}, got {value.gspace}")
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
    """The elements of the fiber group that map a square or cubic grid to itself, each with its matrix of integers.

    Raises:
        SofteqValueError: a continuous group of which escnn does not list these elements.
    """
    found = []
    for element in _candidates(gspace.fibergroup):
        matrix = torch.as_tensor(gspace.basespace_action(element), dtype=torch.float64)
        if (matrix - matrix.round()).abs().max() < 1e-9:
            found.append((element, matrix.round().long()))
    return found


def _candidates(group: Group) -> Sequence[Any]:
    from escnn.group import O2, O3, SO2, SO3

    if not group.continuous:
        return list(group.elements)
    if isinstance(group, SO3 | O3):
        return list(group.grid("cube"))
    if isinstance(group, SO2 | O2):
        return list(group.grid(4))
    raise SofteqValueError(
        f"in_type: expected a finite group, or SO(2), O(2), SO(3) or O(3), got {group}, of which escnn does not list "
        "the elements that map the grid to itself"
    )


def move_pixels(x: Tensor, matrix: Tensor) -> Tensor:
    """A grid ``(..., k, k)`` or ``(..., k, k, k)`` with the pixel at place p, from the centre, moved to ``matrix p``.

    Coordinates are escnn's, (x, y) or (x, y, z): the last axis is x, and the others run against y and z.

    Args:
        x: square images or cubic volumes.
        matrix: ``(d, d)``, integers: a quarter turn, a flip, or a product of them.
    """
    dims, k = len(matrix), x.shape[-1]
    # Twice the pixels' coordinates from the centre, as integers: row-major like an image.
    ticks = 2 * torch.arange(k) - (k - 1)
    grid = torch.meshgrid(*[ticks] * dims, indexing="ij")
    points = torch.stack([grid[-1], *(-axis for axis in reversed(grid[:-1]))]).flatten(1)
    origin, *others = matrix.T @ points  # from where each pixel comes
    places = (origin + k - 1) // 2
    for axis, coordinate in enumerate(others, start=1):
        places = places + (k - 1 - coordinate) // 2 * k**axis
    return x.flatten(-dims)[..., places].view_as(x)


def _averaged(filters: Tensor, rep_in: Representation, rep_out: Representation, gspace: GSpace) -> Tensor:
    """The filters ``(n, out, in, *kernel)`` averaged over ``symmetries_of_the_grid``.

    escnn samples its filters in float32; the average commutes with quarter turns and flips to float64's rounding.
    """
    total = torch.zeros_like(filters)
    elements = symmetries_of_the_grid(gspace)
    for element, matrix in elements:
        moved = move_pixels(filters, matrix.T)
        after = torch.as_tensor(rep_out(~element), dtype=torch.float64)
        before = torch.as_tensor(rep_in(element), dtype=torch.float64)
        total += torch.einsum("op,npq...,qi->noi...", after, moved, before)
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
    """An orthonormal basis of escnn's filters between two fields, ``(rank, out, in, *kernel)``, float64; rank may be 0.

    Bases with escnn's own options are kept for the next layer; do not write into them.
    """
    build = _solved if options else _kept
    return build(rep_in, rep_out, gspace, kernel_size, dilation, **options)


def _solved(
    rep_in: Representation, rep_out: Representation, gspace: GSpace, kernel_size: int, dilation: int, **options: Any
) -> Tensor:
    from escnn.nn import FieldType, R2Conv, R3Conv

    types = FieldType(gspace, [rep_in]), FieldType(gspace, [rep_out])
    dims = gspace.dimensionality
    shape = (rep_out.size, rep_in.size, *[kernel_size] * dims)
    try:
        with escnn_at_work():
            conv = (R2Conv if dims == 2 else R3Conv)(
                *types, kernel_size, dilation=dilation, bias=False, initialize=False, **options
            )
    except ValueError as error:
        if "basis for the steerable filter is empty" not in str(error):
            raise SofteqValueError(f"escnn: {error}") from error
        return torch.zeros(0, *shape, dtype=torch.float64)
    # escnn shares a basis between all modules that use it, so `.double()` on one of them has changed this one too.
    expansion = conv.basisexpansion
    narrow = {name: buffer.float() for name, buffer in expansion.named_buffers() if buffer.is_floating_point()}
    weights = torch.eye(expansion.dimension(), dtype=torch.float32)
    sampled = torch.stack([functional_call(expansion, narrow, weight) for weight in weights]).detach().double()
    sampled = sampled.view(-1, *shape)
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
    filters = torch.stack(columns).view(-1, rep.size, 1, *[1] * gspace.dimensionality)
    return orthonormal_rows(_averaged(filters, gspace.trivial_repr, rep, gspace).flatten(1))
