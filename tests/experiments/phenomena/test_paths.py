"""Paths between networks: ends, straight lines, what the weights compute, projections, barriers, sharpness."""

import math

import pytest
import torch

from softeq import SoftConv2d
from softeq.errors import SofteqValueError
from softeq.experiments.data.quarters import orbits
from softeq.experiments.phenomena import paths
from softeq.experiments.phenomena.quarters import quarter_network


def network(constraint, seed):
    torch.manual_seed(seed)
    return quarter_network(4, 3, constraint, classes=3)


def samples(n=40):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 4, 4, generator=generator)
    return images, images.flatten(1)[:, orbits(4)], torch.randint(0, 3, (n,), generator=generator)


def close(a, b):
    return all(torch.allclose(v, w, atol=1e-6) for v, w in zip(a, b, strict=True))


@pytest.mark.parametrize("constraint", ["hard", "soft", "none"])
def test_merged_weights_compute_what_the_network_does(constraint):
    images, x, _ = samples()
    model = network(constraint, 0)
    torch.testing.assert_close(paths.outputs(paths.merged(model), x), model(images))


def test_a_curve_begins_and_ends_at_its_ends_and_through_the_middle_it_is_the_line():
    ends = paths.merged(network("none", 0)), paths.merged(network("none", 1))
    bend = paths.merged(network("none", 2))
    assert close(paths.bezier(ends, bend, 0.0), ends[0])
    assert close(paths.bezier(ends, bend, 1.0), ends[1])
    expected = [a / 4 + c / 2 + b / 4 for a, c, b in zip(ends[0], bend, ends[1], strict=True)]
    assert close(paths.bezier(ends, bend, 0.5), expected)
    line = [0.7 * a + 0.3 * b for a, b in zip(*ends, strict=True)]
    assert close(paths.bezier(ends, paths.middle(ends), 0.3), line)


def test_hard_weights_are_their_projection_and_free_ones_are_not():
    project = paths.projection(network("hard", 0))
    hard, free = paths.merged(network("hard", 3)), paths.merged(network("none", 3))
    assert paths.defect(hard, project) < 1e-6
    assert 0.3 < paths.defect(free, project) < 1
    assert close(project(project(free)), project(free))
    whole = sum(float(w.square().sum()) for w in free)
    inside = sum(float(w.square().sum()) for w in project(free))
    assert float(paths.off(free, project)) == pytest.approx(whole - inside, rel=1e-4)


@pytest.mark.parametrize(("precision", "low", "high"), [(0.0, 0.05, 1.0), (1e4, 1e-4, 0.05), (math.inf, 0.0, 1e-6)])
def test_a_bend_lowers_the_loss_and_the_prior_holds_it(precision, low, high):
    _, x, y = samples()
    ends = paths.merged(network("hard", 0)), paths.merged(network("hard", 1))
    project = paths.projection(network("hard", 0))
    how = {"steps": 80, "rate": 0.02, "batch": 20, "generator": torch.Generator().manual_seed(0)}
    loss = lambda weights, rows: torch.nn.functional.cross_entropy(paths.outputs(weights, x[rows]), y[rows])
    bend = paths.bent(ends, paths.Search(loss, len(x), project=project, precision=precision, **how))
    everywhere = lambda c: float(loss(paths.bezier(ends, c, 0.5), torch.arange(len(x))))
    assert everywhere(bend) < everywhere(paths.middle(ends))
    assert low <= paths.defect(paths.bezier(ends, bend, 0.5), project) <= high


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 2.0, 3.0], 0.0), ([1.0, 5.0, 3.0], 3.0), ([1.0, 0.0, 1.0], 0.0)]
)
def test_the_barrier_is_above_the_line_between_the_ends(values, expected):
    assert paths.barrier(values) == pytest.approx(expected)


def test_sharpness_of_a_bowl_is_its_curvature():
    weights = [torch.tensor([[3.0, 4.0]]), torch.zeros(1)]
    bowl = lambda w: float((w[0] - weights[0]).square().sum())
    assert paths.sharpness(weights, bowl, 0.1, torch.Generator().manual_seed(0)) == pytest.approx(0.25, rel=1e-4)


def test_along_takes_both_ends_and_refusals():
    assert paths.along(lambda t: [torch.tensor(t)], lambda w: float(w[0]), 3) == [0.0, 0.5, 1.0]
    convolution = torch.nn.Sequential(SoftConv2d(1, 1, 3, size=4))
    with pytest.raises(SofteqValueError, match="model: expected layers of SoftLinear"):
        paths.merged(convolution)
    how = {"steps": 1, "rate": 0.1, "batch": 2, "generator": torch.Generator(), "precision": 1.0}
    with pytest.raises(SofteqValueError, match="project: expected a projection"):
        paths.Search(lambda weights, rows: weights[0].sum(), 40, **how)
