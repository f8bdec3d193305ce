"""Transposed and pointwise SoftR2Conv: exact under quarter turns, against escnn's own, in torch's layout."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq import SofteqValueError, assert_equivariant, fold
from softeq._grid_filters import symmetries_of_the_grid
from softeq.testing import GridFields

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    escnn_nn = pytest.importorskip("escnn.nn")
    from escnn import gspaces

from softeq.steerable import SoftR2Conv

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}
SPACES = {"C4": lambda: gspaces.rot2dOnR2(4), "D4": lambda: gspaces.flipRot2dOnR2(4)}
SPACES["SO(2)"] = lambda: gspaces.rot2dOnR2(-1, maximum_frequency=2)


def types(name, groups=1):
    space = SPACES[name]()
    other = space.irrep(1) if name == "SO(2)" else space.regular_repr
    kinds = [space.trivial_repr, other]
    return (
        escnn_nn.FieldType(space, [kinds[i] for i in (0, 1)] * groups),
        escnn_nn.FieldType(space, [kinds[i] for i in (1, 0)] * groups),
    )


def build(name="C4", kernel_size=4, groups=1, **options):
    torch.manual_seed(0)
    own = {"stride": 2, "padding": 1, "transposed": True, **options}
    layer = SoftR2Conv(*types(name, groups), kernel_size, groups=groups, **own).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, **DOUBLE))
    return layer


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "stride": 1}, {"kernel_size": 3, "dilation": 2}], ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_hard_is_exact_under_quarter_turns_and_flips_and_soft_is_not(name, options):
    hard = build(name, constraint="hard", **options)
    spaces = GridFields(hard.in_type, 5), GridFields(hard.out_type, hard.window.output_size((5, 5))[0])
    assert len(symmetries_of_the_grid(hard.in_type.gspace)) >= 4
    assert_equivariant(hard, *spaces, dtype=torch.float64)
    assert hard(torch.randn(1, hard.in_type.size, 5, 5, **DOUBLE)).norm() > 0.1
    with pytest.raises(AssertionError):
        assert_equivariant(build(name, **options), *spaces, dtype=torch.float64)


def test_with_output_padding_the_centres_differ():
    hard = build(kernel_size=3, output_padding=1, constraint="hard")
    x = torch.randn(1, hard.in_type.size, 5, 5, **DOUBLE)
    assert hard(x).shape[-2:] == (10, 10)
    with pytest.raises(AssertionError):
        assert_equivariant(hard, GridFields(hard.in_type, 5), GridFields(hard.out_type, 10), dtype=torch.float64)


@pytest.mark.parametrize("name", SPACES)
def test_it_is_escnn_s_with_equal_weights(name):
    theirs = escnn_nn.R2ConvTransposed(*types(name), 4, stride=2, padding=1, output_padding=0)
    ours = SoftR2Conv(*types(name), 4, stride=2, padding=1, transposed=True, constraint="hard")
    kernel, bias = theirs.expand_parameters()
    own = ours.pathways["equivariant"]
    with torch.no_grad():
        own.weight.copy_(ours.basis.coordinates_of(ours.window.swapped(kernel)))
        own.bias.copy_(ours.bias_basis.coordinates_of(bias))
    x = torch.randn(2, ours.in_type.size, 5, 5)
    torch.testing.assert_close(ours(x), theirs(ours.in_type(x)).tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_bias_and_fold_are_those_of_torch_s_transposed_convolution(groups):
    layer = build("D4", groups=groups, output_padding=1)
    x = torch.randn(2, layer.in_type.size, 4, 5, **DOUBLE)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": groups}
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, **options)
    torch.testing.assert_close(layer(x), expected, **TIGHT)
    torch.testing.assert_close(layer(x[0]), expected[0], **TIGHT)
    plain = fold(layer)
    assert type(plain) is nn.ConvTranspose2d
    assert plain.weight.shape == layer.weight.shape == (layer.in_type.size, layer.out_type.size // groups, 4, 4)
    torch.testing.assert_close(plain(x), expected, **TIGHT)
    filters = layer.basis.expand(layer.pathways["equivariant"].weight) + layer.pathways["residual"].weight
    torch.testing.assert_close(layer.window.swapped(layer.weight), filters, **TIGHT)
    near = (filters - layer.basis(filters)).norm() / filters.norm()
    assert layer.weight_defect() == pytest.approx(float(near.detach()), abs=1e-10)


def test_a_ladder_s_defects_are_those_of_the_filters():
    d4, c4 = gspaces.flipRot2dOnR2(4), gspaces.rot2dOnR2(4)
    layer = build("D4", ladder=[d4, c4])
    filters = layer.window.swapped(layer.weight.detach())
    near = layer.ladders["weight"].within["C4"].nearest(filters)
    expected = float((filters - near).norm() / filters.norm())
    assert layer.rung_defects()["C4"] == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < layer.weight_defect()


def test_it_starts_with_the_size_of_a_linear_layer_and_from_torch_s_own():
    space = gspaces.rot2dOnR2(4)
    wide = escnn_nn.FieldType(space, [space.regular_repr] * 8)
    x = torch.randn(4, wide.size, 9, 9)
    for constraint in ("soft", "hard", "none"):
        layer = SoftR2Conv(wide, wide, 4, stride=2, padding=1, transposed=True, constraint=constraint, bias=False)
        inside = layer(x)[..., 2:-2, 2:-2]
        assert float(inside.square().mean().detach()) == pytest.approx(1 / 3, rel=0.3), constraint
    conv = nn.ConvTranspose2d(wide.size, wide.size, 4, stride=2, padding=1, groups=2)
    soft = SoftR2Conv.from_conv(conv, wide, wide)
    torch.testing.assert_close(soft(x), conv(x), atol=1e-4, rtol=1e-4)
    assert 0 < soft.weight_defect() < 1
    assert SoftR2Conv.from_conv(conv, wide, wide, constraint="hard").weight_defect() < 1e-6


def test_what_a_transposed_layer_cannot_do_is_refused():
    for options, message in (
        ({"padding_mode": "circular"}, "padding_mode: expected 'zeros' of a transposed convolution"),
        ({"output_padding": 2}, "output_padding: expected 0, or, of a transposed convolution, less than its stride"),
        ({"output_padding": 1, "transposed": False}, "output_padding: expected 0, or, of a transposed"),
    ):
        with pytest.raises(SofteqValueError, match=message):
            build(**options)
    with pytest.raises(SofteqValueError, match="padding: of an input of 1 x 1 padding"):
        build(padding=2)(torch.zeros(1, 5, 1, 1, **DOUBLE))


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_pointwise_filters_are_all_maps_that_commute_with_the_group(name):
    in_type, out_type = types(name)
    layer = SoftR2Conv(in_type, out_type, 1).double()
    elements = list(in_type.gspace.fibergroup.elements)
    before, after = ([torch.as_tensor(t.representation(g)).double() for g in elements] for t in (in_type, out_type))
    count = sum(a.trace() * b.trace() for a, b in zip(before, after, strict=True)) / len(elements)
    assert layer.basis.rank == round(float(count))
    W = layer.hardened().weight[..., 0, 0]
    for rho_in, rho_out in zip(before, after, strict=True):
        torch.testing.assert_close(rho_out @ W, W @ rho_in, **TIGHT)
    x = torch.randn(2, in_type.size, 3, 4, **DOUBLE)
    torch.testing.assert_close(
        layer(x), torch.einsum("oi,nihw->nohw", layer.weight[..., 0, 0], x) + layer.bias[:, None, None], **TIGHT
    )
