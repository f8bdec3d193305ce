"""Equivariant bases and projectors: complete, orthonormal, equivariant; block structure against the dense twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softeq import (
    Rep,
    Scalar,
    SofteqTypeError,
    SofteqValueError,
    T,
    Vector,
    equivariant_basis,
    equivariant_projector,
    groups,
)
from softeq.reps import V

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 0}

PAIRS = {
    "Vector-Vector": (Vector, Vector),
    "Vector-dual": (Vector, Vector.dual),
    "T(1,1)-T(1,1)": (T(1, 1), T(1, 1)),
    "T(2)-Scalar": (T(2), Scalar),
    "ungrouped": (Vector + Scalar + Vector, Scalar + Vector.dual + Vector),
    "V x V* to 2V + T(2)": (Vector.dual * Vector, 2 * Vector + T(2)),
}


@pytest.fixture(params=PAIRS)
def pair(request, group):
    rep_in, rep_out = PAIRS[request.param]
    return rep_in(group), rep_out(group)


def violation(rep_in, rep_out, basis):
    """The largest entry of the constraints on a basis, from the generators and the representations alone."""
    group = rep_in.group
    actions = [(rep_out.drho(A), rep_in.drho(A)) for A in group.lie_algebra]
    actions += [(rep_out.rho(h), rep_in.rho(h)) for h in group.discrete_generators]
    return max((float((out @ basis - basis @ inn).abs().max()) for out, inn in actions), default=0.0)


def dense_projection(basis, weight):
    return torch.einsum("kij,k->ij", basis, torch.einsum("kij,ij->k", basis, weight))


def test_the_basis_is_orthonormal_equivariant_and_matches_the_projector(pair, rng):
    rep_in, rep_out = pair
    basis = equivariant_basis(rep_in, rep_out)
    projector = equivariant_projector(rep_in, rep_out).double()
    assert basis.shape == (projector.rank, rep_out.size, rep_in.size)
    assert basis.dtype == torch.float64
    weight = torch.randn(rep_out.size, rep_in.size, generator=rng, **DOUBLE)
    projected = projector(weight)
    torch.testing.assert_close(projected, dense_projection(basis, weight), **TIGHT)
    if not len(basis):
        assert projected.abs().max() == 0
        return
    gram = torch.einsum("kij,lij->kl", basis, basis)
    torch.testing.assert_close(gram, torch.eye(len(basis), **DOUBLE), atol=1e-12, rtol=0)
    assert violation(rep_in, rep_out, basis) < 1e-10
    g = rep_in.group.sample(8, rng)
    left, right = rep_out.rho(g) @ projected, projected @ rep_in.rho(g)
    torch.testing.assert_close(left, right, atol=1e-9 * max(1.0, float(left.abs().max())), rtol=0)


RANKS = {
    "O(3): T(2) -> T(2)": (groups.O(3), T(2), T(2), 3),
    "Permutation(4): T(2) -> T(2)": (groups.Permutation(4), T(2), T(2), 15),
    "Permutation(6): T(2) -> T(2)": (groups.Permutation(6), T(2), T(2), 15),
    "Permutation(5): Vector -> Vector": (groups.Permutation(5), Vector, Vector, 2),
    "SO(3): T(3) -> T(3)": (groups.SO(3), T(3), T(3), 15),
    "Lorentz: T(2) -> T(2)": (groups.Lorentz(), T(2), T(2), 3),
    "SL(3): Vector -> Vector": (groups.SL(3), Vector, Vector, 1),
    "SL(3): T(3) -> Scalar": (groups.SL(3), T(3), Scalar, 1),
    "SL(3): Vector -> dual": (groups.SL(3), Vector, Vector.dual, 0),
    "SL(3): T(2) -> dual": (groups.SL(3), T(2), Vector.dual, 1),
    "O(3): Vector -> Scalar": (groups.O(3), Vector, Scalar, 0),
    "O(3): Vector -> dual": (groups.O(3), Vector, Vector.dual, 1),
    "SO(3): T(2) -> Vector": (groups.SO(3), T(2), Vector, 1),
    "multiplicities multiply": (groups.O(3), 2 * Vector + 3 * Scalar, 5 * Vector + 4 * Scalar, 22),
    "Trivial: everything": (groups.Trivial(2), T(2), Vector, 8),
    "product": (groups.SO(3) * groups.Permutation(4), Vector, Vector, 2),
}


@pytest.mark.parametrize("case", RANKS)
def test_ranks_that_theory_gives(case):
    group, rep_in, rep_out, rank = RANKS[case]
    assert equivariant_projector(rep_in(group), rep_out(group)).rank == rank
    assert len(equivariant_basis(rep_in(group), rep_out(group))) == rank


MANY = ["SO(3)", "SL(3)", "SOpq(1,1)", "Permutation(3)", "O2eR3", "Z(2) x SO(2)"]
MAKE = {
    "SO(3)": groups.SO(3),
    "SL(3)": groups.SL(3),
    "SOpq(1,1)": groups.SOpq(1, 1),
    "Permutation(3)": groups.Permutation(3),
    "O2eR3": groups.O2eR3(),
    "Z(2) x SO(2)": groups.Z(2) * groups.SO(2),
}
TERMS = st.lists(
    st.tuples(st.lists(st.sampled_from([V, V.dual]), max_size=2).map(tuple), st.integers(1, 3)), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MANY), TERMS, TERMS, st.integers(0, 2**31))
def test_the_projector_is_the_orthogonal_projector_on_any_sum(name, terms_in, terms_out, seed):
    rep_in, rep_out = Rep(terms_in, MAKE[name]), Rep(terms_out, MAKE[name])
    projector = equivariant_projector(rep_in, rep_out).double()
    rng = torch.Generator().manual_seed(seed)
    A, B = torch.randn(2, rep_out.size, rep_in.size, generator=rng, **DOUBLE)
    PA, PB = projector(A), projector(B)
    torch.testing.assert_close(projector(PA), PA, **TIGHT)
    torch.testing.assert_close((PA * B).sum(), (A * PB).sum(), atol=1e-8, rtol=0)
    torch.testing.assert_close(projector(2 * A - B), 2 * PA - PB, **TIGHT)
    assert violation(rep_in, rep_out, PA) < 1e-9
    # The trace of a projector is its rank: nothing equivariant is lost.
    if rep_out.size * rep_in.size <= 400:
        units = torch.eye(A.numel(), **DOUBLE).view(-1, *A.shape)
        trace = sum(float((projector(unit) * unit).sum()) for unit in units)
        assert trace == pytest.approx(projector.rank, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(TERMS, TERMS, st.integers(0, 2**31))
def test_the_projection_is_the_mean_of_the_orbit_under_a_finite_group(terms_in, terms_out, seed):
    """P(W) = mean over g of rho_out(g)^-1 W rho_in(g) for an orthogonal group: an independent definition."""
    group = groups.Dihedral(3)
    rep_in, rep_out = Rep(terms_in, group), Rep(terms_out, group)
    turn, flip = group.discrete_generators
    elements = torch.stack([torch.linalg.matrix_power(turn, k) @ h for k in range(3) for h in (flip, flip @ flip)])
    W = torch.randn(rep_out.size, rep_in.size, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    mean = (rep_out.rho(elements).mT @ W @ rep_in.rho(elements)).mean(0)
    torch.testing.assert_close(equivariant_projector(rep_in, rep_out).double()(W), mean, **TIGHT)


def test_with_its_complement_the_projector_spans_all_maps(rng):
    """What it leaves of a weight is orthogonal to every equivariant map: hard + residual is everything, once."""
    rep = (Vector + Scalar + Vector)(groups.SO(3))
    basis, projector = equivariant_basis(rep, rep), equivariant_projector(rep, rep).double()
    W = torch.randn(rep.size, rep.size, generator=rng, **DOUBLE)
    rest = W - projector(W)
    torch.testing.assert_close(torch.einsum("kij,ij->k", basis, rest), torch.zeros(len(basis), **DOUBLE), **TIGHT)
    units = torch.eye(rep.size**2, **DOUBLE).view(-1, rep.size, rep.size)
    complement = torch.stack([(unit - projector(unit)).flatten() for unit in units])
    whole = torch.cat([basis.flatten(1), complement])
    assert torch.linalg.matrix_rank(complement) == rep.size**2 - len(basis)
    assert torch.linalg.matrix_rank(whole) == rep.size**2


def test_the_iterative_solver_gives_the_same_projector(fresh_cache, monkeypatch, rng):
    from softeq import _cache as cache
    from softeq import _invariants as invariants

    rep_in, rep_out = (T(2) + Vector)(groups.SO(3)), (T(2) + T(1, 1))(groups.SO(3))
    W = torch.randn(rep_out.size, rep_in.size, generator=rng, **DOUBLE)
    dense = equivariant_projector(rep_in, rep_out).double()(W)
    cache.clear_memory_cache()
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    monkeypatch.setattr(invariants, "DENSE_LIMIT", 1)
    torch.testing.assert_close(equivariant_projector(rep_in, rep_out).double()(W), dense, **TIGHT)


def test_base_is_added(rng):
    rep = (Vector + Scalar)(groups.SO(3))
    projector = equivariant_projector(rep, rep).double()
    base, W = torch.randn(2, rep.size, rep.size, generator=rng, **DOUBLE)
    kept = base.clone()
    torch.testing.assert_close(projector(W, base), base + projector(W), **TIGHT)
    torch.testing.assert_close(base, kept, atol=0, rtol=0)
    none = equivariant_projector(Scalar(groups.SO(3)), Vector(groups.SO(3)))
    assert none.rank == 0
    torch.testing.assert_close(none(torch.ones(3, 1), torch.full((3, 1), 2.0)), torch.full((3, 1), 2.0))
    torch.testing.assert_close(none(torch.ones(3, 1)), torch.zeros(3, 1))


def test_a_weight_need_not_be_contiguous(rng):
    rep = (Vector + Scalar)(groups.SO(3))
    projector = equivariant_projector(rep, rep).double()
    W = torch.randn(rep.size, rep.size, generator=rng, **DOUBLE)
    torch.testing.assert_close(projector(W.T), projector(W.T.contiguous()), atol=0, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1e3), st.floats(0, 1e3), st.integers(0, 2**31))
def test_the_split_squared_norm_is_that_of_the_parts(inside, outside, seed):
    rep_in, rep_out = (Vector + Scalar + T(2))(groups.SO(3)), (Vector + T(2) + Vector)(groups.SO(3))
    projector = equivariant_projector(rep_in, rep_out).double()
    W = torch.randn(rep_out.size, rep_in.size, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    P = projector(W)
    split = projector.split_squared_norm(W, inside, outside)
    assert split.shape == ()
    expected = inside * P.square().sum() + outside * (W - P).square().sum()
    torch.testing.assert_close(split, expected, atol=1e-9, rtol=1e-12)


def test_derivatives_agree_with_differences(rng):
    rep_in, rep_out = (Vector + Scalar)(groups.SL(2)), (Vector.dual + T(1, 1))(groups.SL(2))
    projector = equivariant_projector(rep_in, rep_out).double()
    W, base = torch.randn(2, rep_out.size, rep_in.size, generator=rng, **DOUBLE).requires_grad_()
    for f, inputs in (
        (projector, (W,)),
        (projector, (W, base)),
        (lambda w: projector.split_squared_norm(w, 0.3, 2.0), (W,)),
    ):
        assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, inputs)


def test_it_is_solved_in_float64_and_computed_in_float32_at_least():
    rep = (Vector + T(2))(groups.SO(3))
    projector = equivariant_projector(rep, rep)
    W = torch.randn(rep.size, rep.size, generator=torch.Generator().manual_seed(0), **DOUBLE)
    exact = dense_projection(equivariant_basis(rep, rep), W)
    torch.testing.assert_close(projector(W.float()).double(), exact, atol=1e-5, rtol=0)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = projector.to(dtype)(W.to(dtype))
        assert narrow.dtype == dtype
        expected = dense_projection(equivariant_basis(rep, rep), W.to(dtype).double())
        torch.testing.assert_close(narrow.double(), expected.to(dtype).double(), atol=1e-6, rtol=torch.finfo(dtype).eps)
    # Back from the narrow dtypes nothing is lost: the constants are rounded from float64 each time.
    torch.testing.assert_close(projector.double()(W), exact, atol=1e-12, rtol=0)


def test_it_has_no_parameters_and_no_state():
    projector = equivariant_projector(T(2)(groups.O(3)), T(2)(groups.O(3)))
    assert list(projector.parameters()) == []
    assert projector.state_dict() == {}
    assert "rank=3" in repr(projector)


def test_large_reps_need_no_dense_basis():
    """A dense basis would have 1e4 x 900 x 900 numbers; the blocks have a few hundred."""
    rep = (100 * Scalar + 50 * Vector + 10 * T(2) + 20 * T(3))(groups.O(3))
    projector = equivariant_projector(rep, rep)
    numbers = sum(b.numel() for b in projector.constants.exact.values() if b.dtype.is_floating_point)
    assert numbers > 0
    assert numbers < 100_000
    assert projector.rank > 10_000
    with pytest.raises(SofteqValueError, match="equivariant_projector"):
        equivariant_basis(rep, rep)


BAD = {
    "groups that differ": (Vector(groups.SO(3)), Vector(groups.O(3)), "rep_in.*rep_out"),
    "unbound rep_in": (Vector, Vector(groups.SO(3)), "not bound"),
    "unbound rep_out": (Vector(groups.SO(3)), T(2), "not bound"),
    "empty rep_in": (0 * Vector(groups.SO(3)), Vector(groups.SO(3)), "rep_in"),
    "empty rep_out": (Vector(groups.SO(3)), 0 * Vector(groups.SO(3)), "rep_out"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("solve", [equivariant_basis, equivariant_projector])
def test_bad_representations_are_refused_by_name(case, solve):
    rep_in, rep_out, message = BAD[case]
    with pytest.raises(SofteqValueError, match=message):
        solve(rep_in, rep_out)


def test_what_is_no_representation_is_refused_by_name():
    with pytest.raises(SofteqTypeError, match="rep_in"):
        equivariant_basis("Vector", Vector(groups.SO(3)))


def test_a_weight_of_another_shape_is_refused_by_name():
    projector = equivariant_projector(Vector(groups.SO(3)), (2 * Vector)(groups.SO(3)))
    for f in (projector, projector.split_squared_norm):
        with pytest.raises(SofteqValueError, match=r"weight: expected shape \(6, 3\), got \(3, 6\)"):
            f(torch.zeros(3, 6))
