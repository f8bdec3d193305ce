"""SoftR2Conv against escnn's own R2Conv and against the definition, and the layer contract."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from softeq import Prior, SofteqTypeError, SofteqValueError, fold, harden, prior_penalty
from softeq._grid_filters import symmetries_of_the_grid
from softeq.steerable import SoftR2Conv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # escnn misses py3nj, which the plane does not need
    escnn_nn = pytest.importorskip("escnn.nn")
    from escnn import gspaces

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}
SPACES = {
    "C4": lambda: gspaces.rot2dOnR2(4),
    "C8": lambda: gspaces.rot2dOnR2(8),
    "C3": lambda: gspaces.rot2dOnR2(3),
    "D4": lambda: gspaces.flipRot2dOnR2(4),
    "flips": lambda: gspaces.flip2dOnR2(),
    "SO(2)": lambda: gspaces.rot2dOnR2(-1, maximum_frequency=3),
    "O(2)": lambda: gspaces.flipRot2dOnR2(-1, maximum_frequency=3),
}


def fields(name, order=(0, 1, 0, 2)):
    """A scalar, another irrep and, of a finite group, the regular one; in an ``order`` that may take kinds apart."""
    space = SPACES[name]()
    if space.fibergroup.continuous:
        others = [space.irrep(1, f) if name == "O(2)" else space.irrep(f) for f in (1, 2)]
    else:
        others = [space.irreps[-1], space.regular_repr]
    kinds = [space.trivial_repr, *others]
    return escnn_nn.FieldType(space, [kinds[i] for i in order])


def build(name="C4", kernel_size=3, seed=0, orders=((0, 1, 0, 2), (2, 0, 2, 1)), **options):
    """A float64 layer, all parameters normal."""
    layer = SoftR2Conv(*(fields(name, order) for order in orders), kernel_size, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, **DOUBLE))
    return layer


def images(layer, size=(6, 6), n=2, seed=1):
    return torch.randn(n, layer.in_type.size, *size, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def errors(layer, size):
    """Per symmetry of the grid the relative difference of moving before and after, by escnn's own transform."""
    x = images(layer, size)
    y = layer.out_type(layer(x).detach())
    found = []
    for element, _ in symmetries_of_the_grid(layer.in_type.gspace):
        moved = layer(layer.in_type(x).transform(element).tensor)
        found.append(float(((moved - y.transform(element).tensor).norm() / y.tensor.norm()).detach()))
    return found


GEOMETRIES = [
    ({"kernel_size": 5, "padding": 2}, 7),
    ({"kernel_size": 4, "padding": 1, "padding_mode": "circular"}, 6),
    ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, 7),
    (
        {
            "kernel_size": 3,
            "padding": 2,
            "padding_mode": "reflect",
            "groups": 2,
            "orders": ((0, 2, 0, 2), (2, 1, 2, 1)),
        },
        5,
    ),
]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("geometry", range(len(GEOMETRIES)))
def test_hard_is_exact_under_quarter_turns_and_flips_and_soft_is_not(name, geometry):
    options, side = GEOMETRIES[geometry]
    hard = errors(build(name, constraint="hard", **options), (side, side))
    assert max(hard) < 1e-9
    elements = {"C3": 1, "flips": 2, "D4": 8, "O(2)": 8}.get(name, 4)
    assert len(hard) == elements
    if elements > 1:
        assert max(errors(build(name, **options), (side, side))) > 0.1


def test_the_merged_filter_is_the_sum_and_the_residual_spans_all_filters():
    layer = build()
    own, free = layer.pathways["equivariant"], layer.pathways["residual"]
    dense = torch.stack([layer.basis.expand(unit) for unit in torch.eye(layer.basis.rank, **DOUBLE)])
    torch.testing.assert_close(layer.weight, torch.einsum("n,noiuv->oiuv", own.weight, dense) + free.weight, **TIGHT)
    torch.testing.assert_close(layer.bias, layer.bias_basis.constants.exact["rows"].T @ own.bias + free.bias, **TIGHT)
    W, span = layer.weight.detach(), dense.flatten(1).T
    near = (span @ torch.linalg.pinv(span) @ W.flatten()).view_as(W)
    assert layer.weight_defect() == pytest.approx(float((W - near).norm() / W.norm()), abs=1e-10)
    assert layer.basis.rank < W.numel() == free.weight.numel()
    assert layer.hardened().weight_defect() < 1e-12
    with torch.no_grad():
        for p in (own.weight, free.weight):
            p.zero_()
    assert layer.weight_defect() == 0.0


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_merged_summed_and_folded_agree(constraint, backend):
    layer = build(padding=1, stride=2, constraint=constraint)
    x = images(layer, (7, 6)).requires_grad_()
    kept = {"soft": ["equivariant", "residual"], "hard": ["equivariant"], "none": ["residual"]}[constraint]
    assert list(layer.pathways) == kept
    summed = 0
    for name, pathway in layer.pathways.items():
        own = name == "equivariant"
        weight = layer.basis.expand(pathway.weight) if own else pathway.weight
        bias = layer.bias_basis.expand(pathway.bias) if own else pathway.bias
        summed = summed + F.conv2d(x, weight, bias, stride=2, padding=1)
    merged = (layer if backend == "eager" else torch.compile(layer, backend=backend))(x)
    torch.testing.assert_close(merged, summed, **TIGHT)
    wanted = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(y.sin().sum(), wanted) for y in (merged, summed)]
    torch.testing.assert_close(*gradients, **TIGHT)
    folded = fold(nn.Sequential(layer).eval())[0]
    assert (type(folded), folded.training) == (nn.Conv2d, False)
    torch.testing.assert_close(folded(x), merged, **TIGHT)
    torch.testing.assert_close(layer(x[0]), merged[0], **TIGHT)


def test_geometric_tensors_in_and_out():
    layer = build(padding=1)
    x = images(layer)
    y = layer(layer.in_type(x))
    assert isinstance(y, escnn_nn.GeometricTensor)
    assert y.type == layer.out_type
    torch.testing.assert_close(y.tensor, layer(x), atol=0, rtol=0)
    with pytest.raises(SofteqValueError, match="x: expected fields of type"):
        layer(layer.out_type(layer(x)))
    with pytest.raises(SofteqTypeError, match="x: expected a tensor or an escnn GeometricTensor, got list"):
        layer([1.0])


def test_penalty_partition_and_state_dict():
    layer = build()
    held = [p for pathway in layer.pathways.values() for p in pathway.parameters()]
    assert sorted(map(id, held)) == sorted(map(id, layer.parameters()))
    expected = sum(w / 2 * p.square().sum() for w, p in zip((0.3, 0.3, 2.0, 2.0), held, strict=True))
    torch.testing.assert_close(prior_penalty(layer, Prior(0.3, 2.0)), expected, **TIGHT)
    names = [f"pathways.{pathway}.{kind}" for pathway in ("equivariant", "residual") for kind in ("bias", "weight")]
    assert sorted(layer.state_dict()) == names
    other = build(seed=3)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(images(layer)), layer(images(layer)), atol=0, rtol=0)


def test_harden_and_deepcopy():
    layer = build().eval()
    twin, hard = copy.deepcopy(layer), harden(layer)
    assert twin.in_type is layer.in_type
    assert (hard.constraint, list(hard.pathways), hard.training) == ("hard", ["equivariant"], False)
    own = layer.pathways["equivariant"]
    torch.testing.assert_close(hard.weight, layer.basis.expand(own.weight), atol=0, rtol=0)
    before = layer(images(layer))
    with torch.no_grad():
        for p in [*twin.parameters(), *hard.parameters()]:
            p.zero_()
    torch.testing.assert_close(layer(images(layer)), before, atol=0, rtol=0)
    with pytest.raises(SofteqValueError, match="no equivariant pathway"):
        build(constraint="none").hardened()


def test_biases_live_on_the_trivial_irreps():
    space = gspaces.flipRot2dOnR2(4)
    several = escnn_nn.FieldType(space, [space.regular_repr, space.irrep(1, 1), space.trivial_repr])
    hard = SoftR2Conv(several, several, 3, constraint="hard")
    assert hard.pathways["equivariant"].bias.shape == (2,)
    assert hard.bias[:8].detach().std() < 1e-6 < hard.bias[0].abs()
    assert hard.bias[8:10].abs().max() == 0
    vectors = escnn_nn.FieldType(space, [space.irrep(1, 1)])
    assert SoftR2Conv(several, vectors, 3, constraint="hard").bias is None
    assert SoftR2Conv(several, vectors, 3).bias.shape == (2,)
    assert SoftR2Conv(several, several, 3, bias=False).bias is None


@pytest.mark.parametrize("name", ["C4", "C8", "O(2)"])
def test_it_starts_at_its_hard_twin_with_the_size_of_a_convolution(name):
    kind = fields(name, (0, 1, 2) * 6)
    x = torch.randn(16, kind.size, 9, 9)
    plain = float(nn.Conv2d(kind.size, kind.size, 5, bias=False)(x).detach().std())
    for constraint in ("soft", "hard", "none"):
        layer = SoftR2Conv(kind, kind, 5, bias=False, constraint=constraint)
        start = 0
        for rep in kind.representations[:3]:
            ours = layer(x)[:, start : start + rep.size].detach().std()
            assert float(ours) / plain == pytest.approx(1, abs=0.35), rep
            start += rep.size
    soft = SoftR2Conv(kind, kind, 5)
    difference = (soft(x) - soft.hardened()(x)).norm() / soft(x).norm()
    assert 0 < float(difference.detach()) < 0.01
    assert 0 < soft.weight_defect() < 0.01


def test_autocast_narrow_dtypes_and_the_way_back():
    layer = build(constraint="hard", padding=1).float()
    x = images(layer).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    merged = F.conv2d(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16(), padding=1)
    torch.testing.assert_close(y, merged, atol=0, rtol=0)
    narrow = layer.bfloat16()
    assert narrow(x.bfloat16()).dtype == torch.bfloat16
    assert max(errors(narrow.double(), (6, 6))) < 1e-9, "the constants are float64's again"


def test_torch_func():
    layer = build()
    x = images(layer, n=3)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).sin().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    whole = grad(loss)(parameters, x)
    torch.testing.assert_close({name: g.sum(0) for name, g in each.items()}, whole, **TIGHT)


def test_from_conv_splits_a_plain_convolution():
    kind = fields("C4")
    conv = nn.Conv2d(kind.size, kind.size, 3, padding="same", stride=1).double()
    x = torch.randn(2, kind.size, 5, 6, **DOUBLE)
    soft, hard, none = (SoftR2Conv.from_conv(conv, kind, kind, constraint=c) for c in ("soft", "hard", "none"))
    torch.testing.assert_close(soft(x), conv(x), **TIGHT)
    torch.testing.assert_close(none(x), conv(x), **TIGHT)
    torch.testing.assert_close(hard.weight, soft.basis(conv.weight), **TIGHT)
    residual = soft.pathways["residual"].weight
    assert soft.basis.coordinates_of(residual).abs().max() < 1e-12
    with pytest.raises(SofteqValueError, match="kernel_size"):
        SoftR2Conv.from_conv(nn.Conv2d(kind.size, kind.size, (3, 5)), kind, kind)
    with pytest.raises(SofteqValueError, match="channels"):
        SoftR2Conv.from_conv(nn.Conv2d(2, kind.size, 3), kind, kind)
    with pytest.raises(SofteqTypeError, match="conv"):
        SoftR2Conv.from_conv(nn.Linear(2, 2), kind, kind)
