"""The soft gate against its definition, tensor by tensor."""

import pytest
import torch

from softeq import Rep, Scalar, SofteqValueError, SoftGated, T, Vector, assert_equivariant, gated, groups
from softeq.reps import Pseudoscalar
from softeq.testing import equivariance_errors

DOUBLE = {"dtype": torch.float64}
REPS = {
    "O(3)": (2 * Scalar + 2 * Vector + T(2))(groups.O(3)),
    "types apart": (Vector + Scalar + Vector + 2 * Scalar)(groups.SO(3)),
    "no scalars": (2 * Vector)(groups.SO(3)),
    "scalars alone": (3 * Scalar)(groups.SO(3)),
    "SL(3)": (Vector + Vector.dual + T(1, 1) + Scalar)(groups.SL(3)),
    "Lorentz": (Vector + Scalar)(groups.Lorentz()),
    "Z(4)": (2 * Vector + T(2) + Scalar)(groups.Z(4)),
    "Permutation(3), signs": (Vector + 2 * Pseudoscalar + Pseudoscalar * Vector + T(2))(groups.Permutation(3)),
    "Cube": (Scalar + Vector)(groups.Cube()),
    "particles": (Vector.of(1) * Vector.of(0) + 2 * Vector.of(1) + Scalar)(
        groups.separate(groups.SO(2), groups.Permutation(3))
    ),
}


def has_own_gates(rep, word):
    """Whether the group's generators permute the entries of this type, seen from the matrices."""
    one = Rep([(word, 1)], rep.group)
    if len(rep.group.lie_algebra) and float(one.drho(rep.group.lie_algebra).abs().max()) > 0:
        return False
    matrices = one.rho(rep.group.discrete_generators)
    return bool(((matrices == 0) | (matrices == 1)).all())


@pytest.fixture(params=REPS)
def rep(request):
    return REPS[request.param]


def swish(v):
    return v / (1 + torch.exp(-v))


def definition(rep, x, w):
    """One tensor after the other: gate g_k for the k-th tensor that needs one; permuted entries pass through swish."""
    words = [word for word, multiplicity in rep.terms for _ in range(multiplicity)]
    gates = iter(x[: sum(1 for word in words if not has_own_gates(rep, word))])
    v = x[len(x) - rep.size :]
    outputs, start = [], 0
    for word in words:
        stop = start + Rep([(word, 1)], rep.group).size
        tensor = v[start:stop]
        outputs.append(swish(tensor) if has_own_gates(rep, word) else tensor / (1 + torch.exp(-next(gates))))
        start = stop
    return torch.cat(outputs) + w * swish(v)


def inputs_for(rep, n=5):
    return torch.randn(n, gated(rep).size, generator=torch.Generator().manual_seed(0), **DOUBLE)


def with_weight(layer, seed=0):
    (w,) = layer.pathways["residual"].parameters()
    torch.nn.init.normal_(w, generator=torch.Generator().manual_seed(seed))
    return layer, w.detach()


def test_forward_is_the_definition(rep):
    layer, w = with_weight(SoftGated(rep).double())
    x = inputs_for(rep)
    torch.testing.assert_close(layer(x), torch.stack([definition(rep, one, w) for one in x]), atol=1e-12, rtol=1e-9)
    hard = SoftGated(rep, constraint="hard")
    torch.testing.assert_close(hard(x), torch.stack([definition(rep, one, 0 * w) for one in x]), atol=1e-12, rtol=1e-9)
    assert list(hard.parameters()) == []


def test_hard_is_equivariant_and_soft_is_not(rep):
    assert_equivariant(SoftGated(rep, constraint="hard"), gated(rep), rep, tolerance=1e-9)
    layer, _ = with_weight(SoftGated(rep).double())
    error = float(equivariance_errors(layer, gated(rep), rep).max())
    if all(not word for word, _ in rep.terms):
        assert error < 1e-9, "scalars do not move"
    else:
        assert error > 1e-3


def test_the_starts(rep):
    x = inputs_for(rep).float()
    soft, hard, free = (SoftGated(rep, constraint=c) for c in ("soft", "hard", "none"))
    assert 0 < float((soft(x) - hard(x)).norm() / hard(x).norm()) < 0.01
    torch.testing.assert_close(free(x), torch.nn.functional.silu(x[:, gated(rep).size - rep.size :]))
    assert soft.pathways["residual"].weight.shape == (rep.size,)


def test_gated_adds_a_gate_per_tensor_that_needs_one(rep):
    tensors = sum(m for word, m in rep.terms if not has_own_gates(rep, word))
    assert gated(rep).size == rep.size + tensors
    assert gated(rep).group == rep.group
    assert (
        gated(rep)
        .rho(rep.group.sample(1, torch.Generator().manual_seed(0))[0])[:tensors, :tensors]
        .equal(torch.eye(tensors, **DOUBLE))
    )


def test_derivatives(rep):
    layer, _ = with_weight(SoftGated(rep).double())
    x = inputs_for(rep, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(layer, x)
    (w,) = layer.parameters()
    names = [name for name, _ in layer.named_parameters()]
    function = lambda w: torch.func.functional_call(layer, {names[0]: w}, (x.detach(),))
    assert torch.autograd.gradcheck(function, w.detach().clone().requires_grad_())


def test_vmap_over_samples(rep):
    layer, _ = with_weight(SoftGated(rep).double())
    x = inputs_for(rep)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))


def test_large_inputs_stay_finite():
    rep = REPS["O(3)"]
    layer, _ = with_weight(SoftGated(rep).double())
    x = (1e4 * inputs_for(rep)).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(gradient).all()


def test_an_unbound_representation_is_refused():
    with pytest.raises(SofteqValueError, match="not bound to a group"):
        SoftGated(Vector)
