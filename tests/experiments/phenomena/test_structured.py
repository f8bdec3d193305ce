"""Structured layers: what they cost by hand and by torch's counter, the matrix that they equal, their start, widths."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena.structured import STRUCTURES, BlockTensorTrain, Kronecker, near_root, width_within

# 12 = 3 x 4 inputs, 10 = 2 x 5 outputs, by hand.
BY_HAND = {"dense": 120, "low-rank": 2 * (12 + 10), "kronecker": 12 * 5 + 3 * 5 * 2, "block-train": 4 * 2 * (3 + 5)}


@pytest.mark.parametrize("name", STRUCTURES)
def test_costs_by_hand_and_as_torch_counts_them(name):
    layer = STRUCTURES[name](12, 10)
    assert layer.multiply_adds == BY_HAND[name]
    with FlopCounterMode(display=False) as counted:
        layer(torch.randn(7, 12))
    assert counted.get_total_flops() == 2 * 7 * BY_HAND[name]


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_layer_is_its_dense_matrix_and_starts_with_outputs_of_the_usual_size(name):
    torch.manual_seed(0)
    layer = STRUCTURES[name](64, 144).double()
    x = torch.randn(500, 64, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.normal_()
        torch.testing.assert_close(layer(x), x @ layer.dense().T + layer.bias)
        many = [STRUCTURES[name](64, 144).double().product(x).square().mean() for _ in range(20)]
    assert float(torch.stack(many).mean()) == pytest.approx(1 / 3, rel=0.25)


def test_the_matrices_of_the_structures_by_their_formulas():
    torch.manual_seed(0)
    kronecker, train = Kronecker(12, 10), BlockTensorTrain(12, 10)
    torch.testing.assert_close(kronecker.dense(), torch.kron(kronecker.first, kronecker.second).detach())
    # y[a, b] = sum_j L[a, b, j] sum_i R[j, a, i] x[i, j]
    expected = torch.einsum("abj,jai->abij", train.second, train.first).reshape(10, 12).detach()
    torch.testing.assert_close(train.dense(), expected)
    assert torch.linalg.matrix_rank(STRUCTURES["low-rank"](12, 10).dense()) == 2


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 1)), (12, (3, 4)), (64, (8, 8)), (13, (1, 13))])
def test_factors_nearest_to_the_root(n, expected):
    assert near_root(n) == expected


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_width_fits_the_budget_and_the_next_one_does_not(name):
    make, step = STRUCTURES[name], 16 if name in ("kronecker", "block-train") else 4
    cost = lambda w: make(64, w).multiply_adds + make(w, w).multiply_adds + 10 * w
    width = width_within(name, 64, 10, 16_000)
    assert width % step == 0
    assert cost(width) <= 16_000 < cost(width + step)


def test_refusals():
    with pytest.raises(SofteqValueError, match="structure: expected one of dense"):
        width_within("sparse", 64, 10, 1000)
    with pytest.raises(SofteqValueError, match="budget: expected at least"):
        width_within("dense", 64, 10, 10)
    with pytest.raises(SofteqValueError, match="inputs, outputs"):
        Kronecker(0, 4)
