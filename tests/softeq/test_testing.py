"""The checker itself: it fails on what must fail, passes what is right, and refuses what it cannot judge."""

import pytest
import torch
from torch import nn

from softeq import Scalar, SofteqTypeError, SofteqValueError, SoftLinear, T, Vector, assert_equivariant, groups
from softeq.testing import TOLERANCES, equivariance_errors

SO3, O3, SL2 = groups.SO(3), groups.O(3), groups.SL(2)
V, S = Vector(SO3), Scalar(SO3)


def cross(x):
    return torch.linalg.cross(x[:, :3], x[:, 3:])


RIGHT = {
    "identity": (lambda x: x, V, V),
    "norm": (lambda x: x.norm(dim=1, keepdim=True), V, S),
    "radial": (lambda x: x * x.norm(dim=1, keepdim=True).sin(), V, V),
    "outer product": (lambda x: torch.einsum("ni,nj->nij", x, x).flatten(1), V, T(2)(SO3)),
    "cross product under rotations": (cross, 2 * V, V),
    "determinant under SL(2)": (
        lambda x: (x[:, 0] * x[:, 3] - x[:, 1] * x[:, 2])[:, None],
        (2 * Vector)(SL2),
        Scalar(SL2),
    ),
    "pairing with the dual": (
        lambda x: (x[:, :2] * x[:, 2:]).sum(1, keepdim=True),
        (Vector + Vector.dual)(SL2),
        Scalar(SL2),
    ),
    "maximum under permutations": (
        lambda x: x.amax(1, keepdim=True),
        Vector(groups.Permutation(4)),
        Scalar(groups.Permutation(4)),
    ),
    "zero": (torch.zeros_like, V, V),
    "constant scalar": (lambda x: torch.ones(len(x), 1), V, S),
}
WRONG = {
    "one coordinate": (lambda x: x[:, :1], V, S),
    "shift": (lambda x: x + torch.tensor([1.0, 0.0, 0.0]), V, V),
    "ReLU": (torch.relu, V, V),
    "constant vector": (torch.ones_like, V, V),
    "cross product under reflections": (cross, (2 * Vector)(O3), Vector(O3)),
    "transposed action": (lambda x: x, Vector(SL2), Vector.dual(SL2)),
    "norm under SL(2)": (lambda x: x.norm(dim=1, keepdim=True), Vector(SL2), Scalar(SL2)),
    "a part in a thousand": (lambda x: x + 1e-3 * x.roll(1, 1), V, V),
    "a millionth": (lambda x: x + 1e-6 * x.flip(1), V, V),
    "wrong for large inputs alone": (lambda x: torch.where(x.norm(dim=1, keepdim=True) > 2, x.abs(), x), V, V),
    "first coordinate's sign": (lambda x: x * x[:, :1].sign(), V, V),
    "sorted": (lambda x: x.sort(1).values, Vector(groups.Permutation(4)), Vector(groups.Permutation(4))),
    "right under shifts alone": (lambda x: x.roll(1, 1), Vector(groups.Permutation(4)), Vector(groups.Permutation(4))),
    "depends on the batch": (lambda x: x * x.sum(), V, V),
    "soft layer with a residual": (
        lambda x: x @ torch.arange(9.0, dtype=torch.float64).view(3, 3),
        V,
        V,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_equivariant_functions_pass(name):
    assert_equivariant(*RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_other_functions_fail(name):
    with pytest.raises(AssertionError, match="not equivariant under"):
        assert_equivariant(*WRONG[name])


def test_right_under_shifts_passes_under_shifts():
    shift = lambda x: x.roll(1, 1)
    assert_equivariant(shift, Vector(groups.Z(4)), Vector(groups.Z(4)))


def test_the_message_names_the_group_the_error_and_the_tolerance():
    with pytest.raises(
        AssertionError, match=r"under SO\(3\): relative error up to \d\.\d+e.* 16 random.*tolerance 1e-09"
    ):
        assert_equivariant(*WRONG["ReLU"])


@pytest.mark.parametrize("size", [1e-8, 1e-3, 0.1])
def test_the_errors_are_relative_to_the_output_and_as_large_as_they_are(size):
    """f = x + size |x| u with a fixed unit vector u: the error is size |g u - u| / |f|, to first order."""
    u = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    for unit in (1.0, 1e-150, 1e150):
        function = lambda x, unit=unit: unit * (x + size * x.norm(dim=1, keepdim=True) * u)
        errors = equivariance_errors(function, V, V, samples=400)
        assert errors.shape == (400,)
        # E |g u - u| = 4/3 for a uniform rotation.
        assert float(errors.mean()) == pytest.approx(4 / 3 * size, rel=0.1)


def test_where_both_are_zero_the_error_is_zero():
    errors = equivariance_errors(torch.zeros_like, V, V)
    assert errors.tolist() == [0.0] * 16


def test_seeds_repeat_and_differ():
    runs = [equivariance_errors(torch.relu, V, V, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_it_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    assert_equivariant(*RIGHT["radial"])
    assert torch.equal(before, torch.get_rng_state())


class Probe(nn.Module):
    """Notes what it is called with."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.seen = []

    def forward(self, x):
        self.seen.append((x.dtype, torch.is_grad_enabled()))
        return self.weight * x


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_a_module_is_tested_in_its_own_dtype_and_without_gradients(dtype):
    probe = Probe(dtype)
    assert_equivariant(probe, V, V)
    assert set(probe.seen) == {(dtype, False)}


def test_a_dtype_may_be_asked_for():
    seen = []

    def function(x):
        seen.append(x.dtype)
        return x

    assert_equivariant(function, V, V)
    assert_equivariant(function, V, V, dtype=torch.float32)
    assert set(seen) == {torch.float64, torch.float32}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_tolerance_of_each_dtype_passes_hard_layers_and_fails_broken_ones(dtype):
    rep = (2 * Vector + Scalar + T(2))(SO3)
    layer = SoftLinear(rep, rep, constraint="hard", bias=False).to(dtype)
    assert_equivariant(layer, rep, rep)
    weight, breaking = (
        layer.weight.detach(),
        torch.randn(rep.size, rep.size, generator=torch.Generator().manual_seed(0)),
    )
    broken = weight + (weight.norm() / breaking.norm() * 30 * TOLERANCES[dtype] * breaking).to(dtype)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(lambda x: x @ broken.T, rep, rep, dtype=dtype)


def test_tolerances_are_ordered_by_precision():
    assert TOLERANCES[torch.float64] == 1e-9
    assert (
        TOLERANCES[torch.float64] < TOLERANCES[torch.float32] < TOLERANCES[torch.float16] < TOLERANCES[torch.bfloat16]
    )


def test_the_tolerance_may_be_given():
    nearly = WRONG["a part in a thousand"]
    assert_equivariant(*nearly, tolerance=0.01)
    with pytest.raises(AssertionError):
        assert_equivariant(*nearly, tolerance=1e-4)
    with pytest.raises(AssertionError):
        assert_equivariant(*nearly, tolerance=float("nan"))


REFUSED = {
    "NaN": (lambda x: x * float("nan"), V, V, "function: expected finite outputs"),
    "one NaN": (lambda x: torch.where(x == x.max(), float("nan"), x), V, V, "function: expected finite outputs"),
    "inf": (lambda x: x / 0, V, V, "function: expected finite outputs"),
    "too wide": (lambda x: torch.cat([x, x], 1), V, V, r"function: expected outputs of shape \(n, 3\), got \(16, 6\)"),
    "no batch axis": (lambda x: x.sum(0), V, V, "function: expected outputs of shape"),
    "an axis too many": (lambda x: x[..., None], V, V, "function: expected outputs of shape"),
    "scalar without its axis": (lambda x: x.norm(dim=1), V, S, "function: expected outputs of shape"),
    "two groups": (lambda x: x, V, Vector(O3), "rep_in.*rep_out"),
    "unbound": (lambda x: x, Vector, V, "not bound"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_judged_is_refused(case):
    function, rep_in, rep_out, message = REFUSED[case]
    with pytest.raises(SofteqValueError, match=message):
        assert_equivariant(function, rep_in, rep_out)


def test_bad_options_are_refused_by_name():
    with pytest.raises(SofteqValueError, match="dtype: expected one of"):
        assert_equivariant(lambda x: x, V, V, dtype=torch.int64)
    with pytest.raises(SofteqValueError, match="expected at least 1"):
        assert_equivariant(lambda x: x, V, V, samples=0)
    with pytest.raises(SofteqTypeError, match="rep_in"):
        assert_equivariant(lambda x: x, 3, V)
