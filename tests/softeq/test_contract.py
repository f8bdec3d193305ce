"""Every public layer in every situation of `softeq.testing.check_layer`: one test over both, with readable ids."""

from dataclasses import dataclass

import pytest
import torch
from escnn import gspaces
from escnn.nn import FieldType
from torch import nn

from softeq import (
    Scalar,
    SoftAttention,
    SoftBilinear,
    SoftConv1d,
    SoftConv2d,
    SoftConv3d,
    SoftGate,
    SoftGated,
    SoftLinear,
    SoftO3ExternalLinear,
    SoftO3Linear,
    SoftPathways,
    SoftR2Conv,
    SoftR3Conv,
    SoftTensorProduct,
    T,
    Vector,
    gated,
)
from softeq._layer_situations import CHECKS
from softeq._spaces import IrrepsVectors
from softeq.groups import Lorentz, O, O2eR3, SO2eR3
from softeq.irreps import as_irreps
from softeq.models.molecule_layers import SoftChannelwise
from softeq.testing import Invariant, check_layer

A, B = (3 * Scalar + 2 * Vector)(O(3)), (Scalar + Vector + T(2))(O(3))
UNSORTED = (Vector + Scalar + Vector)(O(3))
BOOSTED = (Scalar + Vector)(Lorentz()), (Vector + T(1, 1))(Lorentz())
D4, C4 = gspaces.flipRot2dOnR2(4), gspaces.rot2dOnR2(4)
MIXED = FieldType(D4, [D4.trivial_repr, D4.regular_repr]), FieldType(D4, [D4.regular_repr, D4.irrep(1, 1)])
SO3 = gspaces.rot3dOnR3()
SOLID = FieldType(SO3, [SO3.trivial_repr, SO3.irrep(1)])
PAIRS = FieldType(C4, [C4.irrep(1), C4.irrep(1)])
ROUND = {"padding": 1, "padding_mode": "circular"}
PADDED = {"size": (6, 5), "padding": 1}
CIRCULAR = {"size": (6, 4), "padding": 1, "stride": 2, "groups": 2, "padding_mode": "circular", "residual": "local"}


@dataclass(frozen=True)
class Channels(IrrepsVectors):
    """Three channels of irreps."""

    def draw(self, n, generator):
        return torch.randn(n, 3, self.irreps.dim, generator=generator, dtype=torch.float64)


class PerPath(Invariant):
    """A number per channel and path, for the paths 0e, 1o, 1o, 0e."""

    def draw(self, n, generator):
        numbers = torch.randn(n, 3, 4, generator=generator, dtype=torch.float64)
        return numbers.repeat_interleave(torch.tensor([1, 3, 3, 1]), -1)


IRREPS = as_irreps("0e+1o", "irreps")
SPACES = {
    "SoftPathways": (Vector(O(3)), Vector(O(3))),
    "SoftChannelwise": (
        (Channels(IRREPS), IrrepsVectors(IRREPS), PerPath((3, 8))),
        Channels(as_irreps("0e+1o+1o+0e", "irreps")),
    ),
    "SoftO3ExternalLinear, weights from outside": (("2x0e+1o", Invariant((5,))), "2x0e+1o"),
    "SoftTensorProduct, weights from outside": (("2x0e+1o", "0e+1o", Invariant((6,))), "0e+1o"),
}


class Stretch(nn.Module):
    """Equivariant by construction, with a parameter."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.gain * x * x.norm(dim=-1, keepdim=True)


def summed(constraint):
    return SoftPathways(
        equivariant=None if constraint == "none" else Stretch(),
        residual=None if constraint == "hard" else nn.Linear(3, 3),
    )


# name: (what builds it from a constraint, the shapes of what it takes)
LAYERS = {
    "SoftLinear": (lambda c: SoftLinear(A, B, constraint=c), [(4, 9)]),
    "SoftLinear, projected": (lambda c: SoftLinear(A, B, constraint=c, parametrization="projected"), [(4, 9)]),
    "SoftLinear, Lorentz, no bias": (lambda c: SoftLinear(*BOOSTED, constraint=c, bias=False), [(4, 5)]),
    "SoftLinear, ladder": (lambda c: SoftLinear(A, B, constraint=c, ladder=[O(3), O2eR3()]), [(4, 9)]),
    "SoftBilinear": (lambda c: SoftBilinear(B, B, constraint=c), [(4, 13)]),
    "SoftBilinear, unsorted": (lambda c: SoftBilinear(UNSORTED, UNSORTED, constraint=c), [(4, 7)]),
    "SoftGated": (lambda c: SoftGated(B, constraint=c), [(4, gated(B).size)]),
    "SoftPathways": (summed, [(4, 3)]),
    "SoftConv2d, dense": (lambda c: SoftConv2d(2, 4, 3, **PADDED, constraint=c), [(2, 2, 6, 5)]),
    "SoftConv2d, local": (lambda c: SoftConv2d(2, 4, 3, **PADDED, residual="local", constraint=c), [(2, 2, 6, 5)]),
    "SoftConv2d, lowrank": (lambda c: SoftConv2d(2, 4, 3, **PADDED, residual="lowrank", constraint=c), [(2, 2, 6, 5)]),
    "SoftConv2d, circular": (lambda c: SoftConv2d(2, 4, 3, **CIRCULAR, constraint=c), [(2, 2, 6, 4)]),
    "SoftConv1d": (lambda c: SoftConv1d(2, 4, 3, size=6, padding=1, residual="lowrank", constraint=c), [(2, 2, 6)]),
    "SoftConv1d, dense": (lambda c: SoftConv1d(2, 4, 3, size=6, **ROUND, constraint=c), [(2, 2, 6)]),
    "SoftConv1d, local": (lambda c: SoftConv1d(2, 4, 3, size=6, residual="local", constraint=c), [(2, 2, 6)]),
    "SoftConv3d": (lambda c: SoftConv3d(2, 4, 2, size=3, residual="local", constraint=c), [(2, 2, 3, 3, 3)]),
    "SoftConv3d, dense": (lambda c: SoftConv3d(2, 4, 3, size=3, **ROUND, constraint=c), [(2, 2, 3, 3, 3)]),
    "SoftConv3d, lowrank": (
        lambda c: SoftConv3d(2, 4, 2, size=(3, 4, 3), residual="lowrank", constraint=c),
        [(2, 2, 3, 4, 3)],
    ),
    "SoftR2Conv": (lambda c: SoftR2Conv(*MIXED, 3, padding=1, constraint=c), [(2, 9, 5, 5)]),
    "SoftR2Conv, groups": (lambda c: SoftR2Conv(PAIRS, PAIRS, 3, groups=2, constraint=c), [(2, 4, 5, 5)]),
    "SoftR2Conv, ladder": (lambda c: SoftR2Conv(*MIXED, 3, padding=1, constraint=c, ladder=[D4, C4]), [(2, 9, 5, 5)]),
    "SoftR2Conv, transposed": (
        lambda c: SoftR2Conv(*MIXED, 4, stride=2, padding=1, transposed=True, constraint=c),
        [(2, 9, 3, 3)],
    ),
    "SoftR2Conv, pointwise": (lambda c: SoftR2Conv(*MIXED, 1, constraint=c), [(2, 9, 4, 4)]),
    "SoftR3Conv": (lambda c: SoftR3Conv(SOLID, SOLID, 3, padding=1, constraint=c), [(2, 4, 3, 3, 3)]),
    "SoftAttention": (lambda c: SoftAttention(8, 2, size=(3, 2), prefix=1, constraint=c), [(2, 7, 8)]),
    "SoftAttention, periodic": (
        lambda c: SoftAttention(8, 2, size=(3, 2), periodic=True, residual="lowrank", constraint=c),
        [(2, 6, 8)],
    ),
    "SoftO3Linear": (lambda c: SoftO3Linear("2x0e+1o+2x1o+0o", "3x0e+2x1o+1e", constraint=c), [(4, 12)]),
    "SoftO3Linear, ladder": (
        lambda c: SoftO3Linear("2x0e+1o+2e", "3x0e+2x1o", constraint=c, ladder=[O(3), O2eR3(), SO2eR3()]),
        [(4, 10)],
    ),
    "SoftO3Linear, bias per block": (
        lambda c: SoftO3Linear("2x0e+1o", "2x0e+1o+0e", bias=[True, c != "hard", False], constraint=c),
        [(4, 5)],
    ),
    "SoftO3ExternalLinear, weights from outside": (
        lambda c: SoftO3ExternalLinear("2x0e+1o", "2x0e+1o", constraint=c),
        [(4, 5), (4, 5)],
    ),
    "SoftGate, odd": (
        lambda c: SoftGate("2x0e+1o+0o", odd="tanh", normalised=True, constraint=c),
        [(4, 7)],
    ),
    "SoftTensorProduct, not reached": (
        lambda c: SoftTensorProduct("2x0e+1o", "0e", "2x0e+1e", constraint=c),
        [(4, 5), (4, 1)],
    ),
    "SoftGate": (lambda c: SoftGate("2x0e+1o+0o", constraint=c), [(4, 8)]),
    "SoftTensorProduct": (
        lambda c: SoftTensorProduct("2x0e+1o", "0e+1o", "2x0e+1o+1e", constraint=c),
        [(4, 5), (4, 4)],
    ),
    "SoftTensorProduct, channelwise": (
        lambda c: SoftTensorProduct("2x0e+2x1o", "0e+1o", "0e+1o", kind="channelwise", constraint=c),
        [(4, 8), (4, 4)],
    ),
    "SoftTensorProduct, weights from outside": (
        lambda c: SoftTensorProduct("2x0e+1o", "0e+1o", "0e+1o", external_weights=c != "none", constraint=c),
        [(4, 5), (4, 4), (4, 6)],
    ),
    "SoftChannelwise": (
        lambda c: SoftChannelwise("0e+1o", "0e+1o", "0e+1o", constraint=c),
        [(4, 3, 4), (4, 4), (4, 3, 8)],
    ),
}
SLOW = {"compile", "export", "trace"}  # a second each: of the first of a kind and one constraint, but for --run-slow


def build(name, constraint):
    make, shapes = LAYERS[name]
    torch.manual_seed(0)
    layer = make(constraint)
    if name.endswith("outside") and constraint == "none":
        shapes = shapes[:-1]
    return layer, tuple(torch.randn(shape) for shape in shapes)


def situations():
    for name in LAYERS:
        for check in CHECKS:
            for constraint in ("soft", "hard", "none"):
                marks = [pytest.mark.slow] if check in SLOW and (constraint != "soft" or ", " in name) else []
                yield pytest.param(name, constraint, check, id=f"{name}-{constraint}-{check}", marks=marks)


@pytest.mark.parametrize(("name", "constraint", "check"), list(situations()))
def test_layer(name, constraint, check):
    layer, inputs = build(name, constraint)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert set(check_layer(layer, inputs, only=[check], spaces=SPACES.get(name))) == {check}
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", list(LAYERS))
def test_on_the_meta_device_a_layer_tells_shapes(name):
    layer, inputs = build(name, "soft")
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    assert layer.to("meta")(*(x.to("meta") for x in given)).shape == build(name, "soft")[0](*given).shape
