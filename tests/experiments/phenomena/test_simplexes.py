"""Simplexes of weights: volumes by another formula, places drawn uniformly, points found where the answer is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.phenomena.paths import Search
from softeq.experiments.phenomena.simplexes import Simplexes, barycentric, simplex_log_volume, spanned


def cayley_menger(vertices):
    """The volume from the squared distances alone: (-1)^(k+1) det / (2^k (k!)^2), bordered by ones."""
    count = len(vertices)
    bordered = torch.ones(count + 1, count + 1, dtype=torch.float64)
    bordered[1:, 1:] = (vertices[:, None] - vertices).square().sum(-1)
    bordered[0, 0] = 0
    k = count - 1
    return math.sqrt((-1) ** (k + 1) * float(torch.linalg.det(bordered)) / (2**k * math.factorial(k) ** 2))


def point(*values):
    return [torch.tensor(values)]


def search(loss=lambda weights, rows: weights[0].square().sum() * 0, **options):
    settings = {"steps": 3, "rate": 0.01, "batch": 2, "generator": torch.Generator().manual_seed(0)}
    return Search(loss, 4, **settings | options)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_volume_of_a_regular_simplex(k):
    corners = torch.eye(k + 1)  # at distance sqrt(2) from each other
    expected = math.sqrt(k + 1) / math.factorial(k)
    assert float(simplex_log_volume(corners).exp()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_volume_is_that_of_cayley_and_menger_whatever_the_corner(k):
    vertices = torch.randn(k + 1, 7, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    expected = cayley_menger(vertices)
    for order in itertools.permutations(range(k + 1)):
        assert float(simplex_log_volume(vertices[list(order)]).exp()) == pytest.approx(expected, rel=1e-9)


def test_a_flat_simplex_has_no_volume_and_no_places():
    flat = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert float(simplex_log_volume(flat)) < -15
    coinciding = Simplexes((point(1.0, 0.0), point(1.0, 0.0)), (point(1.0, 0.0),))
    with pytest.raises(SofteqError, match="the simplexes have no volume"):
        coinciding.place(torch.Generator())


def test_barycentric_coordinates_are_uniform():
    """Moments of the flat Dirichlet distribution, and the share of a triangle that is nearest to no corner: 1 / 4."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([barycentric(3, generator) for _ in range(1500)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(1500, dtype=torch.float64))
    assert drawn.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert drawn.var(0).tolist() == pytest.approx([1 / 18] * 3, rel=0.15)
    assert float((drawn.amax(1) < 0.5).double().mean()) == pytest.approx(0.25, abs=0.035)


def test_places_are_drawn_by_volume_and_lie_in_the_simplexes():
    """Segments of length 1 and 3 on two axes: three quarters of the places are on the longer one."""
    shape = Simplexes((point(1.0, 0.0), point(0.0, 3.0)), (point(0.0, 0.0),))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.stack([shape.place(generator)[0] for _ in range(1000)]).T
    assert bool(((x == 0) | (y == 0)).all())
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    assert float((y > 0).double().mean()) == pytest.approx(0.75, abs=0.04)
    assert float(y[y > 0].mean()) == pytest.approx(1.5, abs=0.1)
    assert float(shape.log_volume) == pytest.approx(math.log(4))
    assert shape.relative_log_volume == pytest.approx(math.log(4 / math.sqrt(10)))


def test_edges_join_everything_but_the_ends():
    ends, connectors = (point(1.0), point(2.0)), (point(3.0), point(4.0))
    pairs = [(float(a[0]), float(b[0])) for a, b in Simplexes(ends, connectors).edges()]
    assert pairs == [(1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]


@pytest.mark.parametrize("reward", [1e-6, 0.5])
def test_the_point_for_a_quadratic_loss_is_where_loss_and_volume_balance(reward):
    """Ends (-1, 0) and (1, 0), loss |w - (0, 1)|^2 / 2. By symmetry the point is (0, b); on either segment the mean of
    the loss has the slope b / 3 - 1 / 2 in b, and the log of the length b / (1 + b^2)."""
    ends = point(-1.0, 0.0), point(1.0, 0.0)
    bowl = lambda weights, rows: (weights[0] - torch.tensor([0.0, 1.0])).square().sum() / 2
    found = spanned(ends, 1, search(bowl, steps=400, rate=0.02), reward)
    roots = np.roots([1 / 3, -1 / 2, 1 / 3 - reward, -1 / 2])  # (b / 3 - 1 / 2) (1 + b^2) = reward b
    expected = float(roots[abs(roots.imag) < 1e-9].real.max())
    a, b = found.connectors[0][0].tolist()
    assert b == pytest.approx(expected, abs=0.2)
    assert a == pytest.approx(0, abs=0.2)
    assert abs(expected - 1.5) > 0.5 or reward < 0.1


def test_ends_stay_and_more_reward_gives_more_volume():
    ends = point(-1.0, 0.0, 0.0), point(1.0, 0.0, 0.0)
    bowl = lambda weights, rows: (weights[0] - torch.tensor([0.0, 1.0, 0.5])).square().sum() / 2
    small, large = (spanned(ends, 2, search(bowl, steps=150, rate=0.03), reward) for reward in (0.01, 0.5))
    assert [e[0].tolist() for e in large.ends] == [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert len(large.connectors) == 2
    assert float(large.log_volume) > float(small.log_volume) + 0.5
    assert not any(w.requires_grad for c in large.connectors for w in c)


def test_points_that_must_stay_in_a_subspace_do():
    flat = lambda weights: [torch.cat([weights[0][:2], torch.zeros(1)])]
    ends = point(-1.0, 0.0, 0.0), point(1.0, 0.0, 0.0)
    bowl = lambda weights, rows: (weights[0] - torch.tensor([0.0, 1.0, 1.0])).square().sum() / 2
    how = {"steps": 100, "rate": 0.05}
    kept = spanned(ends, 1, search(bowl, project=flat, precision=math.inf, **how), 0.1)
    free = spanned(ends, 1, search(bowl, **how), 0.1)
    assert float(kept.connectors[0][0][2]) == 0.0
    assert float(free.connectors[0][0][2]) > 0.5


@pytest.mark.parametrize(("count", "reward"), [(0, 0.1), (1, 0.0), (1, math.nan)])
def test_refusals(count, reward):
    ends = point(0.0), point(1.0)
    with pytest.raises(SofteqValueError, match="count, reward"):
        spanned(ends, count, search(), reward)
    with pytest.raises(SofteqValueError, match="connectors"):
        Simplexes(ends, ())
    with pytest.raises(SofteqValueError, match="vertices"):
        simplex_log_volume(torch.ones(1, 3))
