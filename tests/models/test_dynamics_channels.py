"""How a width is split over representations: as published, exactly as many, about as many of each order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softeq import (
    SofteqValueError,
    groups,
)
from softeq.models.dynamics import uniform_rep
from softeq.reps import V

from .test_dynamics import O3


def counts(rep):
    """Multiplicity of each word of a representation, wherever its copies lie."""
    found = {}
    for word, multiplicity in rep.terms:
        found[word] = found.get(word, 0) + multiplicity
    return found


def test_384_channels_of_o3_split_as_published():
    rep = uniform_rep(384, O3)
    assert counts(rep) == {(V,) * order: n for order, n in enumerate((102, 34, 11, 3))}
    assert repr(rep) == "(102*Scalar + 34*Vector + 11*T(2) + 3*T(3))(O(3))"


GROUPS = {
    "O(3)": O3,
    "SO(2)": groups.SO(2),
    "SL(3)": groups.SL(3),
    "SL(2)": groups.SL(2),
    "Lorentz": groups.Lorentz(),
    "O2eR3": groups.O2eR3(),
    "Permutation(5)": groups.Permutation(5),
    "Trivial(1)": groups.Trivial(1),
}


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 600), st.sampled_from(sorted(GROUPS)))
def test_the_split_has_exactly_the_channels_asked_for(channels, name):
    group = GROUPS[name]
    rep = uniform_rep(channels, group)
    assert rep.size == channels
    assert rep.group == group
    if group.is_orthogonal:
        assert all(set(word) <= {V} for word, _ in rep.terms), "no dual types where they are the same"
    else:
        shares = counts(rep)
        for order in range(1, 5):
            # As many vector as dual indices, up to the rounding of the shares.
            balance = sum(n * (2 * word.count(V) - order) for word, n in shares.items() if len(word) == order)
            assert abs(balance) <= 2 * order


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500))
def test_each_order_has_about_as_many_channels_as_the_next(channels):
    shares = counts(uniform_rep(channels, O3))
    sizes = [shares.get((V,) * order, 0) * 3**order for order in range(max(map(len, shares)) + 1)]
    assert sizes == sorted(sizes, reverse=True)
    # A round gives every order up to its top the same number of channels, so only scalars gain in the last rounds.
    assert sizes[0] - sizes[-1] <= channels / 2 + 3


@pytest.mark.parametrize("channels", [0, -5])
def test_no_channels_are_refused_by_name(channels):
    with pytest.raises(SofteqValueError, match="channels: expected at least 1"):
        uniform_rep(channels, O3)
