"""Invariant tensors: every way to solve finds the same space, and the space alone fixes the basis."""

import pytest
import torch

from softeq import SofteqError, Vector, _subspace, groups
from softeq import _invariants as invariants
from softeq._averaging import averaged_null_space, elements_of, rank_by_characters
from softeq._axes import axes_of
from softeq._constraints import CONSTRAINT_TOLERANCE, Constraints
from softeq._orbits import orbits
from softeq._subspace import dense_null_space, iterative_null_space
from softeq._torus import torus_null_space, torus_of
from softeq.groups import Group

from .test_invariants import invariant_tensors, residual, word

WAYS = {
    "SO(3) 5": (groups.SO(3), word(5)),
    "O(3) 5, none": (groups.O(3), word(5)),
    "O(3) 4": (groups.O(3), word(4)),
    "SL(3) 2,2": (groups.SL(3), word(2, 2)),
    "Lorentz 4": (groups.Lorentz(), word(4)),
    "Lorentz 2,2": (groups.Lorentz(), word(2, 2)),
    "Permutation(4) 4, a full first block": (groups.Permutation(4), word(4)),
    "SO(2) 8, more than the first block": (groups.SO(2), word(8)),
    "Z(3) 4, more than the first block": (groups.Z(3), word(4)),
    "Sp(4) 4": (groups.Sp(4), word(4)),
    "O2eR3 4": (groups.O2eR3(), word(4)),
    "SO(3) x Z(2) 3": (groups.SO(3) * groups.Z(2), word(3)),
    "Dihedral(3) 6": (groups.Dihedral(3), word(6)),
    "Dihedral(4) 5, signs": (groups.Dihedral(4), word(6)),
    "Cube 3": (groups.Cube(), word(3)),
    "Parity 4, signs": (groups.Parity(), word(4)),
    "SU(2) 4": (groups.SU(2), word(4)),
    "U(1) 6": (groups.U(1), word(6)),
    "GL(2) 2,2": (groups.GL(2), word(2, 2)),
    "Scaling(2) 3,3": (groups.Scaling(2), word(3, 3)),
    "Scaling(2) 3,2": (groups.Scaling(2), word(3, 2)),
}


def ways_to_solve(group, letters):
    """Every solver that takes the problem, apart from the dense one."""
    axes = axes_of(group, letters)
    constraints, elements, torus = Constraints(axes), elements_of(axes), torus_of(axes)
    found = {"iterative": iterative_null_space(constraints)}
    if elements is not None:
        found["average"] = averaged_null_space(constraints, elements, rank_by_characters(elements))
    if torus is not None:
        found["torus"] = torus_null_space(constraints, torus)
    if all(axis.signed_permutations is not None for axis in axes):
        found["orbits"] = orbits(axes).dense()
    return found


@pytest.mark.parametrize("case", WAYS)
def test_every_solver_agrees_with_the_dense_one(case):
    group, letters = WAYS[case]
    dense = invariants.canonical(dense_null_space(Constraints(axes_of(group, letters))))
    for name, basis in ways_to_solve(group, letters).items():
        assert len(basis) == len(dense), name
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(basis.T @ basis, dense.T @ dense, atol=1e-9, rtol=0, msg=name)
        # Fixed by the space alone, so that two machines write the same basis.
        torch.testing.assert_close(invariants.canonical(basis), dense, atol=1e-8, rtol=0, msg=name)
        assert residual(group, letters, basis) < CONSTRAINT_TOLERANCE
    chosen = invariant_tensors(group, letters)
    torch.testing.assert_close(chosen.T @ chosen, dense.T @ dense, atol=1e-9, rtol=0)


def test_each_solver_is_tried_by_some_case():
    tried = {name for group, letters in WAYS.values() for name in ways_to_solve(group, letters)}
    assert tried == {"iterative", "average", "torus", "orbits"}


def test_a_large_basis_is_fixed_by_the_space_alone():
    """More tensors than Gram-Schmidt takes: projections of fixed random ones."""
    letters = word(10)
    basis = invariant_tensors(groups.SO(2), letters)
    assert len(basis) == 252
    turned = torch.linalg.qr(torch.randn(252, 252, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    torch.testing.assert_close(invariants.canonical(turned @ basis), basis, atol=1e-8, rtol=0)
    torch.testing.assert_close(basis @ basis.T, torch.eye(252, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("group", "letters", "rank"),
    [
        pytest.param(groups.SO(4), word(6), 25, id="SO(4) 6", marks=pytest.mark.slow),
        pytest.param(groups.Lorentz(), word(6), 15, id="Lorentz 6", marks=pytest.mark.slow),
        pytest.param(groups.SL(3), word(4, 3), 0, id="SL(3) 4,3"),
    ],
)
def test_large_words_need_no_matrix(group, letters, rank, monkeypatch):
    def refuse(constraints):
        raise AssertionError("the dense solver would take 8 n^2 bytes")

    assert group.d ** len(letters) > invariants.DENSE_LIMIT
    monkeypatch.setattr(invariants, "dense_null_space", refuse)
    basis = invariant_tensors(group, letters)
    assert len(basis) == rank
    assert residual(group, letters, basis) < CONSTRAINT_TOLERANCE


PARTS = {
    "separate": (groups.separate(groups.SO(3), groups.Permutation(4)), (Vector.of(0), Vector.of(1)) * 2),
    "three factors": (
        groups.separate(groups.SO(2), groups.Z(3), groups.Dihedral(3)),
        (Vector.of(2), Vector.of(0), Vector.of(1), Vector.of(0), Vector.of(2)),
    ),
    "orbits alone": (groups.separate(groups.Z(3), groups.Permutation(3)), (Vector.of(1), Vector.of(0)) * 2),
    "one factor has none": (groups.separate(groups.SO(3), groups.Permutation(3)), (Vector.of(0), Vector.of(1))),
    "one factor does nothing": (groups.separate(groups.Trivial(2), groups.Z(3)), (Vector.of(0), Vector.of(1)) * 2),
}


@pytest.mark.parametrize("case", PARTS)
def test_indices_that_share_no_generator_are_solved_apart(case):
    group, factors = PARTS[case]
    letters = tuple(rep.terms[0][0][0] for rep in factors)
    axes = axes_of(group, letters)
    found = invariant_tensors(group, letters)
    dense = dense_null_space(Constraints(axes))
    assert len(invariants._components(axes)) > 1
    torch.testing.assert_close(found.T @ found, dense.T @ dense, atol=1e-9, rtol=0)
    torch.testing.assert_close(found @ found.T, torch.eye(len(found), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("limit", [1, 1024], ids=["iterative", "dense"])
def test_the_solver_is_deterministic(limit, monkeypatch):
    monkeypatch.setattr(invariants, "DENSE_LIMIT", limit)
    first, second = (invariant_tensors(groups.SO(4), word(4)) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_a_space_that_does_not_settle_is_an_error_and_never_a_guess(monkeypatch):
    """Two generators that agree but for 1e-7: whether their difference constrains is a matter of rounding."""
    monkeypatch.setattr(invariants, "DENSE_LIMIT", 1)
    monkeypatch.setattr(_subspace, "_MAX_FILTERS", 3)
    tilted = groups.SO(3).lie_algebra[:1].clone()
    tilted[0, 0, 2], tilted[0, 2, 0] = 1e-7, -1e-7
    almost = Group("almost", torch.cat([groups.SO(3).lie_algebra[:1], tilted]), [])
    with pytest.raises(SofteqError, match="did not converge"):
        iterative_null_space(Constraints(axes_of(almost, word(4))))
    monkeypatch.undo()
    with pytest.raises(SofteqError, match="nearly agree"):
        invariant_tensors(almost, word(4))
