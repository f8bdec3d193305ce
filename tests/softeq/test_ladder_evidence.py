"""The evidence over a ladder's precisions, in closed form: it picks the subgroup that the data obey, and no more."""

import math

import pytest
import torch

from softeq import Scalar, SoftLinear, Vector
from softeq.groups import O, O2eR3

SAMPLES, NOISE, BREAKING = 16, 0.1, 0.3
PRECISIONS = torch.logspace(-2, 10, 13, dtype=torch.float64)
BOUND = len(PRECISIONS) - 1


def layer_and_bases():
    """A linear layer on the ladder O(3) > O(2) about z > none, and orthonormal bases of its three spaces."""
    rep_in, rep_out = (Scalar + 2 * Vector)(O(3)), (Scalar + Vector)(O(3))
    layer = SoftLinear(rep_in, rep_out, bias=False, ladder=[O(3), O2eR3()]).double()
    ladder = layer.ladders["weight"]
    spaces = {"equivariant": ladder.within["equivariant"], "O2eR3": ladder.rungs["O2eR3"]}
    bases = {
        name: torch.stack([space.expand(row) for row in torch.eye(space.rank, dtype=torch.float64)]).flatten(1)
        for name, space in spaces.items()
    }
    rest = torch.stack([ladder.rest(row.view(4, 7)).flatten() for row in torch.eye(28, dtype=torch.float64)])
    values, vectors = torch.linalg.eigh(rest)
    return layer, {**bases, "residual": vectors[:, values > 0.5].T}


def problem(bases, broken, seed):
    """``y = x W^T + noise``: the spaces named in ``broken`` have weights of the size `BREAKING`, the first has 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(SAMPLES, 7)
    weight = normal(len(bases["equivariant"])) @ bases["equivariant"]
    for name in broken:
        weight = weight + BREAKING * normal(len(bases[name])) @ bases[name]
    return x, x @ weight.view(4, 7).T + NOISE * normal(SAMPLES, 4)


def log_evidence(bases, x, y):
    """``log N(y; 0, noise^2 1 + sum_k K_k / precision_k)`` for all triples of `PRECISIONS`, ``(13, 13, 13)``."""
    kernels = []
    for basis in bases.values():
        features = torch.einsum("ni,koi->nok", x, basis.view(-1, 4, 7)).flatten(0, 1)
        kernels.append(features @ features.T)
    grid = torch.stack(torch.meshgrid(*[1 / PRECISIONS] * 3, indexing="ij"), -1)
    covariance = torch.einsum("abck,kmn->abcmn", grid, torch.stack(kernels))
    factor = torch.linalg.cholesky(covariance + NOISE**2 * torch.eye(y.numel(), dtype=torch.float64))
    white = torch.linalg.solve_triangular(factor, y.flatten()[:, None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_det - 0.5 * y.numel() * math.log(2 * math.pi)


def gains(broken, seed):
    """What each space adds to the log evidence, in nats, and where the optimum lies."""
    _, bases = layer_and_bases()
    evidence = log_evidence(bases, *problem(bases, broken, seed))
    best = torch.unravel_index(evidence.argmax(), evidence.shape)
    alone, rung = evidence[:, BOUND, BOUND].max(), evidence[:, :, BOUND].max()
    residual, whole = evidence[:, BOUND].max(), evidence.max()
    return {
        "rung": float(rung - alone),
        "residual instead": float(residual - rung),
        "residual beside": float(whole - rung),
        "precisions": [float(PRECISIONS[index]) for index in best],
    }


def test_the_layer_computes_with_these_spaces():
    layer, bases = layer_and_bases()
    assert sum(map(len, bases.values())) == layer.weight.numel()
    whole = torch.cat(list(bases.values()))
    torch.testing.assert_close(whole @ whole.T, torch.eye(28, dtype=torch.float64), rtol=0, atol=1e-12)
    free = layer.pathways["residual"].weight.detach().flatten()
    found = bases["equivariant"].T @ (bases["equivariant"] @ layer.pathways["equivariant"].weight.detach().flatten())
    found = found + bases["O2eR3"].T @ layer.pathways["O2eR3"].weight.detach()
    found = found + bases["residual"].T @ (bases["residual"] @ free)
    torch.testing.assert_close(found.view(4, 7), layer.weight.detach(), rtol=0, atol=1e-12)


# Where a space is empty in truth, the evidence still prefers some finite precision half of the time, by a nat or so:
# it is the maximum of a likelihood over a variance that may not be negative. Over these seeds the largest gain is 4.9.
BY_CHANCE, FOR_SURE = 6, 100
NOISE_ALONE = 1e3
"""A precision above which a pathway moves an output by less than the noise."""


@pytest.mark.parametrize("seed", range(5))
def test_unbroken_data_leave_all_rungs_at_their_bound(seed):
    found = gains([], seed)
    assert found["rung"] < BY_CHANCE
    assert found["residual beside"] < BY_CHANCE
    assert min(found["precisions"][1:]) >= NOISE_ALONE


@pytest.mark.parametrize("seed", range(5))
def test_data_broken_to_the_subgroup_are_best_explained_by_its_rung(seed):
    found = gains(["O2eR3"], seed)
    assert found["rung"] > FOR_SURE
    assert found["residual instead"] < -FOR_SURE
    assert found["residual beside"] < BY_CHANCE
    assert found["precisions"][1] == 10  # of the grid nearest to 1 / BREAKING^2
    assert found["precisions"][2] >= NOISE_ALONE


@pytest.mark.parametrize("seed", range(5))
def test_data_without_a_symmetry_release_the_residual_too(seed):
    found = gains(["O2eR3", "residual"], seed)
    assert found["rung"] > FOR_SURE
    assert found["residual beside"] > FOR_SURE
    assert found["precisions"][1:] == [10, 10]
