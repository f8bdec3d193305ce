"""A rule on a ladder O(3) > O(2) about z > none: it loosens the subgroup that the data obey and pins the rest."""

import pytest
import torch

from softeq import Prior, Scalar, SoftLinear, Vector
from softeq.groups import O, O2eR3
from softeq.strength import rule

REP_IN, REP_OUT = (Scalar + 2 * Vector)(O(3)), (Scalar + Vector)(O(3))


def used(broken, seed=0):
    """The share of each pathway's parameters that mackay counts as effective after training; y = x W^T + noise."""
    torch.manual_seed(seed)
    truth = SoftLinear(REP_IN, REP_OUT, bias=False, ladder=[O(3), O2eR3()]).double()
    with torch.no_grad():
        for name, pathway in truth.pathways.items():
            for p in pathway.parameters():
                p.normal_(std=1.0 if name in ("equivariant", *broken) else 0.0)
        x = torch.randn(32, 7, dtype=torch.float64)
        y = truth(x) + 0.1 * torch.randn(32, 4, dtype=torch.float64)
    layer = SoftLinear(REP_IN, REP_OUT, bias=False, ladder=[O(3), O2eR3()]).double()
    one = rule("mackay", layer, samples=32, prior=Prior(equivariant=1e-6), record=0)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / 400)
        optimizer.zero_grad()
        output = layer(x)
        loss = (output - y).square().mean()
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    return {path.pathway: path.effective / path.rank for path in one.paths}


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
@pytest.mark.parametrize("broken", [(), ("O2eR3",), ("O2eR3", "residual")], ids=["whole", "about-z", "none"])
def test_it_picks_the_subgroup(broken):
    found = used(broken)
    assert set(found) == {"O2eR3", "residual"}
    for pathway, share in found.items():
        assert share > 0.9 if pathway in broken else share < 0.6
