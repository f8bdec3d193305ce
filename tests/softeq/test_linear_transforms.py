"""SoftLinear under torch.func, numeric differentiation, autocast, narrow dtypes; and how it starts."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap

from softeq import Prior, Scalar, SoftLinear, T, Vector, equivariant_basis, groups, prior_penalty
from softeq.testing import equivariance_errors

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}
FORMS = ["pathways", "projected"]
REP_IN, REP_OUT = (Vector + Scalar)(groups.SO(2)), (Vector + 2 * Scalar)(groups.SO(2))
PRECISIONS = {"equivariant": 0.3, "residual": 2.0}


def layer_of(parametrization, seed=0):
    layer = SoftLinear(REP_IN, REP_OUT, parametrization=parametrization).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, **DOUBLE))
    return layer


def dense_forward(parameters, x):
    """The definition on a dictionary of parameters, by dense bases and plain operations."""

    def project(W, rep_in):
        basis = equivariant_basis(rep_in, REP_OUT)
        return torch.einsum("kij,k->ij", basis, torch.einsum("kij,ij->k", basis, W))

    if "free_weight" in parameters:
        return x @ parameters["free_weight"].T + parameters["free_bias"]
    W = project(parameters["pathways.equivariant.weight"], REP_IN) + parameters["pathways.residual.weight"]
    b = project(parameters["pathways.equivariant.bias"][:, None], Scalar(REP_OUT.group))[:, 0]
    return x @ W.T + b + parameters["pathways.residual.bias"]


@pytest.fixture(params=FORMS)
def setting(request):
    """The layer, its parameters, inputs, and the same loss through the layer and through the dense formula."""
    layer = layer_of(request.param)
    x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(1), **DOUBLE)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).tanh().square().sum()

    def twin(parameters, x):
        return dense_forward(parameters, x).tanh().square().sum()

    return layer, parameters, x, loss, twin


def test_grad(setting):
    _, parameters, x, loss, twin = setting
    for argument in (0, 1):
        torch.testing.assert_close(grad(loss, argument)(parameters, x), grad(twin, argument)(parameters, x), **TIGHT)


def test_per_sample_gradients(setting):
    """vmap over inputs of the gradient: what differential privacy and Fisher matrices need."""
    _, parameters, x, loss, twin = setting
    found, expected = (vmap(grad(f), in_dims=(None, 0))(parameters, x) for f in (loss, twin))
    torch.testing.assert_close(found, expected, **TIGHT)


def test_an_ensemble_by_stacked_parameters(setting):
    layer, _, x, loss, twin = setting
    members = [layer_of("projected" if layer.projected else "pathways", seed) for seed in range(3)]
    stacked, buffers = stack_module_state(members)
    one = {name: b[0] for name, b in buffers.items()}
    outputs = vmap(lambda p, x: functional_call(layer, (p, one), (x,)), in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(outputs, torch.stack([m(x) for m in members]), **TIGHT)
    detached = {name: p.detach() for name, p in stacked.items()}
    found, expected = (vmap(grad(f), in_dims=(0, None))(detached, x) for f in (loss, twin))
    torch.testing.assert_close(found, expected, **TIGHT)


def test_jvp_jacrev_and_hessian(setting):
    _, parameters, x, loss, twin = setting
    tangents = {name: p.cos() for name, p in parameters.items()}
    along = [jvp(f, (parameters, x), (tangents, x.sin())) for f in (loss, twin)]
    torch.testing.assert_close(*along, **TIGHT)
    torch.testing.assert_close(*(jacrev(f)(parameters, x) for f in (loss, twin)), **TIGHT)
    curvature = [hessian(f)(parameters, x[:1]) for f in (loss, twin)]
    torch.testing.assert_close(*curvature, **TIGHT)


def test_numeric_differences_of_loss_and_penalty(setting):
    layer, parameters, x, _, _ = setting
    names = list(parameters)
    prior = Prior(**PRECISIONS)

    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x).sin().sum() + prior_penalty(self, prior)

    objective = Objective()

    def function(x, *values):
        named = {f"layer.{name}": value for name, value in zip(names, values, strict=True)}
        return functional_call(objective, named, (x,))

    inputs = (x[:2].clone().requires_grad_(), *(parameters[name].clone().requires_grad_() for name in names))
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("parametrization", FORMS)
def test_autocast_merges_in_float32_and_casts_after(parametrization):
    layer = layer_of(parametrization).float()
    x = torch.randn(6, layer.in_features, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        loss = y.float().square().mean() + prior_penalty(layer, Prior(**PRECISIONS)) / 10
    assert y.dtype == torch.bfloat16
    merged = (layer.weight.bfloat16(), layer.bias.bfloat16())
    torch.testing.assert_close(y, nn.functional.linear(x.bfloat16(), *merged), atol=0, rtol=0)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in layer.named_parameters()}
    assert all(g.dtype == torch.float32 for g in grads.values())
    layer.zero_grad()
    (layer(x).square().mean() + prior_penalty(layer, Prior(**PRECISIONS)) / 10).backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, atol=0.05, rtol=0.05)


def test_autocast_leaves_no_more_than_one_rounding_of_the_projection():
    """Projected in bfloat16, the merged weight would be off by several roundings; in float32 it is off by one."""
    rep = (3 * Vector + 2 * Scalar + T(2))(groups.SO(3))
    layer = SoftLinear(rep, rep, constraint="hard")
    x = torch.eye(rep.size)
    with torch.autocast("cpu", torch.bfloat16):
        columns = layer(x) - layer(torch.zeros_like(x))
    # Each output is one weight plus a bias, rounded: at most an ulp of the sum on either side.
    error = (columns.float() - layer.weight.T).abs()
    assert (error <= 2**-7 * (layer.weight.T.abs() + layer.bias.abs()) + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("parametrization", FORMS)
def test_narrow_dtypes_run_and_train(parametrization, dtype):
    layer = SoftLinear(REP_IN, REP_OUT, parametrization=parametrization).to(dtype)
    x = torch.randn(6, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    wide = copy.deepcopy(layer).float()
    torch.testing.assert_close(y.float(), wide(x.float()), atol=0.02, rtol=0.02)
    (y.float().square().sum() + prior_penalty(layer, Prior()).float()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) and p.grad.dtype == dtype for p in layer.parameters())


def test_float64_by_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        layer = SoftLinear(REP_IN, REP_OUT, constraint="hard")
        assert layer.weight.dtype == torch.float64
        assert float(equivariance_errors(layer, REP_IN, REP_OUT).max()) < 1e-12
    finally:
        torch.set_default_dtype(torch.float32)


START_REPS = {
    "O(3)": ((30 * Scalar + 20 * Vector + 5 * T(2))(groups.O(3)), (40 * Scalar + 30 * Vector + 8 * T(2))(groups.O(3))),
    "SL(3)": ((20 * Scalar + 10 * Vector)(groups.SL(3)), (20 * Scalar + 30 * Vector)(groups.SL(3))),
    "Permutation(5)": ((20 * Vector)(groups.Permutation(5)), (20 * Vector + 4 * T(2))(groups.Permutation(5))),
}


@pytest.mark.parametrize("name", START_REPS)
@pytest.mark.parametrize("parametrization", FORMS)
@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
def test_the_output_variance_starts_as_that_of_a_dense_layer(name, parametrization, constraint):
    """1/3 for unit inputs, in every output type that anything maps into."""
    rep_in, rep_out = START_REPS[name]
    x = torch.randn(400, rep_in.size, generator=torch.Generator().manual_seed(1))
    layer = SoftLinear(rep_in, rep_out, constraint=constraint, parametrization=parametrization, bias=False)
    dense = nn.Linear(rep_in.size, rep_out.size, bias=False)
    start = 0
    for word, multiplicity in rep_out.terms:
        stop = start + multiplicity * rep_out.group.d ** len(word)
        ours, theirs = (f(x)[:, start:stop].detach().var() for f in (layer, dense))
        assert float(theirs) == pytest.approx(1 / 3, rel=0.15)
        assert float(ours) == pytest.approx(1 / 3, rel=0.3), word
        start = stop


@pytest.mark.parametrize("parametrization", FORMS)
def test_a_soft_layer_starts_at_its_hard_twin(parametrization):
    rep_in, rep_out = START_REPS["O(3)"]
    soft = SoftLinear(rep_in, rep_out, parametrization=parametrization)
    hard = soft.hardened()
    x = torch.randn(100, rep_in.size, generator=torch.Generator().manual_seed(1))
    difference = float(((soft(x) - hard(x)).norm() / hard(x).norm()).detach())
    assert 0 < difference < 0.01
    assert 0 < soft.weight_defect() < 0.01


def test_the_unconstrained_layer_starts_as_nn_linear_does():
    """The same law: uniform within 1 / sqrt(in), weight and bias."""
    rep_in, rep_out = START_REPS["O(3)"]
    layer = SoftLinear(rep_in, rep_out, constraint="none")
    dense = nn.Linear(rep_in.size, rep_out.size)
    bound = rep_in.size**-0.5
    for ours, theirs in ((layer.weight, dense.weight), (layer.bias, dense.bias)):
        assert float(ours.abs().max()) <= bound
        assert float(ours.std() / theirs.std()) == pytest.approx(1, abs=0.1)
        fractions = torch.stack([p.detach().flatten().histc(4, -bound, bound) / p.numel() for p in (ours, theirs)])
        assert (fractions - 0.25).abs().max() < 0.09


def test_every_pathway_receives_a_gradient_at_the_start():
    rep_in, rep_out = START_REPS["SL(3)"]
    layer = SoftLinear(rep_in, rep_out)
    layer(torch.ones(3, rep_in.size)).sin().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in layer.parameters())


def test_types_that_nothing_maps_into_start_at_zero_and_stay_finite():
    group = groups.SO(3)
    hard = SoftLinear(Scalar(group), (Vector + Scalar)(group), constraint="hard", bias=False)
    y = hard(torch.ones(2, 1))
    assert y[:, :3].abs().max() == 0
    assert (y[:, 3] != 0).all()
