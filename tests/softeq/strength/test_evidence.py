"""The Laplace evidence after training: exact for a linear network, and what it chooses."""

import math

import pytest
import torch
from torch import nn

from softeq import Prior, Scalar, SofteqError, SoftLinear, Vector, groups
from softeq.strength.evidence import best_run, log_evidence

REP = (2 * Scalar + Vector)(groups.O(3))
OUT = (Scalar + Vector)(groups.O(3))


def linear_problem(n=60, breaking=0.0):
    torch.manual_seed(0)
    x = torch.randn(n, 5, dtype=torch.float64)
    hard, free = SoftLinear(REP, OUT, constraint="hard").double(), torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        return x, hard(x) + breaking * x @ free.T + 0.3 * torch.randn(n, 4, dtype=torch.float64)


def trained(x, y, prior, constraint="soft"):
    """At the optimum of mse + penalty / n."""
    from softeq import prior_penalty

    model = SoftLinear(REP, OUT, constraint=constraint).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y) + prior_penalty(model, prior) / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def test_it_is_exact_for_a_linear_network():
    x, y = linear_problem()
    noise = 0.1
    unit = 2 * noise / 4
    prior = Prior(equivariant=2.0 * unit, residual=5.0 * unit)
    model = trained(x, y, prior, "none")
    ours = log_evidence(model, [(x[:20], y[:20]), (x[20:], y[20:])], prior, curvature="full", noise=noise)
    features = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    covariance = noise * torch.eye(len(x), dtype=torch.float64) + features @ features.T / 5.0
    exact = sum(
        torch.distributions.MultivariateNormal(torch.zeros(len(x), dtype=torch.float64), covariance).log_prob(column)
        for column in y.T
    )
    assert ours.value == pytest.approx(float(exact), rel=1e-6)
    assert ours.parameters == 24
    # Weights of a linear layer without a bias have a Kronecker product for J'J: with one, the blocks are coupled.
    kfac = log_evidence(model, [(x, y)], prior, curvature="kfac", noise=noise)
    diagonal = log_evidence(model, [(x, y)], prior, curvature="diagonal", noise=noise)
    assert abs(kfac.value - ours.value) < 0.5
    assert abs(diagonal.value - ours.value) < 5


@pytest.mark.parametrize("curvature", ["full", "kfac"])
@pytest.mark.parametrize(("breaking", "tight"), [(0.0, True), (1.0, False)])
def test_it_chooses_among_runs(curvature, breaking, tight):
    x, y = linear_problem(breaking=breaking)
    precisions = [1e-2, 1.0, 100.0, 1e5]
    priors = [Prior(equivariant=1e-2, residual=c) for c in precisions]
    found = [log_evidence(trained(x, y, prior), [(x, y)], prior, curvature=curvature) for prior in priors]
    assert (precisions[best_run(found)] >= 100) is tight


def test_categorical():
    torch.manual_seed(0)
    model = nn.Sequential(SoftLinear(REP, REP), nn.Tanh(), SoftLinear(REP, OUT)).double()
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randint(0, 4, (30,))
    found = log_evidence(model, [(x, y)], Prior(0.1, 1.0), likelihood="categorical", curvature="full")
    assert found.log_likelihood == pytest.approx(-30 * float(nn.functional.cross_entropy(model(x), y).detach()))
    diagonal = log_evidence(model, [(x, y)], Prior(0.1, 1.0), likelihood="categorical", curvature="diagonal")
    assert diagonal.occam >= found.occam  # Hadamard's inequality
    assert found.noise == 1
    assert model.training


def test_bad_input():
    x, y = linear_problem(8)
    model, prior = SoftLinear(REP, OUT).double(), Prior()
    cases = [
        (lambda: log_evidence("net", [(x, y)], prior), "model: expected"),
        (lambda: log_evidence(model, [(x, y)], 3.0), "prior: expected"),
        (lambda: log_evidence(model, [], prior), "batches: expected at least one sample"),
        (lambda: log_evidence(model, [(x, y)], prior, likelihood="poisson"), "likelihood: expected"),
        (lambda: log_evidence(model, [(x, y)], prior, curvature="exact"), "curvature: expected"),
        (lambda: log_evidence(model, [(x, y)], prior, noise=-1.0), "noise: expected"),
        (lambda: log_evidence(model, [(x, y)], Prior(0.0, 0.0)), "prior: expected a precision above 0"),
        (lambda: best_run([]), "evidences: expected"),
        (lambda: log_evidence(SoftLinear(REP, OUT, parametrization="projected").double(), [(x, y)], prior), "pathways"),
    ]
    for call, message in cases:
        with pytest.raises(SofteqError, match=message):
            call()
    assert math.isfinite(log_evidence(model, [(x, y)], prior).value)
