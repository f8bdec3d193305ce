"""Invariant tensors: how many there are by theory, that none is missed, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softeq import Rep, SofteqError, SofteqValueError, groups
from softeq import _invariants as invariants
from softeq._axes import axes_of
from softeq._constraints import CONSTRAINT_TOLERANCE, Constraints
from softeq.groups import Group
from softeq.reps import V

WORDS = st.lists(st.sampled_from([V, V.dual]), max_size=4).map(tuple)


def word(p, q=0):
    return (V,) * p + (V.dual,) * q


def invariant_tensors(group, letters):
    return invariants.dense(invariants.invariant_tensors(axes_of(group, letters)))


def residual(group, letters, basis):
    return Constraints(axes_of(group, letters)).residual(basis) if letters else 0.0


def dense_constraints(group, letters):
    """The constraint matrix from the representation itself, ``(generators n, n)``."""
    rep = Rep([(letters, 1)], group)
    eye = torch.eye(rep.size, dtype=torch.float64)
    parts = [rep.drho(A) for A in group.lie_algebra] + [rep.rho(h) - eye for h in group.discrete_generators]
    return torch.cat([eye.new_zeros(1, rep.size), *parts])


SHORT = [(), word(1), word(0, 1), word(2), word(1, 1), word(0, 2), word(2, 1), (V.dual, V, V)]


@pytest.mark.parametrize("letters", SHORT, ids=lambda w: "".join("V" if v == V else "*" for v in w) or "scalar")
def test_the_basis_is_the_whole_null_space(group, letters):
    basis = invariant_tensors(group, letters)
    n = group.d ** len(letters)
    matrix = dense_constraints(group, letters)
    singular = torch.linalg.svdvals(matrix)
    assert len(basis) == int((singular < 1e-9).sum()) + max(0, n - len(singular))
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-12, rtol=0)
    assert (matrix @ basis.T).abs().max() < 1e-10 if len(basis) else True
    assert residual(group, letters, basis) < CONSTRAINT_TOLERANCE == 1e-10


RANKS = {
    # (group, word): dimension of the space of invariant tensors. O(3): pairings, minus the relations of dimension 3.
    "O(3) 2": (groups.O(3), word(2), 1),
    "O(3) 3": (groups.O(3), word(3), 0),
    "O(3) 4": (groups.O(3), word(4), 3),
    "O(3) 6": (groups.O(3), word(6), 15),
    "O(2) 6": (groups.O(2), word(6), 10),
    # SO(3): the Motzkin sums 1, 0, 1, 1, 3, 6, 15.
    "SO(3) 3": (groups.SO(3), word(3), 1),
    "SO(3) 4": (groups.SO(3), word(4), 3),
    "SO(3) 5": (groups.SO(3), word(5), 6),
    "SO(3) 6": (groups.SO(3), word(6), 15),
    # SO(2): central binomial coefficients.
    "SO(2) 4": (groups.SO(2), word(4), 6),
    "SO(2) 6": (groups.SO(2), word(6), 20),
    # Permutations: partitions into at most n blocks.
    "Permutation(4) 4": (groups.Permutation(4), word(4), 15),
    "Permutation(5) 4": (groups.Permutation(5), word(4), 15),
    "Permutation(3) 4": (groups.Permutation(3), word(4), 14),
    "Permutation(2) 4": (groups.Permutation(2), word(4), 8),
    "Lorentz 2": (groups.Lorentz(), word(2), 1),
    "Lorentz 4": (groups.Lorentz(), word(4), 3),
    "SO13 4": (groups.SO13(), word(4), 4),
    "SO13p 4": (groups.SO13p(), word(2, 2), 4),
    "SL(2) 2": (groups.SL(2), word(2), 1),
    "SL(3) 1,1": (groups.SL(3), word(1, 1), 1),
    "SL(3) 2": (groups.SL(3), word(2), 0),
    "SL(3) 3": (groups.SL(3), word(3), 1),
    "SL(3) dual 3": (groups.SL(3), word(0, 3), 1),
    "SL(3) 2,2": (groups.SL(3), word(2, 2), 2),
    "Sp(4) 2": (groups.Sp(4), word(2), 1),
    "Sp(4) 4": (groups.Sp(4), word(4), 3),
    "Sp(2) 4": (groups.Sp(2), word(4), 2),
    "SO2eR3 1": (groups.SO2eR3(), word(1), 1),
    "SO2eR3 2": (groups.SO2eR3(), word(2), 3),
    "O2eR3 2": (groups.O2eR3(), word(2), 2),
    "Trivial(3) 2": (groups.Trivial(3), word(2), 9),
}


@pytest.mark.parametrize("case", RANKS)
def test_ranks_that_theory_gives(case):
    group, letters, rank = RANKS[case]
    assert len(invariant_tensors(group, letters)) == rank


SMALL_FINITE = {
    "Cyclic(3)": lambda: groups.Cyclic(3),
    "Cyclic(4)": lambda: groups.Cyclic(4),
    "Dihedral(3)": lambda: groups.Dihedral(3),
    "Z(3)": lambda: groups.Z(3),
    "Permutation(2)": lambda: groups.Permutation(2),
    "Permutation(3)": lambda: groups.Permutation(3),
    "DkeR3(2)": lambda: groups.DkeR3(2),
    "Z(2)*Cyclic(2)": lambda: groups.Z(2) * groups.Cyclic(2),
}


def all_elements(group):
    found = [np.eye(group.d)]
    for element in found:
        for h in group.discrete_generators.numpy():
            if not any(np.allclose(element @ h, other) for other in found):
                found.append(element @ h)
    return found


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(SMALL_FINITE)), WORDS)
def test_the_rank_is_the_mean_of_the_character_over_a_finite_group(name, letters):
    group = SMALL_FINITE[name]()
    characters = [
        np.prod([np.trace(g) if factor == V else np.trace(np.linalg.inv(g)) for factor in letters])
        for g in all_elements(group)
    ]
    assert len(invariant_tensors(group, letters)) == pytest.approx(np.mean(characters), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.booleans())
def test_the_rank_is_the_mean_of_the_character_over_rotations(order, space):
    """Weyl's integration formula: angle uniform for SO(2), with weight 1 - cos for SO(3); the sum is exact."""
    angles = 2 * np.pi * np.arange(16) / 16
    character = (1 + 2 * np.cos(angles)) ** order * (1 - np.cos(angles)) if space else (2 * np.cos(angles)) ** order
    group = groups.SO(3) if space else groups.SO(2)
    assert len(invariant_tensors(group, word(order))) == round(character.mean())


HUGE = {
    "T(6) -> T(6) of O(3)": (groups.O(3), word(12), "about .* tensors of 531,441 entries, need about .* GiB"),
    "T(6) -> T(6) of Lorentz": (groups.Lorentz(), word(12), "16,777,216 entries, need more than .* GiB"),
    "V^6 of Permutation(50)": (groups.Permutation(50), word(6), "need .* GiB"),
    "everything": (groups.Trivial(20), word(7), "1,280,000,000 entries, need 38.1 GiB"),
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_that_cannot_be_are_refused_with_the_size_needed(case):
    group, letters, message = HUGE[case]
    with pytest.raises(SofteqValueError, match=message):
        invariant_tensors(group, letters)


def test_generators_in_float32_are_refused_and_not_guessed_from():
    turn = torch.tensor(groups.Cyclic(3).discrete_generators.numpy(), dtype=torch.float32)
    with pytest.raises(SofteqError, match="inexact"):
        invariant_tensors(Group("C3", [], turn), word(4))


def test_units_of_the_generators_do_not_matter():
    so3 = groups.SO(3)
    for factor in (1e-8, 1e8):
        scaled = Group("scaled", factor * so3.lie_algebra, [])
        torch.testing.assert_close(
            invariant_tensors(scaled, word(4)), invariant_tensors(so3, word(4)), atol=1e-9, rtol=0
        )


def test_a_generator_of_zeros_constrains_nothing():
    assert len(invariant_tensors(Group("zero", np.zeros((1, 2, 2)), []), word(2))) == 4


def test_a_redundant_generator_changes_nothing():
    so3 = groups.SO(3)
    more = Group("more", torch.cat([so3.lie_algebra, so3.lie_algebra.sum(0, keepdim=True)]), [])
    torch.testing.assert_close(invariant_tensors(more, word(3)), invariant_tensors(so3, word(3)), atol=1e-9, rtol=0)


def test_two_generators_of_so3_find_the_whole_algebra():
    two = Group("two", groups.SO(3).lie_algebra[:2], [])
    for order in range(5):
        assert len(invariant_tensors(two, word(order))) == len(invariant_tensors(groups.SO(3), word(order)))


def test_the_invariants_of_so3_are_the_known_ones():
    delta = torch.eye(3, dtype=torch.float64).flatten() / 3**0.5
    levi_civita = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i, j, k in itertools.permutations(range(3)):
        levi_civita[i, j, k] = (j - i) * (k - j) * (k - i) / 2
    for letters, known in ((word(2), delta), (word(3), levi_civita.flatten() / 6**0.5)):
        (found,) = invariant_tensors(groups.SO(3), letters)
        assert abs(float(found @ known)) == pytest.approx(1, abs=1e-12)
