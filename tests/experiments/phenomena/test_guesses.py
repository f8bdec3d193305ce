"""Random networks that fit a few labels: known probabilities, the prior's symmetry, descent, refusals."""

import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena.guesses import (
    LEAST_LOSS,
    Draws,
    RandomNetworks,
    descend,
    hits,
    largest_rate,
    normalised_loss,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Line(RandomNetworks):
    """w . x with two normal weights: the share of draws that fit two points is known."""

    def __init__(self):
        super().__init__(1, 1, "none")
        self.shapes = [(1, 2)]

    def __call__(self, draws, x):
        return draws.residual[0] @ x.T


@pytest.mark.parametrize("angle", [0.5, 2.0])
def test_two_points_get_one_label_as_often_as_the_angle_between_them_says(angle):
    x = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    signs, loosest = torch.ones(2), 1.2  # any two values of the right sign have a smaller loss than this
    found = sum(
        int((Line()(batch[2], x) > 0).all(1).sum())
        for batch in hits(Line(), x, signs, [2], loosest, 20_000, generator())
    )
    assert found / 20_000 == pytest.approx((1 - angle / math.pi) / 2, abs=0.012)


def test_one_label_is_hit_by_half_of_the_draws():
    x = torch.randn(1, 8, generator=generator())
    found = [b[1].count for b in hits(RandomNetworks(2, 3, "soft"), x, torch.ones(1), [1], 0.5, 5000, generator())]
    assert len(found) == 3
    assert sum(found) / 5000 == pytest.approx(0.5, abs=0.03)


def test_the_normalised_loss_at_its_least_at_a_guess_and_at_any_size():
    signs = torch.tensor([1.0, -1.0, 1.0])
    values = torch.stack([signs, torch.zeros(3), 7 * signs, -signs])
    expected = [LEAST_LOSS, math.log(2), LEAST_LOSS, math.log1p(math.e)]
    torch.testing.assert_close(normalised_loss(values, signs), torch.tensor(expected))


def test_hard_draws_are_invariant_soft_ones_nearly_and_free_ones_not():
    x = torch.randn(6, 8, generator=generator())
    rotated = x.view(6, 2, 4).roll(1, -1).flatten(1)
    moved = {}
    for constraint in ("hard", "soft", "none"):
        family = RandomNetworks(2, 3, constraint, residual=0.05)
        draws = family.draw(50, generator())
        moved[constraint] = float((family(draws, x) - family(draws, rotated)).norm() / family(draws, x).norm())
    assert moved["hard"] < 1e-5
    assert 0.01 < moved["soft"] < 0.3 < moved["none"]


def test_a_soft_draw_of_no_size_is_the_hard_one_and_variances_are_those_of_the_prior():
    hard, soft = RandomNetworks(2, 3, "hard"), RandomNetworks(2, 3, "soft", residual=0.5)
    h, s = hard.draw(4000, generator()), soft.draw(4000, generator())
    equivariant = Draws(s.equivariant, [torch.zeros_like(t) for t in s.residual])
    torch.testing.assert_close(soft.weights(equivariant)[0], hard.weights(h)[0])
    # In an orthonormal basis the squared norm of a weight is the number of coordinates, on average.
    assert float(hard.weights(h)[0].square().sum((1, 2)).mean()) == pytest.approx(2 * 3 * 4, rel=0.05)
    assert float(soft.weights(s)[0].square().sum((1, 2)).mean()) == pytest.approx(24 + 0.25 * 8 * 12, rel=0.05)


@pytest.mark.parametrize("constraint", ["hard", "soft", "none"])
@pytest.mark.parametrize("batch", [None, 2])
def test_descent_fits_and_leaves_alone_what_fits_already(constraint, batch):
    x, signs = torch.randn(6, 8, generator=generator()), torch.tensor([1.0, -1.0] * 3)
    family = RandomNetworks(2, 4, constraint)
    start = family.draw(20, generator())
    before = normalised_loss(family(start, x), signs) < 0.6
    end, there = descend(family, start, x, signs, 0.6, rate=0.02, steps=400, batch=batch, generator=generator())
    assert torch.equal(there, normalised_loss(family(end, x), signs) < 0.6)
    assert there.double().mean() > 0.8
    assert not before.all()
    for a, b in zip(start.leaves, end.leaves, strict=True):
        assert torch.equal(a[before], b[before])
        assert not torch.equal(a[~before], b[~before])


def test_the_largest_rate_is_where_so_few_hits_have_a_chance_of_one_in_twenty():
    pytest.importorskip("scipy")
    p = largest_rate(3, 20)
    assert sum(math.comb(20, k) * p**k * (1 - p) ** (20 - k) for k in range(4)) == pytest.approx(0.05, rel=1e-9)
    assert largest_rate(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-9)
    assert largest_rate(0, 1000) == pytest.approx(3 / 1000, rel=0.01)
    assert largest_rate(7, 7) == 1.0


def test_refusals():
    with pytest.raises(SofteqValueError, match="constraint, residual"):
        RandomNetworks(2, 3, "mixed")
    with pytest.raises(SofteqValueError, match="constraint, residual"):
        RandomNetworks(2, 3, "soft", residual=0.0)
