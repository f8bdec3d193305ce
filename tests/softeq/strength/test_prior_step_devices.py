"""The prior step where the parameters are: a GPU does what a CPU does, with the optimizers that count steps there."""

import copy

import pytest
import torch

from softeq import Prior, Scalar, SoftLinear, T, Vector, groups, harden
from softeq.strength import rule

from .test_prior_step import PRECISIONS, single, train

REP = (2 * Scalar + Vector + T(2))(groups.O(3))
# Per optimizer its form on a CPU, what it takes beside that on a GPU, and how near the two come: where steps are
# counted on the device, torch takes powers of beta in float32, of whose 1 - beta^t five digits are right.
FORMS = {
    "sgd": (lambda p, **form: torch.optim.SGD(p, lr=0.02, **form), {}, 1e-9),
    "momentum": (lambda p, **form: torch.optim.SGD(p, lr=0.02, momentum=0.8, **form), {}, 1e-9),
    "momentum-fused": (lambda p, **form: torch.optim.SGD(p, lr=0.02, momentum=0.8, **form), {"fused": True}, 1e-9),
    "adam-foreach": (lambda p, **form: torch.optim.Adam(p, lr=0.03, **form), {"foreach": True}, 1e-9),
    "adam-fused": (lambda p, **form: torch.optim.Adam(p, lr=0.03, **form), {"fused": True}, 1e-6),
    "adam-capturable": (lambda p, **form: torch.optim.Adam(p, lr=0.03, **form), {"capturable": True}, 1e-4),
    "adamw-fused": (lambda p, **form: torch.optim.AdamW(p, lr=0.03, weight_decay=0.5, **form), {"fused": True}, 1e-6),
    "adamw-capturable": (
        lambda p, **form: torch.optim.AdamW(p, lr=0.03, weight_decay=0.5, **form),
        {"capturable": True},
        1e-4,
    ),
    "nadam-capturable": (lambda p, **form: torch.optim.NAdam(p, lr=0.03, **form), {"capturable": True}, 1e-4),
    "radam-capturable": (lambda p, **form: torch.optim.RAdam(p, lr=0.03, **form), {"capturable": True}, 1e-4),
}


def optimizer_of(name, parameters, device):
    make, form, _ = FORMS[name]
    return make(parameters, **(form if device == "cuda" or "capturable" not in form else {}))


def data(device):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, REP.size, generator=generator, dtype=torch.float64)
    return x.to(device), y.to(device)


def trained(model, optimizer, device, steps=12, residual=30.0):
    x, y = data(device)
    one = rule("fixed", model, samples=10, prior=Prior(equivariant=2.0, residual=residual))
    train(model, one, optimizer, lambda m: (m(x) - y).square().mean(), steps)


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
@pytest.mark.parametrize("name", FORMS)
def test_the_parameters_are_those_of_a_cpu(name, parametrization, device):
    torch.manual_seed(0)
    reference = SoftLinear(REP, REP, parametrization=parametrization).double()
    model, start = copy.deepcopy(reference).to(device), reference.weight.detach().clone()
    make, _, tolerance = FORMS[name]
    trained(reference, make(reference.parameters()), "cpu")
    trained(model, optimizer_of(name, model.parameters(), device), device)
    assert float((reference.weight.detach() - start).abs().max()) > 0.01
    for key, value in model.state_dict().items():
        assert value.device.type == device
        torch.testing.assert_close(value.cpu(), reference.state_dict()[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["momentum-fused", "adam-fused", "adam-capturable"])
def test_fixed_points_are_those_of_the_penalised_loss(name, device):
    model = torch.nn.ModuleList(single() for _ in PRECISIONS).to(device)
    overrides = {str(index): {"residual": c} for index, c in enumerate(PRECISIONS)}
    one = rule("fixed", model, samples=1, prior=Prior(overrides=overrides))

    def loss(m):  # 1/2 h (w - 1)^2 + c / 2 w^2 is least at h / (h + c)
        return sum((layer.weight - 1).square().sum() for layer in m)

    train(model, one, optimizer_of(name, model.parameters(), device), loss, 400, lambda k: 0.985**k)
    for layer, c in zip(model, PRECISIONS, strict=True):
        assert float(layer.weight.detach()) == pytest.approx(2 / (2 + c), rel=2e-3)


@pytest.mark.parametrize("name", ["momentum", "adam-fused", "adam-capturable"])
def test_a_huge_precision_is_the_hard_network(name, device):
    torch.manual_seed(0)
    soft = SoftLinear(REP, REP).double().to(device)
    hard = harden(soft)
    for model in (soft, hard):
        trained(model, optimizer_of(name, model.parameters(), device), device, residual=1e12)
    assert soft.weight_defect() < 1e-9
    torch.testing.assert_close(soft.weight, hard.weight, rtol=0, atol=1e-7)


# The first step is seen by nobody before it is taken; a scaler often leaves it out.
@pytest.mark.parametrize("pattern", ["-+-+", "--++", "+--+"])
@pytest.mark.parametrize("name", FORMS)
def test_steps_that_a_scaler_leaves_out_are_left_out(name, pattern, device):
    layer = single().float().to(device)
    weight = layer.pathways["residual"].weight
    one = rule("fixed", layer, samples=1, prior=Prior(residual=100.0))
    optimizer = optimizer_of(name, layer.parameters(), device)
    scaler = torch.amp.GradScaler(device, init_scale=8.0)
    for sign in pattern:
        before = float(weight.detach())
        optimizer.zero_grad()
        one.backward(layer.weight.sum(), scaler=scaler)
        if sign == "-":
            weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        after_optimizer = float(weight.detach())
        one.step(optimizer)
        assert (float(weight.detach()) != before) == (sign == "+")
        assert (abs(float(weight.detach())) < abs(after_optimizer)) == (sign == "+")


@pytest.mark.gpu
# Not "momentum-fused": where the scaler leaves out its first step, torch's own buffers stay uninitialised memory.
@pytest.mark.parametrize("name", ["sgd", "adam-foreach", "adam-fused", "adamw-fused"])
def test_under_float16_the_scaler_finds_its_scale_and_the_prior_follows(name):
    model = SoftLinear(REP, REP).cuda()
    x, y = (value.float() for value in data("cuda"))
    one = rule("fixed", model, samples=10, prior=Prior(residual=30.0))
    optimizer, scaler = optimizer_of(name, model.parameters(), "cuda"), torch.amp.GradScaler(init_scale=2.0**60)
    taken = []
    for _ in range(60):
        before, scale = [p.detach().clone() for p in model.parameters()], scaler.get_scale()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = (model(x) - y).square().mean()
        one.backward(loss, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
        one.step(optimizer)
        taken.append(scaler.get_scale() >= scale)
        same = [torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
        assert not any(same) if taken[-1] else all(same)
    assert not taken[0]
    assert sum(taken) > 5
    assert all(bool(p.isfinite().all()) for p in model.parameters())
