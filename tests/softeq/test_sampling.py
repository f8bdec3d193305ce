"""Random group elements: they cover the group, and follow Haar measure where that is promised."""

import numpy as np
import pytest
import torch

from softeq import groups
from softeq.groups import Group

from .group_equations import closure, eye

QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)

FINITE = {
    "Cyclic(5)": (lambda: groups.Cyclic(5), 5),
    "Dihedral(3)": (lambda: groups.Dihedral(3), 6),
    "Dihedral(4)": (lambda: groups.Dihedral(4), 8),
    "Z(4)": (lambda: groups.Z(4), 4),
    "Permutation(3)": (lambda: groups.Permutation(3), 6),
    "Permutation(4)": (lambda: groups.Permutation(4), 24),
    "DkeR3(3)": (lambda: groups.DkeR3(3), 6),
    "Z(2)*Z(3)": (lambda: groups.Z(2) * groups.Z(3), 6),
    "S4 from its generators": (lambda: Group("S4", np.zeros((0, 4, 4)), groups.Permutation(4).discrete_generators), 24),
}


@pytest.mark.parametrize("name", FINITE)
def test_samples_of_a_finite_group_reach_every_element(name, rng):
    make, order = FINITE[name]
    group = make()
    elements = closure(group)
    assert len(elements) == order
    nearest = (group.sample(60 * order, rng).unsqueeze(1) - elements).abs().amax((-1, -2)).min(1)
    assert (nearest.values < 1e-9).all()
    counts = nearest.indices.bincount(minlength=order)
    assert (counts > 0).all(), "an element was never drawn"
    if not name.startswith("S4"):  # no law is promised where the group has no name
        # Uniform: each count is binomial with mean 60 and standard deviation below 8.
        assert ((counts - 60).abs() < 6 * 60**0.5).all()


@pytest.mark.parametrize(("make", "n"), [(groups.Cyclic, 700), (groups.Z, 150)], ids=["Cyclic(700)", "Z(150)"])
def test_samples_of_a_long_cycle_are_spread_over_it(make, n, rng):
    g = make(n).sample(200, rng)
    first = g[:, :, 0]
    places = (
        first.argmax(1).double() / n if make is groups.Z else torch.atan2(first[:, 1], first[:, 0]) / (2 * torch.pi) % 1
    )
    torch.testing.assert_close(places * n, (places * n).round(), atol=1e-6, rtol=0)
    assert places.unique().numel() > 90
    assert (places.histc(4, 0, 1) > 25).all()


HAAR = {
    "SO(2)": lambda: groups.SO(2),
    "SO(3)": lambda: groups.SO(3),
    "O(2)": lambda: groups.O(2),
    "O(3)": lambda: groups.O(3),
    "O(4)": lambda: groups.O(4),
}


@pytest.mark.parametrize("name", HAAR)
def test_haar_samples_have_the_moments_of_haar_measure(name, rng):
    """E g_ij = 0, E g_ij g_kl = delta_ik delta_jl / d (for SO(2) the symbol epsilon enters as well)."""
    group = HAAR[name]()
    n, d = 20_000, group.d
    g = group.sample(n, rng)
    error = 5 / n**0.5
    assert g.mean(0).abs().max() < error
    second = torch.einsum("nij,nkl->ikjl", g, g) / n
    expected = torch.einsum("ik,jl->ikjl", eye(d), eye(d)) / d
    if name == "SO(2)":
        expected = expected + torch.einsum("ik,jl->ikjl", QUARTER_TURN, QUARTER_TURN) / d
    assert (second - expected).abs().max() < error
    halves = (torch.linalg.det(g) < 0).double().mean()
    assert abs(halves - (0.0 if name.startswith("SO") else 0.5)) < error


@pytest.mark.parametrize("group_id", ["SO13", "Lorentz", "SOpq(2,1)"], indirect=True)
def test_samples_reach_every_component_of_an_indefinite_group(group_id, group, rng):
    g = group.sample(200, rng)
    components = {(bool(a), bool(b)) for a, b in zip(torch.linalg.det(g) > 0, g[:, 0, 0] > 0, strict=True)}
    assert len(components) == {"SO13": 2, "Lorentz": 4, "SOpq(2,1)": 2}[group_id]


@pytest.mark.parametrize("group_id", ["SO13", "Sp(4)", "SL(3)"], indirect=True)
def test_samples_of_a_non_compact_group_leave_the_orthogonal_ones(group, rng):
    g = group.sample(50, rng)
    assert ((g.mT @ g - eye(group.d)).abs().amax((1, 2)) > 0.1).double().mean() > 0.5
    assert g.abs().max() < 1e3, "elements so large that any comparison drowns in rounding"


def test_a_generator_of_infinite_order_is_sampled(rng):
    shear = Group("shears", np.zeros((0, 2, 2)), [[[1.0, 1.0], [0.0, 1.0]]])
    g = shear.sample(50, rng)
    assert set(g[:, 0, 1].tolist()) == {0.0, 1.0, 2.0}
