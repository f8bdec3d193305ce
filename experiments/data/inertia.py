"""The moment of inertia of five point masses, and a version of it that is only nearly equivariant.

Problem of Finzi, Welling, Wilson (ICML 2021), modified version of Finzi, Benton, Wilson (NeurIPS 2021). An input holds
five masses and then five positions (20 numbers); a target holds the 3 x 3 tensor row by row (9 numbers).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from softeq.errors import SofteqValueError
from softeq.experiments.data.regression import Regression, split

BODIES = 5
SIZE_IN, SIZE_OUT = 4 * BODIES, 9
MODIFICATION = 0.3
"""The size of the term that singles out the z axis in the modified problem."""

_SEED_LIMIT = 2**63


def moment_of_inertia(x: Tensor) -> Tensor:
    """``(..., 20)`` to ``(..., 9)``: sum over the bodies of m (|r|^2 I - r r^T). Equivariant under O(3)."""
    _check_input(x)
    mass = x[..., :BODIES]
    position = x[..., BODIES:].unflatten(-1, (BODIES, 3))
    weighted = mass.unsqueeze(-1) * position
    outer = weighted.mT @ position
    trace = (weighted * position).sum((-2, -1))
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    return (trace[..., None, None] * eye - outer).flatten(-2)


def modified_moment_of_inertia(x: Tensor) -> Tensor:
    """``(..., 20)`` to ``(..., 9)``: Y + 0.3 (Y z) z^T, Y the moment of inertia and z the third unit vector.

    Equivariant under the subgroup of O(3) that maps z to z or -z, and under nothing more of it.
    """
    inertia = moment_of_inertia(x).unflatten(-1, (3, 3))
    # (Y z) z^T is the third column of Y in the third column, and zero elsewhere.
    third = torch.zeros(3, dtype=x.dtype, device=x.device)
    third[2] = MODIFICATION
    return (inertia + inertia[..., 2:] * third).flatten(-2)


def inertia_data(
    seed: int,
    *,
    modified: bool = False,
    sizes: tuple[int, int, int] = (1000, 1000, 1000),
    dtype: torch.dtype | None = None,
) -> Regression:
    """Draw the data of one repetition.

    All numbers are N(0, 1), the masses then through softplus; neither inputs nor targets are standardised.

    Args:
        seed: of the generator, 0 or more; one seed gives one data set whatever ``dtype``.
        modified: with the term that singles out the z axis.
        sizes: rows for training, validation and testing.
        dtype: of the result (float32 by default); drawn and computed in float64.

    Raises:
        SofteqValueError: for a negative seed or sizes below 1.
    """
    if not 0 <= seed < _SEED_LIMIT:
        raise SofteqValueError(f"seed: expected an integer from 0 to 2^63 - 1, got {seed}")
    if min(sizes) < 1:
        raise SofteqValueError(f"sizes: expected at least 1 row in each split, got {sizes}")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), SIZE_IN, generator=generator, dtype=torch.float64)
    x[:, :BODIES] = softplus(x[:, :BODIES])
    y = modified_moment_of_inertia(x) if modified else moment_of_inertia(x)
    return split(x, y, sizes).to(dtype=dtype or torch.float32)


def _check_input(x: Tensor) -> None:
    if x.shape[-1:] != (SIZE_IN,):
        raise SofteqValueError(
            f"x: expected shape (..., {SIZE_IN}), {BODIES} masses and {BODIES} positions, got {tuple(x.shape)}"
        )
