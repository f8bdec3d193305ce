"""How many invariant tensors there are, by theory: characters, pairings, Burnside's count of orbits.

Nothing here uses a solver of ours: the numbers come from integrals and counts written out.
"""

import itertools
from math import comb, factorial, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softeq import Scalar, T, Vector, equivariant_projector, groups
from softeq.reps import Irrep

from .group_equations import closure


def tensors(name, p, q=0):
    """How many tensors of type T(p, q) a group leaves alone, by our solver."""
    group = groups.named(name)
    return equivariant_projector(Scalar(group), T(p, q)(group)).rank


def pairings(k):
    """Ways to pair k indices."""
    return prod(range(k - 1, 0, -2)) if k % 2 == 0 else 0


def catalan(m):
    return comb(2 * m, m) // (m + 1)


def signs_that_cancel(k, n=0):
    """Sequences of k signs whose sum is 0, or divisible by n."""
    return sum(comb(k, up) for up in range(k + 1) if (2 * up - k == 0 if n == 0 else (2 * up - k) % n == 0))


def partitions(k, most):
    """Ways to part k indices into at most ``most`` classes: Stirling numbers of the second kind."""
    stirling = {(0, 0): 1}
    for i, j in itertools.product(range(1, k + 1), range(k + 1)):
        stirling[i, j] = j * stirling.get((i - 1, j), 0) + stirling.get((i - 1, j - 1), 0)
    return sum(stirling.get((k, j), 0) for j in range(most + 1))


def motzkin_sum(k):
    """Invariants of SO(3): Weyl's integral of (1 + 2 cos)^k (1 - cos), exact on enough points."""
    angle = 2 * np.pi * np.arange(2 * k + 4) / (2 * k + 4)
    return round(float(((1 + 2 * np.cos(angle)) ** k * (1 - np.cos(angle))).mean()))


def of_the_plane(k):
    """Invariants of O(2): half of those of SO(2), where there are indices."""
    return signs_that_cancel(k) // 2 if k else 1


def beside_two_scalars(k):
    """Invariants of SO(3) on R^3 + 2 R."""
    return sum(comb(k, m) * 2 ** (k - m) * motzkin_sum(m) for m in range(k + 1))


THEORY = {
    # name: (the group, how many invariants with k vector indices, the orders tried)
    "O(2), pairings and relations": ("O(2)", of_the_plane, range(7)),
    "O(3), pairings": ("O(3)", pairings, range(1, 7)),
    "O(4), pairings": ("O(4)", pairings, range(1, 6)),
    "SO(2), signs": ("SO(2)", signs_that_cancel, range(9)),
    "SO(3), Weyl": ("SO(3)", motzkin_sum, range(7)),
    "SO(4), two SU(2)": ("SO(4)", lambda k: catalan(k // 2) ** 2 if k % 2 == 0 else 0, range(6)),
    "Lorentz, as O(4)": ("O(1,3)", pairings, range(1, 5)),
    "O(1,1), as O(2)": ("O(1,1)", of_the_plane, range(7)),
    "SO+(1,1), as SO(2)": ("SO+(1,1)", signs_that_cancel, range(7)),
    "Sp(4), pairings": ("Sp(4)", pairings, range(1, 5)),
    "Sp(2), Catalan": ("Sp(2)", lambda k: catalan(k // 2) if k % 2 == 0 else 0, range(9)),
    "SL(2), Catalan": ("SL(2)", lambda k: catalan(k // 2) if k % 2 == 0 else 0, range(9)),
    "SL(3), determinants": ("SL(3)", lambda k: {0: 1, 3: 1, 6: 5}.get(k, 0), range(7)),
    "SU(2), two spinors": ("SU(2)", lambda k: 2**k * catalan(k // 2) if k % 2 == 0 else 0, range(6)),
    "SU(3), W and its conjugate": ("SU(3)", lambda k: {0: 1, 1: 0, 2: 2, 3: 2}[k], range(4)),
    "U(1), signs": ("U(1)", signs_that_cancel, range(7)),
    "U(2), permutations": ("U(2)", lambda k: comb(k, k // 2) * factorial(k // 2) if k % 2 == 0 else 0, range(5)),
    "Cyclic(3), signs": ("Cyclic(3)", lambda k: signs_that_cancel(k, 3), range(8)),
    "Cyclic(7), signs": ("Cyclic(7)", lambda k: signs_that_cancel(k, 7), range(9)),
    "Dihedral(5)": ("Dihedral(5)", lambda k: signs_that_cancel(k, 5) // 2 if k else 1, range(8)),
    "Z(5), orbits": ("Z(5)", lambda k: 5 ** (k - 1) if k else 1, range(5)),
    "Permutation(6), partitions": ("Permutation(6)", lambda k: partitions(k, 6), range(5)),
    "Permutation(2), partitions": ("Permutation(2)", lambda k: partitions(k, 2), range(6)),
    "Parity": ("Parity", lambda k: (4**k + (-2) ** k) // 2, range(5)),
    "TimeReversal": ("TimeReversal", lambda k: (4**k + 2**k) // 2, range(5)),
    "Trivial(3), everything": ("Trivial(3)", lambda k: 3**k, range(5)),
    "SO2eR3, signs and z": ("SO2eR3", lambda k: sum(comb(k, m) * signs_that_cancel(m) for m in range(k + 1)), range(6)),
    "Embed(SO(3), 5)": ("Embed(SO(3), 5)", beside_two_scalars, range(5)),
}


@pytest.mark.parametrize("case", THEORY)
def test_the_number_of_invariants_is_that_of_the_theory(case):
    name, count, orders = THEORY[case]
    assert [tensors(name, k) for k in orders] == [count(k) for k in orders]


DUALS = {
    "GL(2), permutations": ("GL(2)", lambda p, q: {0: 1, 1: 1, 2: 2, 3: 5}[p] if p == q else 0, 3),
    "GL(3), permutations": ("GL(3)", lambda p, q: factorial(p) if p == q else 0, 2),
    "Scaling(2), everything": ("Scaling(2)", lambda p, q: 4**p if p == q else 0, 3),
    "SL(3), determinants": (
        "SL(3)",
        lambda p, q: {(0, 0): 1, (1, 1): 1, (2, 2): 2, (3, 0): 1, (0, 3): 1}.get((p, q), 0),
        2,
    ),
}


@pytest.mark.parametrize("case", DUALS)
def test_the_number_of_invariants_with_dual_indices(case):
    name, count, most = DUALS[case]
    for p, q in itertools.product(range(most + 1), repeat=2):
        assert tensors(name, p, q) == count(p, q), (p, q)


FINITE = [
    "Cyclic(4)",
    "Cyclic(6)",
    "Dihedral(3)",
    "Dihedral(4)",
    "DkeR3(3)",
    "DkeR3(4)",
    "Z(6)",
    "Permutation(3)",
    "Permutation(4)",
    "Cube",
    "ZksZnxZn(4,2)",
    "ZksZnxZn(2,3)",
    "Z(2) x Dihedral(3)",
    "Z(2) x Cyclic(4)",
]


@pytest.mark.parametrize("name", FINITE)
def test_orbits_and_averages_agree_with_burnside(name):
    """The mean over all elements of the trace to the power of the order."""
    traces = closure(groups.named(name)).diagonal(dim1=1, dim2=2).sum(1)
    for order in range(4):
        assert tensors(name, order) == round(float(traces.pow(order).mean()))


@pytest.mark.parametrize(("a", "b"), list(itertools.product(range(4), repeat=2)))
def test_between_irreps_of_so3_and_tensors_clebsch_and_gordan_count(a, b):
    """Irrep(a) into Irrep(b) x Vector: once where |b - 1| <= a <= b + 1, from b = 1 on."""
    group = groups.SO(3)
    expected = int(a in ({1} if b == 0 else {b - 1, b, b + 1}))
    assert equivariant_projector(Irrep(a)(group), (Irrep(b) * Vector)(group)).rank == expected


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["SO(3)", "O(2)", "Dihedral(3)", "Z(4)"]),
    st.sampled_from(["Permutation(3)", "Cyclic(4)", "SL(2)"]),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_invariants_of_a_separate_product_are_products(first, second, m, n):
    """The Kronecker product has them with like orders, the separate one with any."""
    group = groups.separate(groups.named(first), groups.named(second))
    rep = (Vector.of(0) ** m * Vector.of(1) ** n)(group)
    assert equivariant_projector(Scalar(group), rep).rank == tensors(first, m) * tensors(second, n)
    if m == n:
        kronecker = groups.named(f"{first} x {second}")
        assert equivariant_projector(Scalar(kronecker), (Vector**m)(kronecker)).rank == tensors(first, m) * tensors(
            second, m
        )
