import pytest
import torch
from torch import nn

from softeq import SoftLinear
from softeq.errors import SofteqValueError
from softeq.experiments.training.published import PublishedPenalty, precision
from softeq.groups import O
from softeq.models.dynamics import SoftEMLP
from softeq.reps import Scalar, T, Vector


def network():
    rep_in, rep_out = (2 * Scalar + 2 * Vector)(O(3)), T(2)(O(3))
    return SoftEMLP(rep_in, rep_out, channels=16, layers=1, published=True).double()


def test_it_is_the_sum_of_squares_of_the_linear_weights_times_the_decays():
    model = network()
    rule = PublishedPenalty(model, samples=50, equivariant=precision(1e-3, 50), residual=precision(10.0, 50))
    layers = [m for m in model.modules() if isinstance(m, SoftLinear)]
    wanted = sum(
        1e-3 * layer.pathways["equivariant"].weight.square().sum()
        + 10.0 * layer.pathways["residual"].weight.square().sum()
        for layer in layers
    )
    torch.testing.assert_close(rule.penalty(), wanted)
    assert len(rule.terms) == 2 * len(layers)


def test_the_gradient_is_of_the_loss_with_the_penalty_and_biases_are_free():
    model = network()
    rule = PublishedPenalty(model, samples=50, equivariant=0.0, residual=100.0)
    x = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with rule.perturbed():
        loss = model(x).square().mean()
    plain = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    rule.backward(loss)
    rule.step(torch.optim.Adam(model.parameters()))
    for (name, parameter), gradient in zip(model.named_parameters(), plain, strict=True):
        priced = "residual.weight" in name and "bilinear" not in name and "gate" not in name
        extra = 2.0 * parameter.detach() if priced else torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, (0 if gradient is None else gradient) + extra, msg=name)


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(SofteqValueError, match="published: Linear has no soft linear layer"):
        PublishedPenalty(nn.Linear(2, 2), samples=1, equivariant=1.0, residual=1.0)
