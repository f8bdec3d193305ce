"""SoftBilinear against EMLP's definition, written slowly: a weight per sample, read from the input's own tensors."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from softeq import (
    Prior,
    Rep,
    Scalar,
    SoftBilinear,
    SofteqValueError,
    T,
    Vector,
    assert_equivariant,
    groups,
    prior_penalty,
)
from softeq.reps import V
from softeq.testing import equivariance_errors

DOUBLE = {"dtype": torch.float64}
TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def interleaved(group):
    """Types whose copies do not lie together."""
    return (Vector + 2 * Scalar + T(2) + Vector)(group)


REPS = {
    "O(3)": ((2 * Scalar + 2 * Vector + T(2))(groups.O(3)), (2 * Scalar + Vector + T(2))(groups.O(3))),
    "O(2), copies apart": (interleaved(groups.O(2)), (T(2) + Scalar + Vector + Scalar)(groups.O(2))),
    "O(2), many maps": ((6 * T(2) + Vector)(groups.O(2)), (Scalar + 2 * Vector)(groups.O(2))),
    "SL(3), duals": (
        (Scalar + Vector + Vector.dual + T(1, 1) + Vector.dual)(groups.SL(3)),
        (Vector + 2 * Scalar + Vector.dual)(groups.SL(3)),
    ),
    "SL(2), order of indices": (
        (Vector + Vector.dual + T(1, 1) + T(2) + Vector.dual * Vector)(groups.SL(2)),
        (Vector.dual * Vector + T(2) + Scalar + Vector)(groups.SL(2)),
    ),
    "SL(2), three indices": ((T(2, 1) + Vector + T(1, 1))(groups.SL(2)), (T(1, 1) + T(2) + Vector.dual)(groups.SL(2))),
    "Lorentz": ((Vector + Scalar + T(1, 1) + Vector.dual)(groups.Lorentz()), (Vector + Scalar)(groups.Lorentz())),
    "Permutation(3)": ((2 * Vector + T(2))(groups.Permutation(3)), (Vector + Scalar)(groups.Permutation(3))),
}


@pytest.fixture(params=REPS)
def reps(request):
    return REPS[request.param]


def copies_of(rep):
    """Every single tensor of a representation: its word and where it starts, in the order of the coordinates."""
    found, start = [], 0
    for word, multiplicity in rep.terms:
        for _ in range(multiplicity):
            found.append((word, start))
            start += rep.group.d ** len(word)
    return found


def read_map(x, start, word_out, word_in, group):
    """The tensor at ``start`` as a matrix from word_in to word_out, index by index.

    Stored with vector indices first; the map's own indices are those of the output and then the dual of the input's.
    """
    d = group.d
    wanted = word_out + tuple(v.dual for v in word_in)
    letters = (V,) * len(wanted) if group.is_orthogonal else wanted
    stored_axes = [a for a, v in enumerate(letters) if v == V] + [a for a, v in enumerate(letters) if v != V]
    size = d ** len(wanted)
    tensor = x[start : start + size].view([d] * len(wanted))
    matrix = torch.zeros([d] * len(wanted), dtype=x.dtype)
    for index in itertools.product(range(d), repeat=len(wanted)):
        matrix[index] = tensor[tuple(index[a] for a in stored_axes)]
    return matrix.view(d ** len(word_out), d ** len(word_in))


def dense_weights(rep_in, rep_out, x):
    """All per-sample weight matrices with one parameter set to 1: ``(parameters, out, in)`` for one sample x."""
    group = rep_in.group
    canonical = (lambda w: (V,) * len(w)) if group.is_orthogonal else (lambda w: w)
    weights = []
    for word_out, row in copies_of(rep_out):
        for word_in, column in copies_of(rep_in):
            wanted = canonical(word_out + tuple(v.dual for v in word_in))
            stored = tuple(sorted(wanted, key=lambda factor: factor.name))
            sources = [start for word, start in copies_of(rep_in) if canonical(word) == stored and word]
            for start in sources[: group.d ** len(stored)]:
                W = torch.zeros(rep_out.size, rep_in.size, dtype=x.dtype)
                block = read_map(x, start, word_out, word_in, group)
                W[row : row + block.shape[0], column : column + block.shape[1]] = block
                weights.append(W)
    return torch.stack(weights) if weights else torch.zeros(0, rep_out.size, rep_in.size, dtype=x.dtype)


def twin_functions(rep_in, rep_out, x):
    """What each parameter of EMLP's layer multiplies: ``(parameters, n, out)``."""
    return torch.stack([dense_weights(rep_in, rep_out, sample) @ sample for sample in x], 1)


def layer_functions(layer, x):
    """What each parameter of our layer multiplies, by differentiating: ``(parameters, n, out)``."""
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    jacobians = jacrev(lambda p: functional_call(layer, p, (x,)))(parameters)
    flat = [j.flatten(2).permute(2, 0, 1) for j in jacobians.values()]
    return torch.cat(flat)


def hard_layer(reps, **options):
    return SoftBilinear(*reps, constraint="hard", **options).double()


def inputs_for(rep, n=5, seed=1):
    return torch.randn(n, rep.size, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def counts_of(rows, among):
    """For each row, how many of the others equal it."""
    return torch.cdist(rows.flatten(1), among.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").lt(1e-9).sum(1)


def test_each_parameter_multiplies_one_of_emlps_products_and_none_is_missing(reps):
    """The layer is linear in its parameters, so equal sets of functions mean equal layers, in any order of weights."""
    layer, x = hard_layer(reps, scale=1.0), inputs_for(reps[0])
    ours, theirs = layer_functions(layer, x), twin_functions(*reps, x)
    assert ours.shape == theirs.shape
    assert len(ours) > 0
    assert torch.equal(counts_of(ours, theirs), counts_of(ours, ours))
    assert torch.equal(counts_of(theirs, ours), counts_of(theirs, theirs))


def test_the_forward_is_the_sum_of_those_products(reps):
    layer, x = hard_layer(reps), inputs_for(reps[0])
    weights = torch.cat([p.detach().flatten() for p in layer.parameters()])
    torch.testing.assert_close(layer(x), torch.einsum("p,pno->no", weights, layer_functions(layer, x)), **TIGHT)
    torch.testing.assert_close(layer(3 * x), 9 * layer(x), **TIGHT)


def test_the_scale_multiplies_the_output(reps):
    x = inputs_for(reps[0])
    layer = hard_layer(reps, scale=1.0)
    tenth = hard_layer(reps, scale=0.1)
    tenth.load_state_dict(layer.state_dict())
    torch.testing.assert_close(tenth(x), 0.1 * layer(x), **TIGHT)


def test_hard_is_equivariant_and_not_zero(reps):
    layer = hard_layer(reps)
    assert_equivariant(layer, *reps, tolerance=1e-9)
    assert layer(inputs_for(reps[0])).abs().max() > 0.01


def test_soft_is_not_equivariant_once_its_residual_is_at_work(reps):
    layer = SoftBilinear(*reps).double()
    nn.init.normal_(layer.pathways["residual"].weight, generator=torch.Generator().manual_seed(0))
    assert float(equivariance_errors(layer, *reps).max()) > 1e-2
    nn.init.zeros_(layer.pathways["residual"].weight)
    assert_equivariant(layer, *reps, tolerance=1e-9)


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
def test_derivatives(constraint):
    rep_in, rep_out = REPS["O(2), copies apart"]
    layer, x = SoftBilinear(rep_in, rep_out, constraint=constraint, rank=3).double(), inputs_for(rep_in, 2)
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,)).sin().sum()

    inputs = (x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_vmap_over_samples():
    rep_in, rep_out = REPS["SL(3), duals"]
    layer, x = SoftBilinear(rep_in, rep_out).double(), inputs_for(rep_in)
    torch.testing.assert_close(vmap(layer)(x), layer(x), **TIGHT)
    per_sample = vmap(jacrev(lambda one: layer(one)))(x)
    expected = torch.stack([torch.autograd.functional.jacobian(layer, one) for one in x])
    torch.testing.assert_close(per_sample, expected, **TIGHT)


START = (10 * Scalar + 6 * Vector + 4 * T(2))(groups.O(3))


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
def test_the_output_starts_with_variance_one_third_per_type(constraint):
    x = torch.randn(500, START.size, generator=torch.Generator().manual_seed(0))
    y = SoftBilinear(START, START, constraint=constraint)(x).detach()
    start = 0
    for word, multiplicity in START.terms:
        stop = start + multiplicity * 3 ** len(word)
        assert float(y[:, start:stop].var(0).mean()) == pytest.approx(1 / 3, rel=0.4), word
        start = stop


def test_soft_starts_at_its_hard_twin():
    layer = SoftBilinear(START, START)
    x = torch.randn(100, START.size, generator=torch.Generator().manual_seed(0))
    hard = copy.deepcopy(layer).hardened()
    assert 0 < ((layer(x) - hard(x)).norm() / hard(x).norm()).item() < 0.01


def test_the_residual_is_quadratic_and_linear_in_its_parameters():
    rep_in, rep_out = REPS["O(3)"]
    layer, x = SoftBilinear(rep_in, rep_out, constraint="none", rank=5).double(), inputs_for(rep_in)
    torch.testing.assert_close(layer(-2 * x), 4 * layer(x), **TIGHT)
    before = layer(x)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(3.0)
    torch.testing.assert_close(layer(x), 3 * before, **TIGHT)
    assert sum(p.numel() for p in layer.parameters()) == 5 * rep_out.size
    assert torch.linalg.matrix_rank(layer_functions(layer, inputs_for(rep_in, 30)).flatten(1)) == 5 * rep_out.size


def test_two_layers_of_one_shape_share_their_pairs_of_coordinates():
    """They are no part of the state dict, so they must be the same everywhere."""
    first, second = (SoftBilinear(*REPS["O(3)"], constraint="none") for _ in range(2))
    second.load_state_dict(first.state_dict())
    x = inputs_for(REPS["O(3)"][0]).float()
    torch.testing.assert_close(first(x), second(x), atol=0, rtol=0)


NO_BLOCK = {
    "scalars alone": ((3 * Scalar)(groups.O(3)), (2 * Scalar)(groups.O(3))),
    "one output type without maps": ((2 * Scalar + Vector)(groups.O(3)), (T(2) + Scalar)(groups.O(3))),
}


def test_without_any_block_the_equivariant_pathway_is_zero():
    rep_in, rep_out = NO_BLOCK["scalars alone"]
    x = inputs_for(rep_in)
    hard = hard_layer((rep_in, rep_out))
    assert hard(x).shape == (5, 2)
    assert hard(x).abs().max() == 0
    assert list(hard.parameters()) == []
    assert prior_penalty(hard, Prior()).item() == 0
    soft = SoftBilinear(rep_in, rep_out).double()
    torch.testing.assert_close(soft(x), soft.pathways["residual"](x), atol=0, rtol=0)
    assert soft(x).abs().max() > 0


def test_an_output_type_without_maps_is_zero_and_the_others_are_not():
    reps = NO_BLOCK["one output type without maps"]
    y = hard_layer(reps)(inputs_for(reps[0]))
    assert (y != 0).any(0).tolist() == [False] * 9 + [True]


def test_scalars_make_no_maps():
    """A vector takes a scalar to a vector; a scalar that takes a vector to a vector is left out, as in EMLP."""
    (weight,) = hard_layer(((2 * Scalar + Vector)(groups.O(3)), Vector(groups.O(3)))).parameters()
    assert weight.numel() == 2


def test_no_more_maps_are_used_than_their_type_has_dimensions():
    """Six T(2) of O(2) can be maps from Vector to Vector; four of them span all of those."""
    rep_in, rep_out = (6 * T(2) + Vector)(groups.O(2)), Vector(groups.O(2))
    assert sum(p.numel() for p in hard_layer((rep_in, rep_out)).parameters()) == 4


def test_autocast():
    rep_in, rep_out = REPS["O(3)"]
    layer, x = SoftBilinear(rep_in, rep_out), inputs_for(rep_in).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), layer(x), atol=0.1, rtol=0.05)
    y.float().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


SO3 = groups.SO(3)
BAD = {
    "two groups": (lambda: SoftBilinear(Vector(SO3), Vector(groups.O(3))), "rep_in.*rep_out"),
    "unbound": (lambda: SoftBilinear(Vector, Vector(SO3)), "not bound"),
    "empty": (lambda: SoftBilinear(Vector(SO3), Rep([], SO3)), "rep_out"),
    "rank 0": (lambda: SoftBilinear(Vector(SO3), Vector(SO3), rank=0), "rank: expected at least 1, got 0"),
    "negative rank": (lambda: SoftBilinear(Vector(SO3), Vector(SO3), rank=-3), "rank"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case):
    call, message = BAD[case]
    with pytest.raises(SofteqValueError, match=message):
        call()
