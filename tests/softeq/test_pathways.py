"""The abstract soft layer's contract on every concrete one, and SoftPathways for any two modules."""

import copy

import pytest
import torch
from torch import nn

from softeq import (
    MergedLayer,
    Prior,
    Scalar,
    SoftBilinear,
    SofteqTypeError,
    SofteqValueError,
    SoftGated,
    SoftLayer,
    SoftLinear,
    SoftPathways,
    Vector,
    assert_equivariant,
    fold,
    gated,
    groups,
    harden,
    prior_penalty,
)
from softeq.composite import Sum
from softeq.pathways import pathways_of

SO3 = groups.SO(3)
REP = (2 * Scalar + 2 * Vector)(SO3)
GATED = gated(REP)


class Blur(nn.Module):
    """A map of one vector that is equivariant by construction and has a parameter."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.gain * x * x.norm(dim=-1, keepdim=True)


LAYERS = {
    "SoftLinear": lambda constraint: SoftLinear(REP, REP, constraint=constraint),
    "SoftBilinear": lambda constraint: SoftBilinear(REP, REP, constraint=constraint),
    "SoftGated": lambda constraint: SoftGated(REP, constraint=constraint),
    "SoftPathways": lambda constraint: SoftPathways(
        equivariant=None if constraint == "none" else Blur(),
        residual=None if constraint == "hard" else nn.Linear(3, 3),
    ),
}
WIDTHS = {"SoftLinear": REP.size, "SoftBilinear": REP.size, "SoftGated": GATED.size, "SoftPathways": 3}
KEYS = {"soft": ["equivariant", "residual"], "hard": ["equivariant"], "none": ["residual"]}


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


def inputs(kind, *shape):
    return torch.randn(*shape, WIDTHS[kind], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_has_pathways_that_partition_its_parameters(kind, constraint):
    layer = LAYERS[kind](constraint)
    assert isinstance(layer, SoftLayer)
    assert isinstance(layer.pathways, nn.ModuleDict)
    assert list(layer.pathways) == KEYS[constraint]
    parts = [id(p) for pathway in layer.pathways.values() for p in pathway.parameters()]
    assert len(parts) == len(set(parts))
    assert set(parts) == {id(p) for p in layer.parameters()}


@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_takes_leading_axes_and_empty_batches(kind, constraint):
    layer = LAYERS[kind](constraint)
    x = inputs(kind, 2, 3)
    y = layer(x)
    assert y.shape[:-1] == (2, 3)
    torch.testing.assert_close(y[1, 2], layer(x[1, 2]), atol=1e-5, rtol=1e-5)
    assert layer(inputs(kind, 0)).shape == (0, y.shape[-1])


@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_folds_to_a_plain_module_and_copies(kind, constraint):
    layer = LAYERS[kind](constraint)
    x = inputs(kind, 5)
    folded = fold(layer)
    assert not any(isinstance(m, SoftLayer) for m in folded.modules())
    torch.testing.assert_close(folded(x), layer(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), atol=0, rtol=0)


def test_every_layer_hardens_to_its_equivariant_pathway_and_stays_as_it_was(kind):
    layer = LAYERS[kind]("soft")
    before = copy.deepcopy(layer.state_dict())
    for hard in (harden(layer), copy.deepcopy(layer).hardened(), layer.hardened()):
        assert list(hard.pathways) == ["equivariant"]
    assert list(layer.pathways) == KEYS["soft"], "the layer itself lost a pathway"
    torch.testing.assert_close(dict(layer.state_dict()), dict(before), atol=0, rtol=0)


def test_no_layer_without_an_equivariant_pathway_hardens(kind):
    with pytest.raises(SofteqValueError, match="harden"):
        LAYERS[kind]("none").hardened()


@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_has_the_penalty_of_its_parameters(kind, constraint):
    layer = LAYERS[kind](constraint)
    precision = {"equivariant": 0.3, "residual": 5.0}
    expected = sum(
        0.5 * precision[name] * float(p.detach().double().square().sum())
        for name, pathway in layer.pathways.items()
        for p in pathway.parameters()
    )
    penalty = prior_penalty(layer, Prior(**precision))
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_compiles(kind, constraint):
    layer, x = LAYERS[kind](constraint), inputs(kind, 4).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    wanted = [x, *layer.parameters()]
    values, gradients = [], []
    for f in (layer, compiled):
        y = f(x)
        values.append(y.detach())
        gradients.append(torch.autograd.grad(y.sin().sum(), wanted))
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_round_trips_its_state_and_its_dtype(kind, constraint):
    layer, twin = LAYERS[kind](constraint), LAYERS[kind](constraint)
    twin.load_state_dict(layer.state_dict())
    x = inputs(kind, 5)
    torch.testing.assert_close(twin(x), layer(x), atol=0, rtol=0)
    wide = copy.deepcopy(layer).double()(x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), layer(x), atol=1e-5, rtol=1e-5)
    assert copy.deepcopy(layer).to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("constraint", KEYS)
def test_every_layer_moves_to_a_cuda_device(kind, constraint):
    layer, x = LAYERS[kind](constraint).double(), inputs(kind, 5).double()
    moved = copy.deepcopy(layer).to("cuda")
    y = moved(x.to("cuda"))
    torch.testing.assert_close(y.cpu(), layer(x), atol=1e-9, rtol=1e-9)
    loss = y.square().sum() + prior_penalty(moved, Prior())
    assert loss.device.type == "cuda"
    torch.testing.assert_close(loss.cpu(), layer(x).square().sum() + prior_penalty(layer, Prior()))


def test_only_linear_layers_have_a_merged_weight():
    assert isinstance(LAYERS["SoftLinear"]("soft"), MergedLayer)
    assert not any(isinstance(LAYERS[k]("soft"), MergedLayer) for k in ("SoftBilinear", "SoftGated", "SoftPathways"))


def test_the_abstract_layers_cannot_be_built():
    for abstract in (SoftLayer, MergedLayer):
        with pytest.raises(TypeError, match="abstract"):
            abstract()


def test_soft_pathways_sum_their_modules():
    linear, blur = nn.Linear(3, 3), Blur()
    x = inputs("SoftPathways", 5)
    torch.testing.assert_close(SoftPathways(equivariant=blur, residual=linear)(x), blur(x) + linear(x))
    torch.testing.assert_close(SoftPathways(equivariant=blur)(x), blur(x))
    torch.testing.assert_close(SoftPathways(residual=linear)(x), linear(x))
    both = SoftPathways(equivariant=nn.Bilinear(3, 3, 2), residual=nn.Bilinear(3, 3, 2))
    assert both(x, x).shape == (5, 2)


def test_a_soft_layer_inside_a_pathway_counts_as_that_pathway():
    inner = SoftLinear(REP, REP)
    outer = SoftPathways(equivariant=inner, residual=nn.Linear(REP.size, REP.size))
    prior = Prior(equivariant=2.0, residual=0.0)
    expected = sum(float(p.detach().square().sum()) for p in inner.parameters())
    assert prior_penalty(outer, prior).item() == pytest.approx(expected, rel=1e-5)


def test_hardening_reaches_the_soft_layers_inside_the_equivariant_pathway():
    inner = SoftLinear(REP, REP)
    nn.init.normal_(inner.pathways["residual"].weight)
    outer = SoftPathways(equivariant=inner, residual=nn.Linear(REP.size, REP.size)).double()
    assert_equivariant(harden(outer), REP, REP)
    unconstrained = SoftPathways(equivariant=SoftLinear(REP, REP, constraint="none"))
    with pytest.raises(SofteqValueError, match="harden"):
        harden(unconstrained)


def test_a_folded_sum_holds_folded_modules():
    outer = SoftPathways(equivariant=SoftLinear(REP, REP), residual=nn.Linear(REP.size, REP.size))
    folded = fold(outer)
    assert isinstance(folded, Sum)
    assert [type(term) for term in folded.terms] == [nn.Linear, nn.Linear]
    assert type(fold(SoftPathways(equivariant=SoftLinear(REP, REP)))) is nn.Linear


def test_outputs_of_two_shapes_are_refused():
    both = SoftPathways(equivariant=nn.Linear(3, 3), residual=nn.Linear(3, 1))
    with pytest.raises(SofteqValueError, match=r"equivariant output has shape \(5, 3\) and the residual one \(5, 1\)"):
        both(inputs("SoftPathways", 5))


def test_soft_pathways_of_nothing_are_refused():
    with pytest.raises(SofteqValueError, match="equivariant or a residual"):
        SoftPathways()


@pytest.mark.parametrize("name", ["equivariant", "residual"])
def test_a_pathway_that_is_no_module_is_refused_by_name(name):
    with pytest.raises(SofteqTypeError, match=f"{name}: expected an nn.Module"):
        SoftPathways(**{name: torch.sin})


def test_the_pathways_of_a_constraint():
    assert {name: list(pathways_of(name)) for name in KEYS} == KEYS
    for wrong in ("", "Soft", None, ["soft"]):
        with pytest.raises(SofteqValueError, match="constraint: expected 'soft', 'hard' or 'none'"):
            pathways_of(wrong)


@pytest.mark.parametrize("kind", ["SoftLinear", "SoftBilinear", "SoftGated"])
def test_an_unknown_constraint_is_refused_by_name(kind):
    with pytest.raises(SofteqValueError, match=r"constraint: expected.*'loose'"):
        LAYERS[kind]("loose")


@pytest.mark.parametrize("kind", ["SoftLinear", "SoftBilinear", "SoftGated"])
def test_an_input_of_another_width_is_refused_by_name(kind):
    with pytest.raises(SofteqValueError, match=rf"x: expected shape \(..., {WIDTHS[kind]}\)"):
        LAYERS[kind]("soft")(torch.zeros(5, 4))
