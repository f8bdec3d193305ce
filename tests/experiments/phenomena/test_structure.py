"""structure: every variant stays within its budget, costs what torch counts, and is what its name says."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from softeq import fold
from softeq.errors import SofteqValueError
from softeq.experiments.engine import record
from softeq.experiments.phenomena.structure import BUDGETS, VARIANTS, build, channels_within, configure, conv_cost, run


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_spends_its_budget_and_no_more(variant, budget):
    _, cost = build(variant, budget)
    assert 0.4 * budget < cost <= budget  # channels of a convolution are whole numbers


@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_counts_as_many_operations(variant):
    model, cost = build(variant, BUDGETS[1])
    model = (
        fold(model) if variant in ("hard", "soft", "soft-fixed") else model
    )  # merging is no part of what an image costs
    with FlopCounterMode(display=False) as counted:
        assert model(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    weighted = 2 * 64 * 2 * channels_within(BUDGETS[1], 1) if variant == "soft-conv" else 0  # sums, not products
    assert 2 * 3 * cost - 3 * 2 * weighted <= counted.get_total_flops() <= 2 * 3 * cost


def test_hard_is_invariant_and_refusals():
    x = torch.randn(4, 1, 8, 8)
    model = build("hard", 4000)[0]
    torch.testing.assert_close(model(x.rot90(1, (-2, -1))), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(SofteqValueError, match="budget"):
        channels_within(conv_cost(1, 1) - 1, 1)


@pytest.mark.parametrize("variant", ["block-train", "soft-fixed", "soft-conv"])
def test_a_run_records_errors_and_costs(variant):
    pytest.importorskip("sklearn")
    found = run(configure("smoke", variant, 0), lambda done, total: None)
    assert record.decode(record.encode(found)) == found
    assert 0 <= found["test_error@half-broken-4000"] <= 1
    assert found["multiply_adds-4000"] <= 4000
