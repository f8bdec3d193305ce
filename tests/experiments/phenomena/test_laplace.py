"""laplace-torch's evidence of whitened networks against the formula on dense matrices."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from softeq.experiments.phenomena import curvature
from softeq.experiments.phenomena.laplace import Whitened, laplace
from softeq.experiments.phenomena.quarters import equivariance_error, quarter_network


def folded(constraint):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = quarter_network(4, 1, constraint, classes=3)
    return curvature.plain(model)


X = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(10) % 3


@pytest.mark.parametrize(
    ("constraint", "inside", "outside"), [("soft", 2.0, 0.1), ("hard", 1.0, 0.0), ("none", 0.5, 0.5)]
)
def test_the_whitened_network_is_the_network(constraint, inside, outside):
    network = folded(constraint)
    assert torch.allclose(Whitened(network, inside, outside)(X), network(X), atol=1e-6)


@pytest.mark.parametrize(("constraint", "inside", "outside"), [("soft", 2.0, 0.1), ("hard", 1.0, 0.0)])
def test_the_evidence_is_that_of_the_dense_formula(constraint, inside, outside):
    network = folded(constraint)
    within, rest = curvature.gauss_newton_grams(network, X)
    whole = torch.eye(len(within), dtype=torch.float64) + inside * within + outside * rest
    u = Whitened(network, inside, outside).u.detach().double()
    fit = -cross_entropy(network(X), Y, reduction="sum").item()
    wanted = fit - u.square().sum().item() / 2 - torch.logdet(whole).item() / 2
    assert float(laplace(network, X, Y, inside, outside).log_marginal_likelihood()) == pytest.approx(wanted, rel=1e-4)


def test_a_hard_network_stays_hard_and_predictions_are_probabilities():
    around = laplace(folded("hard"), X, Y, 1.0, 0.0)

    def predict(x):
        return around(x, link_approx="probit")

    assert torch.allclose(predict(X).sum(1), torch.ones(10), atol=1e-5)
    assert equivariance_error(predict, X) < 1e-5
    assert equivariance_error(lambda x: laplace(folded("none"), X, Y, 1.0, 1.0)(x, link_approx="probit"), X) > 1e-3
