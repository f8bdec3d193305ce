"""The equivariant filters and their coordinates, against escnn's own ``R2Conv``."""

import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # escnn misses py3nj, which the plane does not need
    escnn_nn = pytest.importorskip("escnn.nn")
    from escnn import gspaces

from softeq._filters import BiasBasis, FilterBasis
from softeq._grid_filters import escnn_at_work, filters_between, orthonormal_rows
from softeq._grid_types import GridType

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}
SPACES = {
    "C4": lambda: gspaces.rot2dOnR2(4),
    "D4": lambda: gspaces.flipRot2dOnR2(4),
    "C3": lambda: gspaces.rot2dOnR2(3),
    "flips": lambda: gspaces.flip2dOnR2(),
    "SO(2)": lambda: gspaces.rot2dOnR2(-1, maximum_frequency=3),
    "O(2)": lambda: gspaces.flipRot2dOnR2(-1, maximum_frequency=3),
}


def kinds(name):
    """A field per kind of irrep of the space's low frequencies, and the regular one of a finite group."""
    space = SPACES[name]()
    if space.fibergroup.continuous:
        vector = space.irrep(1, 1) if name == "O(2)" else space.irrep(1)
        return space, [space.trivial_repr, vector, space.trivial_repr, vector]
    return space, [space.regular_repr, space.trivial_repr, space.irreps[-1], space.regular_repr]


def basis_of(name, kernel_size=5, dilation=1, **options):
    space, representations = kinds(name)
    return FilterBasis(
        GridType(space, representations[::-1]), GridType(space, representations), kernel_size, dilation, options
    ).double()


def r2conv(name, kernel_size=5, **options):
    space, representations = kinds(name)
    types = (escnn_nn.FieldType(space, reps) for reps in (representations[::-1], representations))
    with escnn_at_work():
        return escnn_nn.R2Conv(*types, kernel_size, **options)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_filters_are_those_of_escnn(name, dilation):
    """As many, and every one of escnn's is its own projection: the same span."""
    basis, theirs = basis_of(name, dilation=dilation), r2conv(name, dilation=dilation)
    assert basis.rank == theirs.basisexpansion.dimension()
    filters = theirs.expand_parameters()[0].detach().double()
    assert filters.norm() > 0.1
    torch.testing.assert_close(basis(filters), filters, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["C4", "O(2)"])
def test_the_basis_is_orthonormal_and_the_projection_orthogonal(name):
    basis = basis_of(name, 3)
    coordinates = torch.randn(basis.rank, **DOUBLE)
    filters, other = torch.randn(2, *basis.shape, **DOUBLE)
    torch.testing.assert_close(basis.coordinates_of(basis.expand(coordinates)), coordinates, **TIGHT)
    assert float(basis.expand(coordinates).norm() / coordinates.norm()) == pytest.approx(1, abs=1e-12)
    near = basis(filters)
    torch.testing.assert_close(basis(near), near, **TIGHT)
    assert float(((filters - near) * basis(other)).sum()) == pytest.approx(0, abs=1e-9)
    assert 0.1 < float(near.norm() / filters.norm()) < 0.9


@pytest.mark.parametrize("name", SPACES)
def test_the_biases_are_those_of_escnn(name):
    space, representations = kinds(name)
    basis, theirs = BiasBasis(GridType(space, representations)).double(), r2conv(name, 3)
    assert basis.rank == theirs.bias.numel()
    with torch.no_grad():
        theirs.bias.normal_()
    bias = theirs.expand_parameters()[1].detach().double()
    torch.testing.assert_close(basis.expand(basis.coordinates_of(bias)), bias, atol=1e-6, rtol=1e-6)
    rows = basis.constants.exact["rows"]
    torch.testing.assert_close(rows @ rows.T, torch.eye(basis.rank, **DOUBLE), **TIGHT)


def test_coordinates_depend_on_the_span_alone():
    rows = torch.randn(5, 20, **DOUBLE)
    rows[4] = rows[0] - 2 * rows[1]
    turned = torch.linalg.qr(torch.randn(5, 5, **DOUBLE))[0] @ rows
    basis = orthonormal_rows(rows)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, **DOUBLE), **TIGHT)
    torch.testing.assert_close(orthonormal_rows(turned), basis, **TIGHT)
    torch.testing.assert_close(rows @ basis.T @ basis, rows, **TIGHT)


def test_unit_vectors_that_project_to_nearly_one_line_give_one_coordinate():
    """The first two do; the second direction then comes from the last, not from their tiny difference."""
    rows = torch.tensor([[1.0, 1, 0, 0], [1e-3, -1e-3, 0, 1]], **DOUBLE)
    basis = orthonormal_rows(rows)
    expected = torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0], [0, 0, 0, 1]], **DOUBLE)
    torch.testing.assert_close(basis, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2, **DOUBLE), **TIGHT)


def test_wider_frequencies_span_more_and_are_not_kept():
    narrow, wide = basis_of("C4"), basis_of("C4", frequencies_cutoff=10.0)
    assert narrow.rank < wide.rank < wide.expand(torch.zeros(wide.rank, **DOUBLE)).numel()
    assert basis_of("C4").rank == narrow.rank
    space, (regular, *_) = kinds("C4")
    assert filters_between(regular, regular, space, 5, 1, {}) is filters_between(regular, regular, space, 5, 1, {})


def test_no_filter_between_two_fields_is_an_empty_block():
    space = SPACES["SO(2)"]()
    found = filters_between(space.trivial_repr, space.irrep(1), space, 1, 1, {})
    assert found.shape == (0, 2, 1, 1, 1)
    basis = FilterBasis(
        GridType(space, [space.trivial_repr]), GridType(space, [space.irrep(1), space.trivial_repr]), 1, 1, {}
    )
    expanded = basis.expand(torch.ones(basis.rank))
    assert expanded[:2].abs().max() == 0
    assert expanded[2].abs().min() > 0.5


def test_escnn_keeps_its_own_solver_afterwards():
    import escnn.group._numerical as numerical

    before = numerical.randomized_svd
    with pytest.raises(RuntimeError, match="inside"), escnn_at_work():
        raise RuntimeError("inside")
    assert numerical.randomized_svd is before
