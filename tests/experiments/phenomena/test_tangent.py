"""Tangent kernels: expectations by sampling, a soft network's as a sum, infinite width, regression."""

import math

import pytest
import torch

from softeq import Scalar, SoftLinear, Vector
from softeq.experiments.phenomena.tangent import (
    Ridge,
    alignment,
    arc_cosines,
    free_kernel,
    hard_kernel,
    pathway_kernels,
)
from softeq.groups import Z


def generator():
    return torch.Generator().manual_seed(0)


def network(width, constraint="soft", orbits=2):
    group = Z(4)
    reps = (orbits * Vector)(group), (width * Vector)(group), Scalar(group)
    torch.manual_seed(0)
    options = {"constraint": constraint, "bias": False}
    hidden, last = SoftLinear(reps[0], reps[1], **options), SoftLinear(reps[1], reps[2], **options)
    return torch.nn.Sequential(hidden, torch.nn.ReLU(), last).double()


def shifted(x, k):
    return x.unflatten(1, (-1, 4)).roll(k, -1).flatten(1)


@pytest.mark.parametrize("cosine", [-1.0, -0.3, 0.0, 0.8, 1.0])
def test_arc_cosines_are_the_expectations_that_they_stand_for(cosine):
    w = torch.randn(200_000, 2, generator=generator(), dtype=torch.float64)
    a, b = w[:, 0], cosine * w[:, 0] + math.sqrt(1 - cosine**2) * w[:, 1]
    k0, k1 = arc_cosines(torch.tensor(cosine, dtype=torch.float64))
    assert float(k0) == pytest.approx(float(((a > 0) & (b > 0)).double().mean()), abs=0.005)
    assert float(k1) == pytest.approx(float((a.relu() * b.relu()).mean()), abs=0.005)


def test_the_kernel_of_a_soft_network_is_that_of_its_hard_twin_plus_that_of_its_free_one():
    soft, hard, free = (network(3, c) for c in ("soft", "hard", "none"))
    for k in (0, 2):
        with torch.no_grad():
            # Anywhere, not near the hard network: as twins have them, the merged weights.
            soft[k].pathways["residual"].weight.normal_(0, 0.3, generator=generator())
            merged = soft[k].weight
            free[k].pathways["residual"].weight.copy_(merged)
    x = torch.randn(5, 8, generator=generator(), dtype=torch.float64)
    found = pathway_kernels(soft, x, chunk=2)
    torch.testing.assert_close(found["residual"], pathway_kernels(free, x)["residual"])
    for k in (0, 2):
        with torch.no_grad():  # and where the soft network is hard, its equivariant part is the hard twin's
            hard[k].pathways["equivariant"].weight.copy_(soft[k].pathways["equivariant"].weight)
            soft[k].pathways["residual"].weight.zero_()
    torch.testing.assert_close(pathway_kernels(soft, x)["equivariant"], pathway_kernels(hard, x)["equivariant"])
    assert set(pathway_kernels(hard, x)) == {"equivariant"}


def test_a_wide_network_has_the_kernels_of_infinite_width():
    width = 1000
    model = network(width)
    with torch.no_grad():
        for k, size in ((0, 8), (2, 4 * width)):
            layer = model[k]
            layer.pathways["residual"].weight.zero_()
            own = layer.pathways["equivariant"].weight
            own.copy_(layer.nearest(torch.randn(own.shape, generator=generator(), dtype=torch.float64)))
            own.mul_(2 / math.sqrt(size))  # four tied entries: their mean has a fourth of the variance
    x = torch.randn(4, 8, generator=generator(), dtype=torch.float64)
    found = pathway_kernels(model, x)
    torch.testing.assert_close(found["residual"], free_kernel(x, x), rtol=0.05, atol=0.02)
    expected = hard_kernel(x, [shifted(x, k) for k in range(4)])
    torch.testing.assert_close(found["equivariant"], expected, rtol=0.05, atol=0.05)
    assert (expected - free_kernel(x, x)).abs().max() > 0.3  # they are not alike


def test_the_hard_kernel_does_not_see_the_group_and_the_free_one_does():
    x = torch.randn(4, 8, generator=generator(), dtype=torch.float64)
    moved = [shifted(x, k) for k in range(4)]
    torch.testing.assert_close(hard_kernel(shifted(x, 1), moved), hard_kernel(x, moved))
    assert (free_kernel(shifted(x, 1), x) - free_kernel(x, x)).abs().max() > 0.1


def test_regression_and_its_evidence_are_those_of_a_dense_gaussian():
    x = torch.randn(6, 8, generator=generator(), dtype=torch.float64)
    y = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    kernel = 3 * free_kernel(x, x)
    solved, unit = Ridge(kernel, y), kernel / kernel.diagonal().mean()
    noisy = unit + 0.1 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(solved.predict(kernel, 0.1), unit @ torch.linalg.solve(noisy, y))
    scale = (y * torch.linalg.solve(noisy, y)).sum() / 12
    normal = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), scale * noisy)
    assert solved.evidence(0.1) == pytest.approx(float(normal.log_prob(y.T).sum()))


def test_alignment_of_equal_scaled_and_opposite_kernels():
    kernel = free_kernel(*[torch.randn(5, 8, generator=generator(), dtype=torch.float64)] * 2)
    assert alignment(kernel, 3 * kernel + 1) == pytest.approx(1)
    assert alignment(kernel, -kernel) == pytest.approx(-1)
