"""The unshared weights as linear maps: what they span, the projection on the convolutions, its price."""

import pytest
import torch
from torch.func import functional_call, hessian, jacrev

from softeq import Prior, prior_penalty
from softeq._windows import Window
from softeq.conv import SoftConv2d

DOUBLE = {"dtype": torch.float64}
FORMS = ["dense", "local", "lowrank"]
GEOMETRIES = {
    "zeros": {"kernel_size": 3, "size": (3, 4), "padding": 1},
    "circular": {"kernel_size": (2, 3), "size": (3, 4), "padding": (1, 1), "padding_mode": "circular"},
    "strided groups": {"kernel_size": 2, "size": (4, 5), "stride": 2, "padding": 1, "groups": 2},
    "dilated": {"kernel_size": 2, "size": (5, 4), "dilation": (3, 2)},
    "taps outside": {"kernel_size": 5, "size": (2, 3), "padding": (2, 4)},
}


def build(geometry, seed=0, **options):
    layer = SoftConv2d(2, 4, **GEOMETRIES[geometry], bias=False, rank=3, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, **DOUBLE))
    return layer


def whole_map(layer):
    """The matrix ``(out * H' * W', in * H * W)`` of a layer, by its outputs on unit images."""
    unit = torch.eye(layer.in_channels * layer.size[0] * layer.size[1], **DOUBLE)
    return layer(unit.view(-1, layer.in_channels, *layer.size)).flatten(1).T.detach()


def convolutions(layer):
    """The whole maps of all kernels with a single 1: columns ``(entries of a map, taps)``."""
    hard = layer.hardened()
    kernel = hard.pathways["equivariant"].weight
    columns = []
    for place in range(kernel.numel()):
        with torch.no_grad():
            kernel.zero_()
            kernel.view(-1)[place] = 1.0
        columns.append(whole_map(hard).flatten())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_defect_is_the_distance_of_the_whole_map_to_the_convolutions(geometry, form):
    layer = build(geometry, residual=form)
    M, basis = whole_map(layer).flatten(), convolutions(layer)
    near = basis @ (torch.linalg.pinv(basis) @ M)
    expected = float((M - near).norm() / M.norm())
    assert layer.weight_defect() == pytest.approx(expected, abs=1e-10)
    assert 0.05 < expected < 1
    alone = build(geometry, residual=form, constraint="none")
    rest = whole_map(alone).flatten()
    expected = float((rest - basis @ (torch.linalg.pinv(basis) @ rest)).norm() / rest.norm())
    assert alone.weight_defect() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("form", ["dense", "local"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_mean_over_positions_is_an_orthogonal_projector(geometry, form):
    layer = build(geometry, residual=form, constraint="none")
    residual = layer.pathways["residual"]
    project = residual.nearest
    v, w = torch.randn(2, *residual.weight.shape, generator=torch.Generator().manual_seed(3), **DOUBLE)
    near = project(v)
    torch.testing.assert_close(project(near), near, atol=1e-12, rtol=1e-12)
    assert float(((v - near) * project(w)).sum()) == pytest.approx(0, abs=1e-10)
    assert float((project(v) * w).sum()) == pytest.approx(float((v * project(w)).sum()), abs=1e-10)
    kernel = torch.randn(residual.kernel_shape, **DOUBLE)
    if form == "local":  # of a kernel that stands everywhere the taps outside of the image are taken away
        whole = kernel.expand_as(v)
        outside = project(torch.ones_like(v)) == 0
        torch.testing.assert_close(project(whole), whole.masked_fill(outside, 0.0), atol=1e-12, rtol=1e-12)
    else:
        whole = residual.spread(kernel, torch.zeros_like(v))
        torch.testing.assert_close(project(whole), whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_ends_of_the_defect(form):
    layer = build("zeros", residual=form)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    assert layer.weight_defect() == 0.0
    free = build("zeros", residual=form, constraint="none")
    with torch.no_grad():
        residual = free.pathways["residual"]
        if form != "lowrank":
            residual.weight -= residual.nearest(residual.weight)
        else:
            # A single tap, so that the mean over its positions can vanish for every kernel at once.
            free = SoftConv2d(2, 4, 1, size=(3, 4), residual=form, constraint="none", bias=False).double()
            coefficients = free.pathways["residual"].coefficients
            coefficients -= coefficients.mean((1, 2), keepdim=True)
    assert free.weight_defect() == pytest.approx(1.0, abs=1e-12)
    assert free.weight_defect() <= 1.0


def test_dense_spans_all_linear_maps_and_local_all_local_ones():
    """The rank of the whole map's derivative with respect to the parameters."""

    def rank(**options):
        layer = SoftConv2d(2, 1, 2, size=(2, 3), bias=False, **options).double()
        unit = torch.eye(12, **DOUBLE).view(-1, 2, 2, 3)
        parameters = dict(layer.named_parameters())
        jacobians = jacrev(lambda p: functional_call(layer, p, (unit,)))(parameters)
        rows = [j.flatten(0, 3).flatten(1) for j in jacobians.values()]
        return int(torch.linalg.matrix_rank(torch.cat(rows, 1).detach()))

    positions, inputs, taps = 2, 12, 8
    assert rank(residual="dense") == rank(residual="dense", constraint="none") == positions * inputs
    assert rank(residual="local") == rank(residual="local", constraint="none") == positions * taps
    assert rank(constraint="hard") == taps
    assert rank(residual="lowrank", rank=1) == positions * taps


def test_copies_count_the_positions_of_a_tap():
    layer = build("zeros")
    assert layer.copies.tolist() == [[6, 8, 6], [9, 12, 9], [6, 8, 6]]
    columns = convolutions(layer).square().sum(0).view(4, 2, 3, 3)
    torch.testing.assert_close(columns, layer.copies.double().expand_as(columns))
    assert build("taps outside").copies.min() == 0


def test_the_best_split_costs_what_the_docstring_says():
    """W fixed, the kernel free: the penalty is quadratic in it, and one Newton step is its minimum."""
    layer = build("circular", residual="local")
    W = layer.weight.detach()
    precisions = {"equivariant": 0.3, "residual": 2.0}
    names = ["pathways.equivariant.weight", "pathways.residual.weight"]

    class Price(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self):
            return prior_penalty(self.layer, Prior(**precisions))

    def price(kernel):
        parts = {f"layer.{names[0]}": kernel, f"layer.{names[1]}": W - kernel}
        return functional_call(Price(), parts, ())

    start = torch.zeros(4, 2, 2, 3, **DOUBLE)
    curvature = hessian(price)(start).view(48, 48)
    best = start - torch.linalg.solve(curvature, jacrev(price)(start).flatten()).view_as(start)
    mean, n = W.mean((0, 1)), layer.copies.double()
    p_e, p_r = precisions["equivariant"], precisions["residual"]
    claimed = (p_e * p_r * n / (p_e + n * p_r) * mean.square()).sum() / 2 + p_r / 2 * (W - mean).square().sum()
    torch.testing.assert_close(price(best), claimed, atol=1e-9, rtol=1e-9)
    assert price(start) > claimed


def test_a_window_names_the_pixels_that_its_taps_read():
    window = Window((1, 2), stride=(1, 2), padding=(0, 1))
    assert window.sources((1, 4)).tolist() == [[-1, 1, 3], [0, 2, -1]]
    assert Window((1, 3), padding=(0, 1), mode="circular").sources((1, 3)).tolist() == [
        [2, 0, 1],
        [0, 1, 2],
        [1, 2, 0],
    ]
