"""The bound and the codes against numbers that were worked out by hand."""

import itertools
import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena.occam import (
    clustered,
    coin_divergence,
    counts_bits,
    largest_rate,
    message_bits,
    occam_bound,
)


def test_divergence_of_coins_by_hand():
    assert coin_divergence(0.5, 0.25) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert coin_divergence(0.0, 0.25) == pytest.approx(-math.log(0.75))
    assert coin_divergence(0.3, 0.3) == 0
    assert coin_divergence(0.3, 0.0) == math.inf


def test_without_errors_the_bound_is_in_closed_form():
    """Ten bits and one in a thousand: 1 - (2^-10 / 1000)^(1/100)."""
    wanted = 1 - (2.0**-10 * 1e-3) ** (1 / 100)
    assert occam_bound(0, 100, 10, 1e-3) == pytest.approx(wanted, abs=1e-12)
    assert wanted == pytest.approx(0.1292, abs=1e-4)


def test_with_errors_it_solves_its_equation_and_is_above_the_binomial_tail():
    bound = occam_bound(20, 100, 8, 0.05)
    assert coin_divergence(0.2, bound) == pytest.approx((8 * math.log(2) + math.log(20)) / 100)
    tail = sum(math.comb(100, k) * bound**k * (1 - bound) ** (100 - k) for k in range(21))
    assert tail <= 2.0**-8 * 0.05  # a network as bad as the bound says is that unlikely to look so good
    assert occam_bound(20, 100, 9) > occam_bound(20, 100, 8) > occam_bound(19, 100, 8) > 0.19
    assert occam_bound(100, 100, 0) == 1.0


def test_a_free_message_costs_only_delta():
    assert largest_rate(0.25, 0.0) == pytest.approx(0.25, abs=1e-8)  # kl is flat there: rounding of 1e-16 is 1e-8 in R
    assert occam_bound(25, 10**8, 0) == pytest.approx(25e-8, rel=0.6)


def test_the_code_of_symbols_by_hand():
    """Four symbols of two kinds, two of each: one of five counts, then one of six sequences."""
    assert counts_bits([2, 2]) == pytest.approx(math.log2(5) + math.log2(6))
    assert counts_bits([4, 0]) == pytest.approx(math.log2(5))
    assert counts_bits([7]) == pytest.approx(0)
    assert message_bits(torch.tensor([0, 1, 0, 1]), 2) == pytest.approx(32 + math.log2(30))


def test_the_code_is_one():
    """Kraft's inequality holds with equality over all sequences."""
    total = sum(2.0 ** -counts_bits([s.count(k) for k in range(3)]) for s in itertools.product(range(3), repeat=5))
    assert total == pytest.approx(1.0)


def test_clusters_of_values_that_are_clustered():
    values = torch.tensor([-1.0, -1.1, -0.9, 0.0, 0.01, 2.0, 2.2, 2.1])
    assert clustered(values, 3).tolist() == pytest.approx([-1.0, 0.005, 2.1])


@pytest.mark.parametrize(
    "arguments", [(-1, 10, 1, 0.1), (11, 10, 1, 0.1), (1, 0, 1, 0.1), (1, 2, -1, 0.1), (1, 2, 1, 1.0)]
)
def test_values_out_of_range(arguments):
    with pytest.raises(SofteqValueError, match="errors, samples, bits, delta"):
        occam_bound(*arguments)
    with pytest.raises(SofteqValueError, match="observed, cost"):
        largest_rate(1.5, 0.1)
