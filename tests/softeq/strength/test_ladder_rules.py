"""A rule on a ladder O(3) > O(2) about z > none: it releases the subgroup that the data obey, the rest at its bound."""

import pytest
import torch

from softeq import Prior, Scalar, SoftLinear, Vector, harden
from softeq.groups import O, O2eR3
from softeq.strength import rule
from softeq.strength._learned import HIGHEST

REP_IN, REP_OUT = (Scalar + 2 * Vector)(O(3)), (Scalar + Vector)(O(3))
LADDER = [O(3), O2eR3()]


def layer():
    return SoftLinear(REP_IN, REP_OUT, bias=False, ladder=LADDER).double()


def trained(broken, seed=0):
    """The layer and its rule after training on ``y = x W^T + noise``, W with parts in these rungs beside the first."""
    torch.manual_seed(seed)
    truth, found = layer(), layer()
    with torch.no_grad():
        for name, pathway in truth.pathways.items():
            for p in pathway.parameters():
                p.normal_(std=1.0 if name in ("equivariant", *broken) else 0.0)
        x = torch.randn(64, 7, dtype=torch.float64)
        y = truth(x) + 0.1 * torch.randn(64, 4, dtype=torch.float64)
    one = rule("mackay", found, samples=64, prior=Prior(equivariant=1e-6), every=1, record=0)
    optimizer = torch.optim.SGD(found.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        output = found(x)
        loss = (output - y).square().mean()
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    return found, one


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
@pytest.mark.parametrize("broken", [(), ("O2eR3",), ("O2eR3", "residual")], ids=["whole", "about-z", "none"])
def test_it_picks_the_subgroup_and_leaves_the_rest_at_its_bound(broken):
    found, one = trained(broken)
    assert {path.pathway for path in one.paths} == {"O2eR3", "residual"}
    for path in one.paths:
        if path.pathway in broken:
            assert path.effective > 0.9 * path.rank
            assert path.precision < 10 * path.unit
        else:
            assert path.effective < 1e-3 * path.rank
            assert path.precision == HIGHEST * path.unit
    if broken == ("O2eR3",):  # no more than a rung is used: the layer is the one hardened there
        torch.testing.assert_close(harden(found, rung="O2eR3").weight, found.weight, rtol=0, atol=1e-6)
