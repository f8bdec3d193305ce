"""The torus by which invariants are found: as large as the group's rank, and right where a few combinations are not."""

import pytest
import torch

from softeq import _torus
from softeq._axes import axes_of
from softeq._constraints import Constraints
from softeq._subspace import dense_null_space
from softeq._torus import torus_null_space, torus_of
from softeq.groups import named
from softeq.reps import V

RANKS = {"SO(3)": 1, "SO(5)": 2, "SO(7)": 3, "SU(2)": 1, "SU(3)": 2, "SU(4)": 3, "U(2)": 2, "Lorentz": 2, "SL(3)": 2}


@pytest.mark.parametrize("name", RANKS)
def test_it_is_maximal(name):
    axes = axes_of(named(name), (V,) * 4 if name != "SL(3)" else (V, V, V.dual, V.dual))
    torus = torus_of(axes)
    assert len(torus.generators) == RANKS[name]
    own = [axes[0].lie[index] for index in torus.generators]
    assert all(torch.equal(a @ b, b @ a) or torch.allclose(a @ b, b @ a) for a in own for b in own)


@pytest.mark.parametrize("name", ["SU(3)", "SO(5)", "U(2)"])
def test_few_combinations_of_the_generators_find_what_all_of_them_do(name, monkeypatch):
    axes = axes_of(named(name), (V,) * 4)
    constraints, torus = Constraints(axes), torus_of(axes)
    asked = []
    mixed = Constraints.mixed
    monkeypatch.setattr(Constraints, "mixed", lambda *args, **own: asked.append(mixed(*args, **own)) or asked[-1])
    basis = torus_null_space(constraints, torus)
    assert len(asked[0]._lie) <= _torus._MIXED < len(constraints._lie)
    expected = dense_null_space(constraints)
    assert basis.shape == expected.shape
    torch.testing.assert_close(basis.T @ basis, expected.T @ expected, atol=1e-10, rtol=0)


def test_where_they_leave_more_than_is_invariant_all_are_asked(monkeypatch):
    axes = axes_of(named("SU(3)"), (V,) * 4)
    constraints, torus = Constraints(axes), torus_of(axes)

    def nothing(self, count, skip=()):
        found = Constraints(self.axes)
        found._lie = []
        return found

    monkeypatch.setattr(Constraints, "mixed", nothing)
    assert len(torus_null_space(constraints, torus)) == len(dense_null_space(constraints)) < torus.rank
