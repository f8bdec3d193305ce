"""What layers refuse, in one line each, and what their state dicts and folds say of where they belong."""

import math

import pytest
import torch
from escnn import gspaces
from escnn import nn as enn
from torch import nn

from softeq import (
    Scalar,
    SoftAttention,
    SoftBilinear,
    SoftConv2d,
    SofteqTypeError,
    SofteqValueError,
    SoftGated,
    SoftLinear,
    SoftO3Linear,
    SoftPathways,
    SoftR2Conv,
    SoftTensorProduct,
    T,
    Vector,
    fold,
    weight_defect,
)
from softeq.groups import SO, O
from softeq.models.molecule_layers import SoftChannelwise
from softeq.models.molecules import SoftPotential

G, H = O(3), SO(3)
V = Vector(G)
C4 = gspaces.rot2dOnR2(4)
TRIVIAL, SIGN = enn.FieldType(C4, [C4.trivial_repr]), enn.FieldType(C4, [C4.irrep(2)])
GRID = {"size": (2, 3)}

BAD = {
    "bilinear, scale NaN": (lambda: SoftBilinear(V, V, scale=math.nan), SofteqValueError, "scale: expected a finite"),
    "bilinear, scale text": (lambda: SoftBilinear(V, V, scale="1"), SofteqTypeError, "scale: expected a finite"),
    "bilinear, rank 2.5": (lambda: SoftBilinear(V, V, rank=2.5), SofteqTypeError, "rank: expected a whole number"),
    "bilinear, rank 0": (lambda: SoftBilinear(V, V, rank=0), SofteqValueError, "rank: expected at least 1"),
    "product, rank 2.5": (lambda: SoftTensorProduct("0e", "0e", "0e", rank=2.5), SofteqTypeError, "rank: expected"),
    "attention, dim 8.5": (lambda: SoftAttention(8.5, 2, **GRID), SofteqTypeError, "dim: expected a whole number"),
    "attention, heads True": (
        lambda: SoftAttention(8, True, **GRID),
        SofteqTypeError,
        "heads: expected a whole number",
    ),
    "attention, heads 3": (
        lambda: SoftAttention(8, 3, **GRID),
        SofteqValueError,
        "dim: expected a multiple of heads",
    ),
    "convolution, channels 8.5": (lambda: SoftConv2d(8.5, 2, 3), SofteqTypeError, "in_channels: expected a whole"),
    "convolution, rank 1.5": (lambda: SoftConv2d(2, 2, 3, size=5, rank=1.5), SofteqTypeError, "rank: expected a whole"),
    "potential, channels 8.5": (
        lambda: SoftPotential([1], channels=8.5),
        SofteqTypeError,
        "channels: expected a whole",
    ),
    "potential, scale NaN": (lambda: SoftPotential([1], scale=math.nan), SofteqValueError, "scale: expected a finite"),
    "complex": (lambda: SoftLinear(V, V).to(torch.complex64), SofteqTypeError, "SoftLinear: expected a real dtype"),
    "complex, inside": (
        lambda: nn.Sequential(SoftO3Linear("0e", "0e")).to(torch.complex64),
        SofteqTypeError,
        "SoftO3Linear: expected a real dtype",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_refused_by_its_name(case):
    build, kind, message = BAD[case]
    with pytest.raises(kind, match=f"^{message}"):
        build()


def test_complex_numbers_do_not_load():
    layer = SoftLinear(V, V)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    given = {name: value.to(torch.complex64) for name, value in before.items()}
    with pytest.raises(SofteqTypeError, match=r"expected real numbers, got torch\.complex64 in pathways"):
        layer.load_state_dict(given)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


MASKS = {
    "too few keys": (torch.ones(6, 5, dtype=torch.bool), SofteqValueError, r"\(B, 2, 6, 6\), got \(6, 5\)"),
    "three heads": (torch.zeros(1, 3, 6, 6), SofteqValueError, r"got \(1, 3, 6, 6\)"),
    "a number": (torch.zeros(()), SofteqValueError, "attn_mask: expected a shape"),
    "integers": (torch.ones(6, 6, dtype=torch.int64), SofteqTypeError, "attn_mask: expected booleans"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_of_another_kind_is_refused(case):
    mask, kind, message = MASKS[case]
    layer = SoftAttention(8, 2, **GRID)
    for module in (layer, fold(layer)):
        with pytest.raises(kind, match=message):
            module(torch.randn(2, 6, 8), attn_mask=mask)
    for good in (
        torch.zeros(6),
        torch.zeros(6, 6),
        torch.zeros(2, 6, 6),
        torch.zeros(2, 2, 6, 6),
        torch.zeros(2, 1, 1, 6),
    ):
        torch.testing.assert_close(layer(x := torch.randn(2, 6, 8), attn_mask=good), layer(x))


NOTHING = {
    "SoftLinear": lambda c: SoftLinear(Scalar(G), V, constraint=c),
    "SoftO3Linear": lambda c: SoftO3Linear("2x0e", "1o", constraint=c),
    "SoftR2Conv": lambda c: SoftR2Conv(TRIVIAL, SIGN, 1, constraint=c),
    "SoftTensorProduct": lambda c: SoftTensorProduct("0e", "1o", "2e", constraint=c),
    "SoftChannelwise": lambda c: SoftChannelwise("0e", "1o", "2e", constraint=c),
}


# Its residual reaches all outputs, those that no product reaches included, as after a layer that has both kinds.
REACHES = ("SoftTensorProduct", "soft")


@pytest.mark.parametrize("constraint", ["soft", "hard"])
@pytest.mark.parametrize("name", NOTHING)
def test_where_nothing_but_zero_is_equivariant_every_layer_says_so(name, constraint):
    if (name, constraint) == REACHES:
        assert NOTHING[name](constraint).pathways["residual"]
        return
    with pytest.raises(SofteqValueError, match=r"^no map but zero from"):
        NOTHING[name](constraint)


@pytest.mark.parametrize("name", [name for name in NOTHING if name != "SoftChannelwise"])  # its residual is per path
def test_without_an_equivariant_pathway_there_is_nothing_to_refuse(name):
    assert list(NOTHING[name]("none").pathways) == ["residual"]


OTHERS = {
    "group": (lambda: SoftLinear(V, V), lambda: SoftLinear(Vector(H), Vector(H))),
    "reps": (lambda: SoftLinear(3 * Scalar(G) + V, V), lambda: SoftLinear(V + 3 * Scalar(G), V)),
    "parity": (lambda: SoftO3Linear("1o", "1o"), lambda: SoftO3Linear("1e", "1e")),
    "grid": (lambda: SoftAttention(8, 2, size=(2, 3)), lambda: SoftAttention(8, 2, size=(3, 2))),
    "gspace": (lambda: conv(gspaces.rot2dOnR2(4)), lambda: conv(gspaces.rot2dOnR2(2))),
}


def conv(space):
    trivial = enn.FieldType(space, [space.trivial_repr])
    return SoftR2Conv(trivial, trivial, 3, constraint="none")


@pytest.mark.parametrize("case", OTHERS)
def test_a_state_dict_of_another_layer_does_not_load(case, tmp_path):
    one, other = (build() for build in OTHERS[case])
    torch.save(nn.Sequential(one).state_dict(), tmp_path / "weights.pt")
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    with pytest.raises(SofteqValueError, match="state_dict: 0 was saved from another layer"):
        nn.Sequential(other).load_state_dict(saved)
    nn.Sequential(OTHERS[case][0]()).load_state_dict(saved)  # its own
    nn.Sequential(other).load_state_dict(dict(saved))  # an older one says nothing


def test_names_of_groups_and_ways_to_write_irreps_make_no_difference():
    from softeq.groups import Group

    renamed = Group("rotations and reflections", G.lie_algebra, G.discrete_generators)
    SoftLinear(Vector(renamed), Vector(renamed)).load_state_dict(SoftLinear(V, V).state_dict())
    SoftO3Linear("2x0e + 1x0e", "0e").load_state_dict(SoftO3Linear("3x0e", "0e").state_dict())


def test_the_defects_name_what_they_leave_out():
    model = nn.ModuleDict(
        {
            "linear": SoftLinear(V, V),
            "bilinear": SoftBilinear(T(2)(G) + V, V),
            "gate": SoftGated(V),
            "sum": SoftPathways(equivariant=SoftLinear(V, V), residual=nn.Linear(3, 3)),
            "product": SoftTensorProduct("0e", "0e", "0e"),
        }
    )
    found = weight_defect(model)
    assert set(found) == {"linear", "sum.pathways.equivariant"}
    assert set(found.left_out) == {"bilinear", "gate", "sum", "product"}
    assert "gate: left out, a SoftGated has no merged weight" in str(found)
    with pytest.raises(SofteqValueError, match=r"no soft layer with a merged weight; its soft layers: \['gate'\]"):
        weight_defect(nn.ModuleDict({"gate": SoftGated(V)}))


def test_a_network_of_geometric_tensors_folds():
    regular = enn.FieldType(C4, [C4.regular_repr])
    model = nn.Sequential(SoftR2Conv(TRIVIAL, regular, 3), enn.ReLU(regular))
    x = enn.GeometricTensor(torch.randn(2, 1, 5, 5), TRIVIAL)
    plain = fold(model)
    torch.testing.assert_close(plain(x).tensor, model(x).tensor)
    assert plain(x).type == model(x).type
    with pytest.raises(SofteqValueError, match="expected fields of type"):
        plain(enn.GeometricTensor(torch.randn(2, 1, 5, 5), SIGN))


def test_a_layer_that_was_given_geometric_tensors_folds_into_one_that_takes_them():
    class Wraps(nn.Module):
        """No module of escnn tells that fields are passed."""

        def __init__(self):
            super().__init__()
            self.conv = SoftR2Conv(TRIVIAL, TRIVIAL, 3)

        def forward(self, x):
            return self.conv(enn.GeometricTensor(x, TRIVIAL)).tensor

    model, x = Wraps(), torch.randn(2, 1, 5, 5)
    assert isinstance(fold(model).conv, nn.Conv2d)
    expected = model(x)
    torch.testing.assert_close(fold(model)(x), expected)
    assert isinstance(fold(SoftR2Conv(TRIVIAL, TRIVIAL, 3)), nn.Conv2d)
