"""Whether a basis has all invariant tensors, told without solving for them again."""

from __future__ import annotations

import torch
from torch import Tensor

from softeq._averaging import elements_of, rank_by_characters
from softeq._constraints import Constraints
from softeq._subspace import Deflated, filtered_null_space, largest_eigenvalue
from softeq.errors import SofteqError

_MATRIX_LIMIT = 1024
_GAP = 1e-9
_BLOCK = 4


def is_complete(constraints: Constraints, basis: Tensor) -> bool:
    """Whether orthonormal invariant tensors ``(rank, n)`` span all invariants.

    A finite group: by the mean of its characters. Else, with ``C`` the constraints and ``B`` the basis, whether
    ``C^T C + B^T B`` has no null vector: by a Cholesky factorisation, or for more than 1,024 entries by subspace
    iteration with four vectors.
    """
    elements = elements_of(constraints.axes)
    if elements is not None:
        return rank_by_characters(elements) == len(basis)
    if constraints.n <= _MATRIX_LIMIT:
        gram = constraints.gram(torch.eye(constraints.n, dtype=torch.float64))
        size = max(1e-300, float(gram.diagonal().max()))
        gram = gram / size + basis.T @ basis
        gram.diagonal().sub_(_GAP)
        return int(torch.linalg.cholesky_ex((gram + gram.T) / 2).info) == 0
    upper = largest_eigenvalue(constraints)
    try:
        left = filtered_null_space(Deflated(constraints, basis, upper), 1.1 * upper, _BLOCK)
    except SofteqError:
        return False
    return left is not None and len(left) == 0
