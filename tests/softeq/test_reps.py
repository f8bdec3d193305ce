"""Representations: homomorphisms, their derivatives, duals and products; an algebra of sums that keeps order."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softeq import Rep, Scalar, SofteqTypeError, SofteqValueError, T, Vector, groups
from softeq.reps import V, check_same_group

TIGHT = {"atol": 1e-9, "rtol": 1e-9}
WORDS = st.lists(st.sampled_from([V, V.dual]), max_size=3).map(tuple)


def everything(group):
    """A representation with every kind of type: scalar, vector, dual, matrices of both kinds."""
    return (Scalar + 2 * Vector + Vector.dual + T(1, 1) + Vector.dual * Vector)(group)


def test_rho_is_a_homomorphism(group, rng):
    rep = everything(group)
    g, h = group.sample(6, rng), group.sample(6, rng)
    torch.testing.assert_close(rep.rho(g @ h), rep.rho(g) @ rep.rho(h), **TIGHT)
    eye = torch.eye(group.d, dtype=torch.float64)
    torch.testing.assert_close(rep.rho(eye), torch.eye(rep.size, dtype=torch.float64), **TIGHT)


def derivative(f, step=1e-3):
    """Five-point difference of f at 0: the error is of order step^4."""
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)


def test_drho_is_the_derivative_of_rho(group, rng):
    rep = everything(group)
    free = torch.randn(2, group.d, group.d, generator=rng, dtype=torch.float64)
    for A in torch.cat([group.lie_algebra, free / 2]):
        numeric = derivative(lambda t, A=A: rep.rho(torch.linalg.matrix_exp(t * A)))
        torch.testing.assert_close(rep.drho(A), numeric, atol=1e-8, rtol=1e-8)


def test_drho_is_linear_and_keeps_brackets(group, rng):
    rep = everything(group)
    A, B = torch.randn(2, group.d, group.d, generator=rng, dtype=torch.float64)
    dA, dB = rep.drho(A), rep.drho(B)
    torch.testing.assert_close(rep.drho(2 * A - B), 2 * dA - dB, **TIGHT)
    torch.testing.assert_close(rep.drho(A @ B - B @ A), dA @ dB - dB @ dA, **TIGHT)


def test_the_pairing_with_the_dual_is_invariant(group, rng):
    rep = everything(group)
    g = group.sample(6, rng)
    x, y = torch.randn(2, 6, rep.size, 1, generator=rng, dtype=torch.float64)
    moved = (rep.dual.rho(g) @ y).mT @ (rep.rho(g) @ x)
    torch.testing.assert_close(moved, y.mT @ x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(rep.dual.drho(g), -rep.drho(g).mT, **TIGHT)


@settings(max_examples=30, deadline=None)
@given(WORDS, WORDS, st.sampled_from(["SL(2)", "SO(2)", "SOpq(1,1)"]))
def test_a_product_of_types_is_the_kronecker_product(first, second, name):
    group = {"SL(2)": groups.SL(2), "SO(2)": groups.SO(2), "SOpq(1,1)": groups.SOpq(1, 1)}[name]
    one, two = Rep([(first, 1)], group), Rep([(second, 1)], group)
    g = group.sample(1, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close((one * two).rho(g), torch.kron(one.rho(g), two.rho(g)), **TIGHT)
    assert (one * two).size == one.size * two.size
    assert (one * two).dual == one.dual * two.dual
    assert one.dual.dual == one


def test_rho_of_a_sum_is_block_diagonal_in_the_order_written(rng):
    group = groups.SL(2)
    rep = (Vector + 2 * Scalar + Vector.dual)(group)
    g = group.sample(1, rng)[0]
    blocks = torch.block_diag(g, torch.eye(2, dtype=torch.float64), torch.linalg.inv(g).T)
    torch.testing.assert_close(rep.rho(g), blocks, **TIGHT)
    torch.testing.assert_close((2 * (Vector + Scalar))(group).rho(g), torch.block_diag(*[g, torch.ones(1, 1)] * 2))


def test_tensors_are_row_major(rng):
    """T(1, 1) moves as X -> g X g^-1 when its four coordinates are read as a matrix."""
    group = groups.SL(3)
    g = group.sample(1, rng)[0]
    X = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    moved = T(1, 1)(group).rho(g) @ X.flatten()
    torch.testing.assert_close(moved.view(3, 3), g @ X @ torch.linalg.inv(g), **TIGHT)


def test_batches_and_dtypes_pass_through():
    rep = (Vector + T(0, 2))(groups.SO(3))
    g = groups.SO(3).sample(6, torch.Generator().manual_seed(0)).float().view(2, 3, 3, 3)
    for matrix in (rep.rho(g), rep.drho(g)):
        assert matrix.shape == (2, 3, 12, 12)
        assert matrix.dtype == torch.float32
    assert Scalar(groups.SO(3)).drho(g).abs().max() == 0


def test_rho_is_differentiable():
    rep = (Vector + Vector.dual)(groups.SL(2))
    g = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rep.rho, g)


SIZES = {
    "Scalar": (Scalar, 1),
    "Vector": (Vector, 3),
    "T(3)": (T(3), 27),
    "T(1, 2)": (T(1, 2), 27),
    "sum": (5 * Scalar + 5 * Vector, 20),
    "product of sums": ((Scalar + Vector) * (Scalar + Vector), 16),
    "zero times": (0 * Vector, 0),
    "three times a sum": ((Scalar + Vector) * 3, 12),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    rep, size = SIZES[name]
    assert rep(groups.SO(3)).size == size


def test_aliases_agree():
    assert T(0) == Scalar
    assert T(1) == Vector
    assert T(0, 1) == Vector.dual
    assert T(2) == Vector * Vector
    assert T(1, 1) == Vector * Vector.dual
    assert 3 * Vector == Vector * 3 == Vector + Vector + Vector
    assert Vector + Scalar != Scalar + Vector
    assert hash(T(2)) == hash(Vector * Vector)
    assert Vector(groups.SO(3)) != Vector(groups.O(3))
    assert Vector(groups.SO(3)) != Vector
    assert Vector != "Vector"


def test_a_bound_part_binds_the_whole():
    group = groups.SO(3)
    assert (Vector(group) + Scalar).group == group
    assert (Scalar * Vector(group)).group == group
    assert (2 * Vector(group)).dual.group == group
    assert Vector(group)(groups.SO(3)) == Vector(group)
    assert copy.deepcopy(Vector(group)) == Vector(group)


NAMES = {
    "Scalar": Scalar,
    "Vector": Vector,
    "T(2)": T(2),
    "T(1, 2)": T(1, 2),
    "T(0, 1)": Vector.dual,
    "V* x V": Vector.dual * Vector,
    "5*Scalar + 2*T(2)": 5 * Scalar + 2 * T(2),
    "(Vector)(SO(3))": Vector(groups.SO(3)),
    "0": 0 * Vector,
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert repr(NAMES[name]) == name


BAD = {
    "unbound size": (lambda: Vector.size, "not bound to a group"),
    "unbound rho": (lambda: Vector.rho(torch.eye(3)), "not bound to a group"),
    "unbound drho": (lambda: Vector.drho(torch.eye(3)), "not bound to a group"),
    "bound twice": (lambda: Vector(groups.SO(3))(groups.O(3)), r"rep\(G\)"),
    "sum of two groups": (lambda: Vector(groups.SO(3)) + Vector(groups.O(3)), "different groups"),
    "product of two groups": (lambda: Vector(groups.SO(3)) * Vector(groups.O(3)), "different groups"),
    "negative p": (lambda: T(-1), "p = -1"),
    "negative q": (lambda: T(1, -2), "q = -2"),
    "float p": (lambda: T(1.5), "p = 1.5"),
    "boolean q": (lambda: T(1, True), "q = True"),
    "negative multiplicity": (lambda: -1 * Vector, "multiplicity"),
    "g of another size": (lambda: Vector(groups.SO(3)).rho(torch.eye(2)), "g: expected shape"),
    "A of another size": (lambda: Vector(groups.SO(3)).drho(torch.eye(4)), "A: expected shape"),
    "g not square": (lambda: Vector(groups.SO(3)).rho(torch.zeros(3)), "g: expected shape"),
    "empty rep_in": (lambda: check_same_group((0 * Vector)(groups.SO(3)), Vector(groups.SO(3))), "rep_in"),
    "unbound rep_out": (lambda: check_same_group(Vector(groups.SO(3)), Vector), "not bound"),
    "two groups": (lambda: check_same_group(Vector(groups.SO(3)), Vector(groups.O(3))), "rep_in.*rep_out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_by_name(case):
    call, message = BAD[case]
    with pytest.raises(SofteqValueError, match=message):
        call()


def test_wrong_types_are_refused_by_name():
    with pytest.raises(SofteqTypeError, match="expected a Group"):
        Vector("SO(3)")
    with pytest.raises(SofteqTypeError, match="rep_out: expected a Rep"):
        check_same_group(Vector(groups.SO(3)), 3)
    with pytest.raises(TypeError):
        Vector + 1.5
    with pytest.raises(TypeError):
        Vector + True
    with pytest.raises(TypeError):
        Vector * 1.5
