"""Decompositions of matrices, held against central differences: torch's own derivative is no twin of theirs."""

import pytest
import torch
from torch.nn import functional as F

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward import dual
from softeq.measure.forward.forward_mode import push_forward
from softeq.measure.forward.unruled import by_torch

linalg = torch.linalg


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def real(value):
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def differences(f, x, direction, h=1e-6):
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


def gap(f, x):
    """How far the engine is from central differences, relatively; along a direction that keeps to no symmetry."""

    def of(z):
        return real(f(z))

    direction = noise(*x.shape, seed=2)
    value, (found,) = push_forward(of, x, direction[None])
    wanted = differences(of, x, direction)
    torch.testing.assert_close(value, of(x))
    return float((found - wanted).abs().max() / wanted.abs().max())


SQUARE = noise(2, 4, 4) + 5 * torch.eye(4)
POSITIVE = SQUARE @ SQUARE.mT
COMPLEX = noise(4, 4, dtype=torch.complex128)


def hermitian(x):
    y = x * COMPLEX
    return y @ y.mH + torch.eye(4)


READ_IN_PART = {
    **{f"cholesky {up}": lambda x, up=up: linalg.cholesky(x, upper=up) for up in (False, True)},
    **{f"cholesky inverse {up}": lambda x, up=up: torch.cholesky_inverse(x, upper=up) for up in (False, True)},
    **{f"cholesky solve {up}": lambda x, up=up: torch.cholesky_solve(SQUARE, x, upper=up) for up in (False, True)},
    **{f"eigenvalues {part}": lambda x, part=part: linalg.eigvalsh(x, UPLO=part) for part in "LU"},
    **{f"eigenvectors {part}": lambda x, part=part: linalg.eigh(x, UPLO=part)[1].abs() for part in "LU"},
    "hermitian pseudoinverse": lambda x: linalg.pinv(x, hermitian=True),
}
OTHERS = {
    "solve triangular": lambda x: linalg.solve_triangular(x, SQUARE, upper=True),
    "eigenvectors of no symmetry": lambda x: linalg.eig(x[0])[1],
    "pseudoinverse": linalg.pinv,
    "pseudoinverse by tolerances that move": lambda x: linalg.pinv(x, rtol=1e-3 * (1 + x.mean().abs())),
    "singular vectors": lambda x: linalg.svd(x)[0].abs(),
    "reduced singular vectors": lambda x: linalg.svd(x[..., :3], full_matrices=False)[0].abs(),
    "singular values, complex": lambda x: linalg.svdvals(x[0] * COMPLEX),
    "cholesky, complex": lambda x: linalg.cholesky(hermitian(x)),
    "cholesky, complex and not quite hermitian": lambda x: linalg.cholesky(hermitian(x) + 0.1 * COMPLEX * x),
    "cholesky inverse, complex": lambda x: torch.cholesky_inverse(linalg.cholesky(hermitian(x))),
    "eigenvalues, complex": lambda x: linalg.eigvalsh(hermitian(x)),
    "pseudoinverse, complex": lambda x: linalg.pinv(x[0] * COMPLEX),
    "silu, complex": lambda x: F.silu(x[0] * COMPLEX),
}


@pytest.mark.parametrize("name", READ_IN_PART)
def test_what_reads_one_triangle_is_differentiated_there(name):
    assert gap(READ_IN_PART[name], POSITIVE) < 1e-6


@pytest.mark.parametrize("name", READ_IN_PART)
def test_control_torch_differentiates_another_function(name, monkeypatch):
    for key in list(dual.RULES):
        if key is not None and any(word in str(key) for word in ("cholesky", "eigh", "pinv")):
            monkeypatch.setitem(dual.RULES, key, by_torch)
    assert gap(READ_IN_PART[name], POSITIVE) > 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_others(name):
    assert gap(OTHERS[name], SQUARE) < 1e-6


def turns():
    return noise(1, 4, 4)  # two of its eigenvalues are a complex pair


def test_complex_eigenvectors_have_the_phase_that_they_are_returned_with(monkeypatch):
    assert linalg.eigvals(turns()).imag.abs().max() > 0.1
    assert gap(lambda x: linalg.eig(x)[1], turns()) < 1e-6
    monkeypatch.setitem(dual.RULES, torch.ops.aten.linalg_eig, by_torch)
    assert gap(lambda x: linalg.eig(x)[1], turns()) > 1e-3


REFUSED = {
    "phases": (lambda x: real(linalg.eigh(hermitian(x))[1]), "_linalg_eigh, which leaves phases"),
    "phases of singular vectors": (lambda x: real(linalg.svd(x[0] * COMPLEX)[0]), "_linalg_svd, which leaves phases"),
    "a free basis": (lambda x: linalg.svd(x[..., :3])[0], "_linalg_svd, which leaves phases or rotations"),
    "cut off": (lambda x: linalg.pinv(x, rtol=0.9), "linalg_pinv, which cuts off singular values"),
    "not positive": (lambda x: linalg.cholesky_ex(x - 9 * torch.eye(4))[0], "the matrix is not positive definite"),
    "diagonal": (lambda x: real(torch.cholesky_inverse(x[0] * COMPLEX)), "whose diagonal is not real"),
    "deprecated": (lambda x: torch.triangular_solve(x, SQUARE)[0], "use torch.linalg's"),
    "weights of classes": (
        lambda x: F.cross_entropy(x[0], torch.arange(4), weight=x[1, 0].abs(), reduction="none"),
        "no derivative with respect to weights of classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    f, message = REFUSED[name]
    with pytest.raises(NotMeasurable, match=message):
        push_forward(f, SQUARE, noise(1, 2, 4, 4))


@pytest.mark.parametrize("both", [False, True])
def test_a_normal_variable_of_a_fixed_seed_moves_with_its_mean_and_is_refused(both):
    def f(x):
        return torch.normal(x, x.abs() if both else 1.0, generator=torch.Generator().manual_seed(0))

    assert differences(f, SQUARE, noise(2, 4, 4)).abs().max() > 0.1
    with pytest.raises(NotMeasurable, match=r"torch\.normal with a mean or a deviation that moves"):
        push_forward(f, SQUARE, noise(1, 2, 4, 4))


def test_a_zero_without_memory_can_be_joined():
    def f(x):
        solved = linalg.lstsq(x, SQUARE)
        return torch.cat([solved.solution, solved.residuals.expand(2, 4, 0), torch.zeros_like(x)], -1)

    assert gap(f, SQUARE) < 1e-6
