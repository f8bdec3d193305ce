"""Spaces of blocks: coordinates against a dense twin, derivatives of every kind, spaces that are nested and not."""

import pytest
import torch

from softeq._block_space import BlockSpace
from softeq._constants import Constants
from softeq._ladder import NotNested, spaces

SHAPE = (3, 4)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rank, entries, seed):
    return torch.linalg.qr(normal(entries, entries, seed=seed))[0].T[:rank]


def blocks():
    """Two copies of a block of four entries and one of three; the last entry belongs to none."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    first, second = orthonormal(4, 4, 2), orthonormal(3, 3, 3)
    return [
        (order[:8].view(2, 4), [first[:1], first[:3], first]),
        (order[8:11].view(1, 3), [second[:0], second[:2], second[:2]]),
    ]


def built():
    return spaces(blocks())


def space(name):
    return BlockSpace(SHAPE, Constants(built), name)


def dense(of):
    return torch.stack([of.expand(row) for row in torch.eye(of.rank, dtype=torch.float64)]).flatten(1)


NAMES = ["within_0", "rung_1", "within_1", "rung_2", "within_2"]


@pytest.mark.parametrize(("name", "rank"), zip(NAMES, [2, 4 + 2, 2 + 4 + 2, 2, 2 + 4 + 2 + 2], strict=True))
def test_coordinates_are_those_of_an_orthonormal_basis(name, rank):
    own, weight = space(name), normal(*SHAPE)
    assert own.rank == rank
    basis = dense(own)
    torch.testing.assert_close(basis @ basis.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(own.coordinates_of(weight), basis @ weight.flatten(), rtol=0, atol=1e-13)
    nearest = (basis.T @ (basis @ weight.flatten())).view(SHAPE)
    torch.testing.assert_close(own.nearest(weight), nearest, rtol=0, atol=1e-13)
    torch.testing.assert_close(own.without(weight), weight - nearest, rtol=0, atol=1e-13)
    coordinates = normal(rank, seed=5)
    expected = weight - nearest + (basis.T @ coordinates).view(SHAPE)
    torch.testing.assert_close(own.replaced(weight, coordinates), expected, rtol=0, atol=1e-13)


def test_rungs_are_what_is_new():
    whole = torch.cat([dense(space(name)) for name in ("within_0", "rung_1", "rung_2")])
    torch.testing.assert_close(whole @ whole.T, torch.eye(len(whole), dtype=torch.float64), rtol=0, atol=1e-13)
    widest = dense(space("within_2"))
    torch.testing.assert_close(whole.T @ whole, widest.T @ widest, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["rung_1", "within_1"])
def test_derivatives_of_every_kind(name):
    own = space(name)
    weight, coordinates = normal(*SHAPE).requires_grad_(), normal(own.rank, seed=5).requires_grad_()

    def curved(weight, coordinates):
        return own.without(weight).pow(3).sum() + own.replaced(weight, coordinates).pow(3).sum()

    assert torch.autograd.gradcheck(curved, (weight, coordinates), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(curved, (weight, coordinates))


def test_many_weights_at_once_and_compiled():
    own, weights, coordinates = space("rung_1"), normal(5, *SHAPE), normal(5, 6, seed=5)
    expected = torch.stack([own.replaced(w, c) for w, c in zip(weights, coordinates, strict=True)])
    torch.testing.assert_close(torch.vmap(own.replaced)(weights, coordinates), expected)
    compiled = torch.compile(own.replaced, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(weights[0], coordinates[0]), expected[0])


def test_narrow_dtypes_are_computed_in_float32():
    own, weight = space("within_1"), normal(*SHAPE)
    narrow = own.nearest(weight.bfloat16())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.double(), own.nearest(weight), rtol=0.02, atol=0.02)


def test_spaces_that_are_not_nested_are_told_by_their_place():
    places, (narrow, *_) = torch.arange(4).view(1, 4), [orthonormal(1, 4, 0)]
    with pytest.raises(NotNested) as told:
        spaces([(places, [narrow, narrow, orthonormal(3, 4, 9)])])
    assert told.value.level == 2
