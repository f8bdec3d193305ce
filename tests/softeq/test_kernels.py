"""The written-out derivatives of projection and penalty against automatic differentiation of the dense formulas."""

import pytest
import torch
import torch.autograd.forward_ad as fwAD

from softeq import (
    Prior,
    Scalar,
    SoftLinear,
    T,
    Vector,
    _kernels,
    equivariant_basis,
    equivariant_projector,
    groups,
    prior_penalty,
    solve,
)
from softeq._blocks import OrbitBasis
from softeq._kernels import contract
from softeq.strength._prox import _block

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}

REPS = {
    "several types": ((Vector + Scalar)(groups.SO(2)), (T(2) + Scalar + Vector)(groups.SO(2))),
    "everything equivariant": (Vector(groups.Trivial(2)), (Vector + Scalar)(groups.Trivial(2))),
    "nothing equivariant": (Scalar(groups.SO(3)), Vector(groups.SO(3))),
    "orbits": ((2 * Vector + Scalar)(groups.Z(3)), (Vector + 2 * Scalar)(groups.Z(3))),
    "orbits with signs": ((Vector + T(3))(groups.Dihedral(4)), (T(2) + Vector)(groups.Dihedral(4))),
    "duals": ((Vector + Scalar + Vector.dual)(groups.SL(2)), (Vector.dual + T(1, 1))(groups.SL(2))),
}


@pytest.fixture(params=REPS)
def case(request, rng, monkeypatch):
    """A projector, its dense twin, and two weights."""
    rep_in, rep_out = REPS[request.param]
    if request.param.startswith("orbits"):
        monkeypatch.setattr(solve, "_DENSE_ORBITS", 0)
    basis = equivariant_basis(rep_in, rep_out)

    def dense(weight):
        return torch.einsum("kij,k->ij", basis, torch.einsum("kij,ij->k", basis, weight))

    weights = torch.randn(2, rep_out.size, rep_in.size, generator=rng, **DOUBLE)
    return equivariant_projector(rep_in, rep_out).double(), dense, weights


def functions(projector, dense):
    """Pairs of a kernel and its dense twin, as functions of (weight, base) to a scalar that is not linear."""
    nonlinear = lambda W: (W**3).sum()
    return {
        "projection": (lambda W, B: nonlinear(projector(W)), lambda W, B: nonlinear(dense(W))),
        "with a base": (lambda W, B: nonlinear(projector(W, B)), lambda W, B: nonlinear(B + dense(W))),
        "split norm": (
            lambda W, B: projector.split_squared_norm(W + B, 0.3, 2.0) ** 2,
            lambda W, B: (0.3 * dense(W + B).square().sum() + 2.0 * (W + B - dense(W + B)).square().sum()) ** 2,
        ),
    }


@pytest.mark.parametrize("name", ["projection", "with a base", "split norm"])
class TestAgainstTheDenseTwin:
    def test_value_and_gradient(self, case, name):
        projector, dense, weights = case
        kernel, twin = functions(projector, dense)[name]
        torch.testing.assert_close(kernel(*weights), twin(*weights), **TIGHT)
        for argument in (0, 1):
            found = torch.func.grad(kernel, argument)(*weights)
            torch.testing.assert_close(found, torch.func.grad(twin, argument)(*weights), **TIGHT)

    def test_forward_mode(self, case, name):
        projector, dense, weights = case
        kernel, twin = functions(projector, dense)[name]
        tangents = tuple(weights.flip(0).sin())
        found = torch.func.jvp(kernel, tuple(weights), tangents)
        torch.testing.assert_close(found, torch.func.jvp(twin, tuple(weights), tangents), **TIGHT)

    @pytest.mark.parametrize("hessian", ["forward over reverse", "reverse over reverse"])
    def test_second_derivative(self, case, name, hessian):
        projector, dense, weights = case
        kernel, twin = functions(projector, dense)[name]
        outer = torch.func.jacfwd if hessian == "forward over reverse" else torch.func.jacrev
        found, expected = (outer(torch.func.grad(f))(*weights) for f in (kernel, twin))
        torch.testing.assert_close(found, expected, **TIGHT)

    def test_batched_weights(self, case, name):
        projector, dense, weights = case
        kernel, twin = functions(projector, dense)[name]
        stacks = [torch.stack([W, 2 * W.cos(), W - 1]) for W in weights]
        torch.testing.assert_close(torch.func.vmap(kernel)(*stacks), torch.func.vmap(twin)(*stacks), **TIGHT)
        found, expected = (torch.func.vmap(torch.func.grad(f))(*stacks) for f in (kernel, twin))
        torch.testing.assert_close(found, expected, **TIGHT)
        one_sided = [torch.func.vmap(f, in_dims=(0, None))(stacks[0], weights[1]) for f in (kernel, twin)]
        torch.testing.assert_close(*one_sided, **TIGHT)

    def test_batched_gradients_without_torch_func(self, case, name):
        projector, dense, weights = case
        kernel, twin = functions(projector, dense)[name]
        found, expected = (
            torch.autograd.functional.hessian(lambda W, f=f: f(W, weights[1]), weights[0], vectorize=True)
            for f in (kernel, twin)
        )
        torch.testing.assert_close(found, expected, **TIGHT)

    def test_numeric_differences(self, case, name):
        projector, dense, weights = case
        kernel, _ = functions(projector, dense)[name]
        inputs = tuple(W.clone().requires_grad_() for W in weights)
        assert torch.autograd.gradcheck(kernel, inputs, check_forward_ad=True, check_batched_grad=True)
        # The Hessian is compared with the twin's above; differences are taken along random directions alone.
        assert torch.autograd.gradgradcheck(kernel, inputs, check_fwd_over_rev=True, fast_mode=True)


def test_gradients_that_are_expanded_or_transposed(case):
    """A sum sends back one number seen as a matrix; a transposed output sends back a transposed gradient."""
    projector, dense, (W, _) = case
    for reduce in (lambda P: P.sum(), lambda P: (P.T @ P.T.sin().T).sum(), lambda P: P[:, :1].exp().sum()):
        found, expected = (
            torch.autograd.grad(reduce(f(W.requires_grad_())), W, materialize_grads=True)[0] for f in (projector, dense)
        )
        torch.testing.assert_close(found, expected, **TIGHT)
        assert torch.isfinite(found).all()


def test_inputs_and_incoming_gradients_are_left_alone(case):
    projector, _, (W, B) = case
    W, B = W.clone().requires_grad_(), B.clone().requires_grad_()
    before, incoming = (W.detach().clone(), B.detach().clone()), torch.randn_like(W)
    sent = incoming.clone()
    projector(W, B).backward(sent)
    projector.split_squared_norm(W, 0.5, 2.0).backward()
    torch.testing.assert_close((W.detach(), B.detach(), sent), (*before, incoming), atol=0, rtol=0)
    torch.testing.assert_close(B.grad, incoming, atol=0, rtol=0)


def test_gradients_accumulate_over_two_backward_passes(case):
    projector, dense, (W, B) = case
    W.requires_grad_()
    for f in (projector, projector):
        f(W, B).square().sum().backward()
    (once,) = torch.autograd.grad((B + dense(W)).square().sum(), W)
    torch.testing.assert_close(W.grad, 2 * once, **TIGHT)


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
def test_the_penalty_agrees_with_plain_automatic_differentiation(constraint):
    layer = SoftLinear((Vector + Scalar)(groups.SO(2)), (2 * Vector)(groups.SO(2)), constraint=constraint).double()
    prior = Prior(equivariant=0.2, residual=3.0)
    precision = {"equivariant": 0.2, "residual": 3.0}
    expected = sum(
        0.5 * precision[name] * p.square().sum() for name, path in layer.pathways.items() for p in path.parameters()
    )
    parameters = list(layer.parameters())
    penalty = prior_penalty(layer, prior)
    torch.testing.assert_close(penalty, expected, **TIGHT)
    found = torch.autograd.grad(penalty, parameters)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameters), **TIGHT)


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_steps_have_the_values_and_gradients_of_eager_ones(parametrization, backend):
    """Loss and penalty in one graph: a backend that skips a backward pass shows in the gradients alone."""
    group = groups.SO(3)
    layer = SoftLinear(
        (2 * Scalar + Vector)(group), (T(2) + Scalar)(group), parametrization=parametrization
    ).double()  # fmt: skip
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0), **DOUBLE)
    prior = Prior(equivariant=0.1, residual=0.7)

    def step(x):
        return layer(x).square().mean() + prior_penalty(layer, prior) / 100

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend)
    results = []
    for f in (step, compiled):
        layer.zero_grad()
        value = f(x.clone().requires_grad_())
        value.backward()
        results.append([value.detach(), *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(results[0], results[1], **TIGHT)
    assert all(bool((g != 0).any()) for g in results[1])


class TestContraction:
    """``sum_k a[p, k] b[q, k]`` per row, against einsum."""

    def arguments(self, rng, rows=4):
        return torch.randn(3, 2, rows, generator=rng, **DOUBLE), torch.randn(5, 2, rows, generator=rng, **DOUBLE)

    def twin(self, a, b):
        return torch.einsum("pkn,qkn->pqn", a, b)

    def test_value_and_derivatives(self, rng):
        a, b = self.arguments(rng)
        torch.testing.assert_close(contract(a, b), self.twin(a, b), **TIGHT)
        inputs = (a.requires_grad_(), b.requires_grad_())
        assert torch.autograd.gradcheck(contract, inputs, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(contract, inputs, check_fwd_over_rev=True)

    @pytest.mark.parametrize("fits", [0, 1 << 17])
    @pytest.mark.parametrize("terms", [1, 2, 7])
    def test_both_ways_where_nothing_is_recorded(self, rng, monkeypatch, terms, fits):
        monkeypatch.setattr(_kernels, "_FITS", fits)
        a, b, da, db = (torch.randn(size, terms, 4, generator=rng, **DOUBLE) for size in (3, 5, 3, 5))
        with torch.no_grad(), fwAD.dual_level():
            torch.testing.assert_close(contract(a, b), self.twin(a, b), **TIGHT)
            dual = contract(fwAD.make_dual(a, da), fwAD.make_dual(b, db))
            torch.testing.assert_close(fwAD.unpack_dual(dual).tangent, self.twin(da, b) + self.twin(a, db), **TIGHT)
            torch.testing.assert_close(
                torch.func.vmap(contract)(torch.stack([a, da]), torch.stack([b, db])),
                torch.stack([self.twin(a, b), self.twin(da, db)]),
                **TIGHT,
            )

    @pytest.mark.parametrize("in_dims", [(0, 0), (None, 1), (2, None)])
    def test_mapped(self, rng, in_dims):
        a, b = (
            x if at is None else torch.stack([x, x.sin(), 2 * x], at)
            for x, at in zip(self.arguments(rng), in_dims, strict=True)
        )
        found, expected = (torch.func.vmap(f, in_dims=in_dims)(a, b) for f in (contract, self.twin))
        torch.testing.assert_close(found, expected, **TIGHT)

    def test_two_dtypes_give_the_wider_and_no_rows_give_none(self, rng):
        a, b = self.arguments(rng)
        assert contract(a, b.float()).dtype == torch.float64
        assert contract(a[..., :0], b[..., :0]).shape == (3, 5, 0)


def test_the_proximal_map_of_orbits_is_that_of_their_dense_twin(rng):
    """Seven entries, three tensors that share none, two entries that no tensor touches."""
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 0])
    weights = torch.tensor([0.6, -0.5, 0.0, 1.0, 0.75**0.5, 0.8, 0.0], **DOUBLE)
    orbits = OrbitBasis(labels, weights, 3)
    dense = torch.zeros(7, 3, **DOUBLE)
    dense[torch.arange(7), labels] = weights
    torch.testing.assert_close(dense.T @ dense, torch.eye(3, **DOUBLE))
    g, z = torch.rand(2, 4, 7, generator=rng, **DOUBLE) + 0.1
    torch.testing.assert_close(_block(g, z, orbits, 3.0, 0.2), _block(g, z, dense, 3.0, 0.2))
    torch.testing.assert_close(orbits.coefficients(z), z @ dense)
    torch.testing.assert_close(orbits.expanded(z[:, :3]), z[:, :3] @ dense.T)


def test_the_orbit_form_is_taken_where_a_matrix_would_be_large():
    rep = Vector(groups.Z(80))
    projector = equivariant_projector(rep, rep)
    assert projector.rank == 80
    assert sum(t.numel() for t in projector.constants.exact.values()) < 80 * 80 * 4


def test_weighted_squares_and_their_derivatives():
    from softeq._kernels import weighted_squares

    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (5,), (2, 1, 3))]
    factors = (0.5, 0.0, 3.0)

    def plain(*given):
        return sum(factor * one.square().sum() for factor, one in zip(factors, given, strict=True))

    torch.testing.assert_close(weighted_squares(factors, tensors), plain(*tensors))
    assert torch.autograd.gradcheck(lambda *t: weighted_squares(factors, t), tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *t: weighted_squares(factors, t), tensors)
    stacked = [torch.stack([t.detach(), 2 * t.detach()]) for t in tensors]
    found = torch.vmap(lambda *t: weighted_squares(factors, t))(*stacked)
    torch.testing.assert_close(found, torch.stack([plain(*tensors), 4 * plain(*tensors)]).detach())
    mixed = [tensors[0], tensors[1].float()]
    torch.testing.assert_close(
        weighted_squares((1.0, 2.0), mixed), mixed[0].square().sum() + 2 * mixed[1].square().sum()
    )


def test_the_bias_by_its_own_basis_is_the_projectors():
    layer = SoftLinear(*[(2 * Scalar + Vector + 2 * T(2))(groups.O(3))] * 2).double()
    bias, base = torch.randn(2, layer.out_features, dtype=torch.float64)
    assert layer._bias_basis is not None
    expected = layer.bias_projector(bias[:, None])[:, 0]
    torch.testing.assert_close(layer._project_bias(bias), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer._project_bias(bias, base), base + expected, atol=1e-12, rtol=0)
    layer._bias_basis = None  # as of a large one
    torch.testing.assert_close(layer._project_bias(bias, base), base + expected, atol=1e-12, rtol=0)
