"""The rules for decompositions of matrices, where torch's derivative can be that of another function.

A decomposition of a symmetric or triangular matrix reads one triangle of what it is given; torch differentiates it as
if the other one moved along. Vectors that a decomposition leaves a phase or a rotation free have the derivative of one
choice, and the values of another. Both go unnoticed while the matrix moves as torch supposes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.dual import Dual, at, wrapped
from softeq.measure.forward.rules import named, rules
from softeq.measure.forward.unruled import as_outside, by_torch, refusal

_FREE = "leaves phases or rotations of its vectors free, so that they have no derivative of their own"


def _mapped(x: Any, linear: Callable[[Tensor], Tensor]) -> Any:
    """A linear map of what may be a Dual."""
    with as_outside():
        return wrapped(linear(x.primal), [linear(t) for t in x.tangents]) if isinstance(x, Dual) else linear(x)


def _triangle(x: Any, upper: bool) -> Any:
    return _mapped(x, torch.triu if upper else torch.tril)


def _mirrored(x: Any, upper: bool) -> Any:
    """The Hermitian matrix of which an operation reads one triangle."""

    def mirror(a: Tensor) -> Tensor:
        half = a.triu(1) if upper else a.tril(-1)
        return half + half.mH + torch.diag_embed(a.diagonal(dim1=-2, dim2=-1).real.to(a.dtype))

    return _mapped(x, mirror)


def _complex_diagonal(a: Tensor) -> bool:
    """Whether its diagonal is not real, beyond rounding."""
    imaginary = a.diagonal(dim1=-2, dim2=-1).imag.abs().max()
    return bool(imaginary > torch.finfo(a.real.dtype).eps ** 0.5 * a.abs().max())


@rules("linalg_cholesky_ex")
def _cholesky(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    factor, info = by_torch(func, (_mirrored(args[0], bool(kwargs.get("upper"))),), kwargs)
    if info.any():  # what it then returns depends on what it should not read
        factor = Dual(factor.primal, refusal(func._schema.name, "fails: the matrix is not positive definite"))
    return factor, info


@rules("cholesky_inverse")
def _cholesky_inverse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """-A^-1 dA A^-1 with A = L L^H, or U^H U."""
    given = named(func, args, kwargs)
    factor, upper = _triangle(given["self"], given["upper"]), given["upper"]
    if factor.is_complex() and any(map(_complex_diagonal, (factor.primal, *factor.tangents))):
        raise NotMeasurable(f"f uses {func._schema.name} on a factor whose diagonal is not real")
    with as_outside():
        out = func(factor.primal, upper)
        lower = factor.primal.mH if upper else factor.primal
        halves = [(t.mH if upper else t) @ lower.mH for t in factor.tangents]
        return Dual(out, [-out @ (half + half.mH) @ out for half in halves])


@rules("cholesky_solve")
def _cholesky_solve(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(func, args, kwargs)
    return by_torch(func, (given["self"], _triangle(given["input2"], given["upper"]), given["upper"]), {})


@rules("linalg_matrix_sqrth")
def _square_root(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return by_torch(func, (_mirrored(args[0], upper=False),), {})


@rules("_linalg_eigh")
def _hermitian_eigen(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(func, args, kwargs)
    given["A"] = _mirrored(given["A"], upper=given["UPLO"].upper() == "U")
    numbers, vectors = by_torch(func, (), given)
    if given["compute_v"] and vectors.is_complex():
        vectors = Dual(vectors.primal, refusal(func._schema.name, _FREE))
    return numbers, vectors


@rules("linalg_eig")
def _eigen(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Eigenvectors whose largest entry is real, as LAPACK returns them; torch's derivative is of others."""
    numbers, vectors = by_torch(func, args, kwargs)
    largest = vectors.primal.abs().argmax(-2, keepdim=True)
    entry = vectors.primal.gather(-2, largest)
    if entry.imag.abs().max() > 1e-3 * entry.abs().min():  # another library's choice
        return numbers, Dual(vectors.primal, refusal(func._schema.name, _FREE))
    turned = [t - 1j * vectors.primal * (t.gather(-2, largest) / entry).imag for t in vectors.tangents]
    return numbers, Dual(vectors.primal, turned)


@rules("_linalg_svd")
def _singular(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = named(func, args, kwargs)
    left, numbers, right = by_torch(func, (), given)
    if not given["compute_uv"]:
        return left, numbers, right
    free = refusal(func._schema.name, _FREE)
    rows, columns = given["A"].shape[-2:]
    if left.is_complex() or (given["full_matrices"] and rows > columns):
        left = Dual(left.primal, free)
    if right.is_complex() or (given["full_matrices"] and columns > rows):
        right = Dual(right.primal, free)
    return left, numbers, right


@rules("linalg_pinv")
def _pseudoinverse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = {name: at(value, None) if name != "self" else value for name, value in named(func, args, kwargs).items()}
    matrix, hermitian = given["self"], given["hermitian"]
    if not isinstance(matrix, Dual):  # its tolerances alone move, which are steps
        return func(**given)
    if hermitian:
        given["self"] = matrix = _mirrored(matrix, upper=False)
    rtol = given.get("rtol", given.get("rcond"))
    rank = torch.linalg.matrix_rank(matrix.primal, atol=given.get("atol"), rtol=rtol, hermitian=hermitian)
    if (rank < min(matrix.shape[-2:])).any():
        raise NotMeasurable(
            f"f uses {func._schema.name}, which cuts off singular values here, where torch knows no derivative of it"
        )
    return by_torch(func, (), given)


@rules("triangular_solve")
def _deprecated_solve(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise NotMeasurable("f uses torch.triangular_solve, whose derivative torch takes wrongly; use torch.linalg's")


@rules("nll_loss_forward nll_loss2d_forward")
def _weighted_loss(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(args[2], Dual):
        raise NotMeasurable(f"f uses {func._schema.name}, which has no derivative with respect to weights of classes")
    return by_torch(func, args, kwargs)


@rules("normal")
def _drawn(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise NotMeasurable(
        "f uses torch.normal with a mean or a deviation that moves, which torch takes to be still; "
        "use mean + deviation * torch.randn(...)"
    )
