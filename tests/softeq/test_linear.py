"""SoftLinear against its definition, written densely: y = x (P(W_e) + W_b)^T + P_b b_e + b_b."""

import copy

import pytest
import torch
from torch import nn

from softeq import (
    Scalar,
    SofteqTypeError,
    SofteqValueError,
    SoftLayer,
    SoftLinear,
    T,
    Vector,
    assert_equivariant,
    equivariant_basis,
    groups,
)
from softeq import _cache as cache
from softeq.testing import equivariance_errors

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}

REPS = {
    "O(3)": ((2 * Scalar + 2 * Vector)(groups.O(3)), (3 * Scalar + Vector + T(2))(groups.O(3))),
    "SO(3), types apart": ((Vector + Scalar + Vector)(groups.SO(3)), (T(2) + Vector + Scalar + Vector)(groups.SO(3))),
    "SL(3), duals": (
        (Vector + T(1, 1) + Scalar)(groups.SL(3)),
        (Vector.dual * Vector + 2 * Vector + Scalar)(groups.SL(3)),
    ),
    "Lorentz": ((Vector + Scalar)(groups.Lorentz()), (T(2) + Vector + Scalar)(groups.Lorentz())),
    "Permutation(4)": (Vector(groups.Permutation(4)), (T(2) + Scalar)(groups.Permutation(4))),
    "O2eR3": ((4 * Vector)(groups.O2eR3()), (Scalar + Vector)(groups.O2eR3())),
    "product": ((Vector + Scalar)(groups.SO(2) * groups.Z(2)), (2 * Vector)(groups.SO(2) * groups.Z(2))),
}
CONSTRAINTS = ["soft", "hard", "none"]


@pytest.fixture(params=REPS)
def reps(request):
    return REPS[request.param]


def dense_projection(rep_in, rep_out, weight):
    basis = equivariant_basis(rep_in, rep_out).to(weight.dtype)
    return torch.einsum("kij,k->ij", basis, torch.einsum("kij,ij->k", basis, weight))


def term(layer, name, x):
    """One pathway's output from the paper's formula and the dense bases alone."""
    W, b = layer.pathways[name].weight, layer.pathways[name].bias
    if name == "equivariant":
        W = dense_projection(layer.rep_in, layer.rep_out, W)
        b = dense_projection(Scalar(layer.rep_in.group), layer.rep_out, b[:, None])[:, 0]
    return x @ W.T + b


def definition(layer, x):
    return sum(term(layer, name, x) for name in layer.pathways)


def randomised(layer, seed=0):
    """All parameters standard normal: unprojected, and the residual pathway as large as the other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return layer


def inputs_for(layer, *shape, seed=1):
    return torch.randn(*shape, layer.in_features, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_forward_is_the_definition(reps, constraint):
    layer = randomised(SoftLinear(*reps, constraint=constraint).double())
    x = inputs_for(layer, 7)
    torch.testing.assert_close(layer(x), definition(layer, x), **TIGHT)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias, **TIGHT)
    assert layer(inputs_for(layer, 2, 3)).shape == (2, 3, reps[1].size)
    assert layer(x[0]).shape == (reps[1].size,)
    torch.testing.assert_close(layer(x)[0], layer(x[0]), **TIGHT)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_gradients_are_those_of_the_definition(reps, constraint):
    layer = randomised(SoftLinear(*reps, constraint=constraint).double())
    x = inputs_for(layer, 7).requires_grad_()
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad(layer(x).sin().sum(), wanted)
    torch.testing.assert_close(found, torch.autograd.grad(definition(layer, x).sin().sum(), wanted), **TIGHT)


def test_without_a_residual_it_is_equivariant_and_with_one_it_is_not(reps):
    layer = randomised(SoftLinear(*reps).double())
    assert float(equivariance_errors(layer, *reps).max()) > 1e-3
    for p in layer.pathways["residual"].parameters():
        nn.init.zeros_(p)
    assert_equivariant(layer, *reps, tolerance=1e-9)
    assert_equivariant(randomised(SoftLinear(*reps, constraint="hard").double()), *reps, tolerance=1e-9)
    x = inputs_for(layer, 4)
    assert (layer(x) != 0).any(), "zero is equivariant too"


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_double_after_float32_is_exact(reps, parametrization):
    """The bases are rounded anew from float64, not cast: no float32 error is left in them."""
    layer = SoftLinear(*reps, constraint="hard", parametrization=parametrization)
    assert_equivariant(layer, *reps)
    assert_equivariant(layer.to(torch.bfloat16).double(), *reps, tolerance=1e-9)


def test_float32_is_equivariant_to_its_rounding(reps):
    assert_equivariant(SoftLinear(*reps, constraint="hard"), *reps, dtype=torch.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_pathways_partition_the_parameters(constraint, bias):
    layer = SoftLinear(*REPS["O(3)"], constraint=constraint, bias=bias)
    assert isinstance(layer, SoftLayer)
    assert isinstance(layer.pathways, nn.ModuleDict)
    keys = {"soft": ["equivariant", "residual"], "hard": ["equivariant"], "none": ["residual"]}[constraint]
    assert list(layer.pathways) == keys
    of_pathways = [id(p) for pathway in layer.pathways.values() for p in pathway.parameters()]
    assert len(of_pathways) == len(set(of_pathways)) == len(keys) * (1 + bias)
    assert set(of_pathways) == {id(p) for p in layer.parameters()}
    assert list(layer.buffers(recurse=False)) == []


def test_bias_false():
    layer = randomised(SoftLinear(*REPS["O(3)"], bias=False).double())
    assert layer.bias is None
    assert layer(inputs_for(layer, 2) * 0).abs().max() == 0
    assert layer.folded().bias is None
    assert layer.hardened().bias is None
    projected = SoftLinear(*REPS["O(3)"], bias=False, parametrization="projected")
    assert [name for name, _ in projected.named_parameters()] == ["free_weight"]
    assert projected.bias is None


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_merged_summed_and_folded_agree(constraint, backend):
    """One linear operation with the merged weight, the naive sum of two pathways, and the folded nn.Linear."""
    layer = randomised(SoftLinear(*REPS["SL(3), duals"], constraint=constraint).double())
    x = inputs_for(layer, 5).requires_grad_()

    torch._dynamo.reset()
    merged = layer if backend == "eager" else torch.compile(layer, backend=backend)
    wanted = [x, *layer.parameters()]
    outputs = [merged(x), definition(layer, x)]
    torch.testing.assert_close(*outputs, **TIGHT)
    gradients = [torch.autograd.grad(y.sin().sum(), wanted) for y in outputs]
    torch.testing.assert_close(*gradients, **TIGHT)
    folded = layer.folded()
    torch.testing.assert_close(folded(x), outputs[0], **TIGHT)
    torch.testing.assert_close(torch.autograd.grad(folded(x).sin().sum(), x)[0], gradients[0][0], **TIGHT)


def test_weight_and_bias_are_the_merged_ones(reps):
    layer = randomised(SoftLinear(*reps).double())
    equivariant, residual = layer.pathways["equivariant"], layer.pathways["residual"]
    torch.testing.assert_close(layer.weight, dense_projection(*reps, equivariant.weight) + residual.weight, **TIGHT)
    fixed = dense_projection(Scalar(reps[0].group), reps[1], equivariant.bias[:, None])[:, 0]
    torch.testing.assert_close(layer.bias, fixed + residual.bias, **TIGHT)


def test_the_weight_defect_is_the_relative_distance_to_the_equivariant_maps(reps):
    layer = randomised(SoftLinear(*reps).double())
    W = layer.weight.detach()
    expected = float((W - dense_projection(*reps, W)).norm() / W.norm())
    assert layer.weight_defect() == pytest.approx(expected, abs=1e-12)
    assert 0 < layer.weight_defect() < 1


def test_the_ends_of_the_weight_defect(reps):
    assert SoftLinear(*reps, constraint="hard").double().weight_defect() < 1e-7
    assert randomised(SoftLinear(*reps, constraint="hard").double()).weight_defect() < 1e-12
    layer = randomised(SoftLinear(*reps, constraint="none").double())
    with torch.no_grad():
        residual = layer.pathways["residual"].weight
        residual -= dense_projection(*reps, residual)
        assert layer.weight_defect() == pytest.approx(1.0, abs=1e-12)
        assert layer.weight_defect() <= 1.0
        residual.zero_()
    assert layer.weight_defect() == 0.0


def test_deepcopy_is_independent_and_equal(reps):
    layer = randomised(SoftLinear(*reps).double())
    twin = copy.deepcopy(layer)
    x = inputs_for(layer, 3)
    before = layer(x)
    torch.testing.assert_close(twin(x), before, atol=0, rtol=0)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    torch.testing.assert_close(layer(x), before, atol=0, rtol=0)
    assert not torch.equal(twin(x), before)


def test_a_state_dict_fits_a_model_whose_bases_were_solved_in_another_order(fresh_cache, monkeypatch):
    """Weights are stored in their own coordinates, so that no choice of a basis is part of a checkpoint."""
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    names = ["O(3)", "SL(3), duals", "Permutation(4)"]
    first = nn.ModuleDict({str(i): randomised(SoftLinear(*REPS[name])) for i, name in enumerate(names)})
    state = copy.deepcopy(first.state_dict())
    cache.clear_memory_cache()
    second = {str(i): SoftLinear(*REPS[name], constraint="soft") for i, name in reversed(list(enumerate(names)))}
    second = nn.ModuleDict({key: second[key] for key in sorted(second)})
    second.load_state_dict(state, strict=True)
    for key, layer in first.items():
        x = inputs_for(layer, 4).float()
        torch.testing.assert_close(second[key](x), layer(x), atol=1e-6, rtol=1e-6)
    assert sorted(first["0"].state_dict()) == [
        f"pathways.{pathway}.{kind}" for pathway in ("equivariant", "residual") for kind in ("bias", "weight")
    ]


def test_repr_names_what_it_is():
    text = repr(SoftLinear(*REPS["O(3)"], constraint="hard"))
    assert "hard" in text
    assert "O(3)" in text
    assert "pathways" in text


SO3 = groups.SO(3)
BAD = {
    "two groups": (lambda: SoftLinear(Vector(SO3), Vector(groups.O(3))), "rep_in.*rep_out"),
    "unbound rep_in": (lambda: SoftLinear(Vector, Vector(SO3)), "not bound"),
    "unbound rep_out": (lambda: SoftLinear(Vector(SO3), Vector), "not bound"),
    "empty rep_in": (lambda: SoftLinear((0 * Vector)(SO3), Vector(SO3)), "rep_in"),
    "empty rep_out": (lambda: SoftLinear(Vector(SO3), (0 * Vector)(SO3)), "rep_out"),
    "constraint": (lambda: SoftLinear(Vector(SO3), Vector(SO3), constraint="firm"), "constraint.*'firm'"),
    "parametrization": (lambda: SoftLinear(Vector(SO3), Vector(SO3), parametrization="x"), "parametrization.*'x'"),
    "input width": (lambda: SoftLinear(Vector(SO3), Vector(SO3))(torch.zeros(5, 4)), r"x: expected shape \(..., 3\)"),
    "input without axes": (lambda: SoftLinear(Vector(SO3), Vector(SO3))(torch.tensor(1.0)), "x: expected shape"),
    "weight's shape": (lambda: SoftLinear(Vector(SO3), Vector(SO3)).projector(torch.zeros(2, 3)), "weight: expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case):
    call, message = BAD[case]
    with pytest.raises(SofteqValueError, match=message):
        call()


def test_what_is_no_representation_is_refused_by_name():
    with pytest.raises(SofteqTypeError, match="rep_in"):
        SoftLinear(3, Vector(SO3))
    with pytest.raises(SofteqTypeError, match="rep_out"):
        SoftLinear(Vector(SO3), 3)
