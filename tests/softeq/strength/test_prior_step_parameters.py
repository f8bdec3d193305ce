"""The prior step reaches each parameter that the prior prices once, and no other."""

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    anchor,
    prior_penalty,
)
from softeq.strength import rule

from .test_prior_step import OPTIMIZERS, single, train


def test_parameters_without_a_gradient_are_left_alone():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = single(), single()
            self.frozen = single().requires_grad_(False)

        def forward(self):
            return self.used.weight.sum()

    for make in (OPTIMIZERS["adam"], OPTIMIZERS["momentum"]):
        model = Half()
        one = rule("fixed", model, samples=1, prior=Prior(residual=1e3))
        train(model, one, make([p for p in model.parameters() if p.requires_grad]), lambda m: m().square(), 3)
        assert float(model.idle.weight.detach()) == 0.5
        assert float(model.frozen.weight) == 0.5
        assert abs(float(model.used.weight.detach())) < 0.1


def test_adamw_decays_what_the_prior_does_not_price():
    layer = single()
    free = nn.Parameter(torch.ones(1, dtype=torch.float64))
    one = rule("fixed", layer, samples=1, prior=Prior(residual=0.0))
    optimizer = torch.optim.AdamW([*layer.parameters(), free], lr=0.1, weight_decay=0.5)
    optimizer.zero_grad()
    one.backward((0 * layer.weight).sum() + 0 * free.sum())
    optimizer.step()
    one.step(optimizer)
    assert float(layer.weight.detach()) == pytest.approx(0.5, rel=1e-12)
    assert float(free.detach()) == pytest.approx(0.95)


def test_shared_parameters_are_pulled_once():
    layer = single()
    both = nn.Sequential(layer, layer)
    one = rule("fixed", both, samples=1, prior=Prior(residual=2.0))
    assert len(one.charges) == 1
    train(both, one, torch.optim.SGD(both.parameters(), lr=0.1), lambda m: (m[0].weight - 1).square().sum(), 300)
    assert float(layer.weight.detach()) == pytest.approx(0.5, rel=1e-6)


def test_samples_divide_the_precision():
    layer = single()
    one = rule("fixed", layer, samples=50, prior=Prior(residual=100.0))
    train(layer, one, torch.optim.SGD(layer.parameters(), lr=0.1), lambda m: (m.weight - 1).square().sum(), 300)
    assert float(layer.weight.detach()) == pytest.approx(0.5, rel=1e-6)


def test_parameters_elsewhere_can_be_priced_and_a_plain_network_trained():
    plain = nn.Linear(1, 1, bias=False).double()
    one = rule("fixed", plain, samples=1, elsewhere=2.0)
    train(plain, one, torch.optim.SGD(plain.parameters(), lr=0.1), lambda m: (m.weight - 1).square().sum(), 300)
    assert float(plain.weight.detach()) == pytest.approx(0.5, rel=1e-6)


def test_an_anchored_model_is_pulled_to_its_means():
    layer = anchor(single(3.0))
    with torch.no_grad():
        layer.pathways["residual"].weight.fill_(5.0)
    one = rule("fixed", layer, samples=1, prior=Prior(residual=2.0))
    for name in ("momentum", "adam"):
        loss = lambda m: (m.weight - 1).square().sum()
        train(layer, one, OPTIMIZERS[name](layer.parameters()), loss, 400, lambda k: 0.99**k)
        assert float(layer.weight.detach()) == pytest.approx(2.0, rel=1e-3)
    assert float(prior_penalty(layer, Prior(residual=2.0)).detach()) == pytest.approx(1.0, rel=1e-2)
