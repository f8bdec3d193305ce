"""The prior step: its fixed points are those of the penalised loss, at every precision and for every optimizer."""

import copy
import warnings

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    SoftBilinear,
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
    T,
    Vector,
    groups,
    prior_penalty,
)
from softeq.strength import rule

O3 = groups.O(3)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, nesterov=True),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, dampening=0.3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.03),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.03, fused=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.03, foreach=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.03, amsgrad=True),
    "adam-eps": lambda p: torch.optim.Adam(p, lr=0.03, eps=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.5),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "nadam-decoupled": lambda p: torch.optim.NAdam(p, lr=0.03, weight_decay=0.5, decoupled_weight_decay=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "radam-decoupled": lambda p: torch.optim.RAdam(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True),
}
REP = (2 * Vector + T(2))(O3)


def single(value=0.5):
    """A layer with one residual weight, no equivariant pathway and no bias."""
    layer = SoftLinear(Vector(groups.Trivial(1)), Vector(groups.Trivial(1)), constraint="none", bias=False).double()
    with torch.no_grad():
        layer.pathways["residual"].weight.fill_(value)
    return layer


def train(model, one, optimizer, loss_of, steps, decay=lambda step: 1.0):
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * decay(step)
        optimizer.zero_grad()
        with one.perturbed():
            loss = loss_of(model)
        one.backward(loss)
        optimizer.step()
        one.step(optimizer)


PRECISIONS = [0.0, 1e-3, 1.0, 1e3, 1e6, 1e12]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fixed_points_are_those_of_the_penalised_loss(name):
    # 1/2 h (w - 1)^2 + c / 2 w^2 is least at h / (h + c); at every c in one network, from the same start.
    h, model = 2.0, nn.ModuleList(single() for _ in PRECISIONS)
    overrides = {str(index): {"residual": c} for index, c in enumerate(PRECISIONS)}
    one = rule("fixed", model, samples=1, prior=Prior(overrides=overrides))
    optimizer = OPTIMIZERS[name](model.parameters())
    # A rate that falls lets Adam settle, whose last steps are else as long as its first.
    train(
        model, one, optimizer, lambda m: sum(0.5 * h * (x.weight - 1).square().sum() for x in m), 500, lambda k: 0.99**k
    )
    for layer, c in zip(model, PRECISIONS, strict=True):
        assert float(layer.weight.detach()) == pytest.approx(h / (h + c), rel=1e-3)


def test_a_decoupled_decay_has_other_fixed_points():
    # The negative control: the shrinkage that the project had before, w / (1 + lr c), settles elsewhere.
    layer = single()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        (0.5 * (layer.weight - 1).square().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            layer.pathways["residual"].weight.div_(1 + 0.01)
    assert abs(float(layer.weight.detach()) - 0.5) > 0.05


def test_it_never_overshoots():
    layer = single(5.0)
    one = rule("fixed", layer, samples=1, prior=Prior(residual=1e9))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(30):
        train(layer, one, optimizer, lambda m: 0 * m.weight.sum(), 1)
        assert float(layer.weight.detach()) >= 0


def test_fixed_points_under_clipping_a_schedule_and_several_groups():
    torch.manual_seed(0)
    model = SoftLinear(REP, REP).double()
    x, y = torch.randn(40, 15, dtype=torch.float64), torch.randn(40, 15, dtype=torch.float64)
    prior = Prior(equivariant=2.0, residual=30.0)
    reference = copy.deepcopy(model)
    lbfgs = torch.optim.LBFGS(reference.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        lbfgs.zero_grad()
        loss = (reference(x) - y).square().mean() + prior_penalty(reference, prior) / 40
        loss.backward()
        return loss

    lbfgs.step(closure)
    one = rule("fixed", model, samples=40, prior=prior)
    own, rest = model.pathways["equivariant"].parameters(), model.pathways["residual"].parameters()
    optimizer = torch.optim.Adam([{"params": own, "lr": 0.02}, {"params": rest, "lr": 0.01}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        one.backward((model(x) - y).square().mean())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        one.step(optimizer)
        schedule.step()
    torch.testing.assert_close(model.weight, reference.weight, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.bias, reference.bias, rtol=0, atol=1e-3)


@pytest.mark.parametrize("residual", [0.0, 3.0, 1e4, 1e12])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_the_projected_form_has_the_fixed_point_of_its_penalty(name, residual):
    torch.manual_seed(1)
    model = SoftLinear(REP, REP, parametrization="projected").double()
    target, offset = 0.3 * torch.randn(15, 15, dtype=torch.float64), 0.3 * torch.randn(15, dtype=torch.float64)
    one = rule("fixed", model, samples=10, prior=Prior(equivariant=5.0, residual=residual))

    def loss(m):
        return 0.5 * (m.weight - target).square().sum() + 0.5 * (m.bias - offset).square().sum()

    train(model, one, OPTIMIZERS[name](model.parameters()), loss, 500, lambda k: 0.99**k)
    both = 0.5 * residual / (0.5 + residual / 10) / 10 if residual else 0.0
    image = model.projector(target)
    expected = image / (1 + both) + (target - image) / (1 + residual / 10)
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-3, atol=1e-3)


def test_the_projected_step_minimises_what_it_says():
    torch.manual_seed(2)
    model = SoftLinear(REP, REP, parametrization="projected", bias=False).double()
    one = rule("fixed", model, samples=1, prior=Prior(equivariant=4.0, residual=50.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    one.backward((model.weight * torch.randn(15, 15, dtype=torch.float64)).sum())
    optimizer.step()
    z = model.free_weight.detach().clone()
    one.step(optimizer)
    w = model.free_weight.detach()
    g = (optimizer.state[model.free_weight]["exp_avg_sq"] / 1e-3).sqrt().add(1e-8) / 0.1
    image = model.projector(w)
    merged = 1 / (1 / 4 + 1 / 50)
    gradient = g * (w - z) + merged * image + 50 * (w - image)
    assert float(gradient.abs().max()) < 1e-9 * float((g * z).abs().max())


@pytest.mark.parametrize("name", ["adam", "adam-fused", "momentum"])
def test_a_step_that_the_scaler_leaves_out_is_left_out(name):
    layer = single().float()
    one = rule("fixed", layer, samples=1, prior=Prior(residual=100.0))
    optimizer, scaler = OPTIMIZERS[name](layer.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(factor):
        optimizer.zero_grad()
        one.backward((layer.weight * factor).sum(), scaler=scaler)
        if factor > 1e30:
            layer.pathways["residual"].weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        one.step(optimizer)

    step(1.0)
    before = float(layer.weight.detach())
    step(1e31)
    assert float(layer.weight.detach()) == before
    step(1.0)
    assert float(layer.weight.detach()) != before


def test_the_scaler_changes_no_fixed_point():
    layer = single().float()
    one = rule("fixed", layer, samples=1, prior=Prior(residual=2.0))
    optimizer, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    for _ in range(200):
        optimizer.zero_grad()
        one.backward((layer.weight - 1).square().sum(), scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
        one.step(optimizer)
    assert float(layer.weight.detach()) == pytest.approx(0.5, rel=1e-3)


def test_other_optimizers_and_coupled_decay_are_refused():
    layer = single()
    one = rule("fixed", layer, samples=1)
    cases = [
        (torch.optim.Adagrad(layer.parameters()), SofteqTypeError, "SGD, Adam, AdamW, NAdam, RAdam.*Adagrad"),
        (torch.optim.LBFGS(layer.parameters()), SofteqTypeError, "LBFGS"),
        (torch.optim.Adam(layer.parameters(), weight_decay=0.1), SofteqValueError, "weight_decay=0"),
        (torch.optim.SGD(layer.parameters(), lr=0.1, maximize=True), SofteqValueError, "maximize=False"),
        (torch.optim.Adam(nn.Linear(1, 1).parameters()), SofteqValueError, "does not hold"),
        (object(), SofteqTypeError, "object"),
    ]
    for optimizer, kind, message in cases:
        one.backward((layer.weight - 1).square().sum())
        with pytest.raises(kind, match=message):
            one.step(optimizer)


def test_tensors_for_the_step_and_the_rate_give_the_same(monkeypatch):
    # capturable optimizers keep both on their device, which a CPU cannot show; the same code is run with tensors.
    from softeq.strength import _optimizers

    def after(as_tensor):
        torch.manual_seed(0)
        model = SoftBilinear(REP, REP)
        if as_tensor:
            monkeypatch.setattr(_optimizers, "_number", lambda v: v if isinstance(v, torch.Tensor) else float(v))
        one = rule("fixed", model, samples=3, prior=Prior(residual=50.0))
        optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01) if as_tensor else 0.01)
        x = torch.randn(8, 15)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(model, one, optimizer, lambda m: m(x).square().mean(), 5)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(after(False), after(True), rtol=1e-5, atol=1e-7)


def test_a_weight_that_decays_ends_at_zero_and_not_below_the_normal_numbers():
    layer = single(1e-36).float()
    one, optimizer = rule("fixed", layer, samples=1, prior=Prior(residual=1.0)), OPTIMIZERS["sgd"](layer.parameters())
    tiny, weight = torch.finfo(torch.float32).tiny, layer.pathways["residual"].weight
    seen = []
    for _ in range(200):
        optimizer.zero_grad()
        one.backward(0 * layer(torch.ones(1, 1)).sum())
        optimizer.step()
        one.step(optimizer)
        seen.append(float(weight.detach()))
    assert 0 < min(value for value in seen if value > 0) < tiny  # it does pass there
    assert seen[-1] == 0
    factor = torch.tensor(1 / 1.05)
    assert torch.tensor(1e-45) * factor > 0  # what the factor alone leaves for good
