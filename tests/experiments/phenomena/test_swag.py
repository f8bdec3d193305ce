import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena.swag import Swag


def test_the_moments_are_those_of_the_iterates():
    iterates = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = Swag(3)
    for one in iterates:
        moments.take(one)
    assert torch.allclose(moments.mean, iterates.mean(0))
    assert torch.allclose(moments.variance, iterates.var(0, correction=0))
    wanted = torch.stack([iterates[k] - iterates[: k + 1].mean(0) for k in (6, 7, 8)])
    assert torch.allclose(torch.stack(moments.deviations), wanted)


def test_draws_have_the_covariance_that_is_promised():
    moments = Swag(3)
    for one in torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        moments.take(one)
    generator = torch.Generator().manual_seed(2)
    drawn = torch.stack([moments.sample(generator) for _ in range(4000)])
    deviations = torch.stack(moments.deviations)
    wanted = moments.variance.diag() / 2 + deviations.T @ deviations / 4
    assert torch.allclose(drawn.mean(0), moments.mean, atol=0.06)
    assert torch.allclose(torch.cov(drawn.T), wanted, atol=0.08 * float(wanted.abs().max()))


def test_too_few_iterates_and_too_low_a_rank():
    with pytest.raises(SofteqValueError, match="rank: expected at least 2"):
        Swag(1)
    moments = Swag(2)
    moments.take(torch.zeros(3))
    with pytest.raises(SofteqValueError, match="expected two iterates"):
        moments.sample(torch.Generator())
