"""A supervised problem together with the symmetry that is assumed of it and its true answer at new inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.experiments.data.regression import Regression
from softeq.groups import Group
from softeq.reps import Rep, check_same_group


@dataclass(frozen=True)
class Task:
    """What a network is trained on and measured against.

    Args:
        data: inputs ``(N, rep_in.size)`` and targets ``(N, ..., rep_out.size)``.
        rep_in: how inputs move under the assumed group.
        rep_out: how the last axis of targets moves. The assumption may be wrong: that is what experiments are about.
        truth: the true targets at inputs, ``(B, rep_in.size)`` to ``(B, ..., rep_out.size)``, free of noise.

    Raises:
        SofteqValueError: representations of different groups, or of other sizes than the data.
    """

    data: Regression
    rep_in: Rep
    rep_out: Rep
    truth: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_same_group(self.rep_in, self.rep_out)
        sizes = (self.data.x_train.shape[-1], self.data.y_train.shape[-1])
        if (self.rep_in.size, self.rep_out.size) != sizes:
            got = (self.rep_in.size, self.rep_out.size)
            raise SofteqValueError(f"rep_in and rep_out: expected sizes {sizes} as in the data, got {got}")

    @property
    def group(self) -> Group:
        """The assumed group."""
        return self.rep_in.bound_group

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` random elements of the assumed group, ``(n, d, d)`` in the data's dtype and on its device."""
        return self.group.sample(n, generator=generator).to(self.data.x_train)


def act(rep: Rep, g: Tensor, value: Tensor) -> Tensor:
    """Move each row by its own element: ``(B, d, d)`` on ``(B, ..., size)``, along the last axis."""
    rho = rep.rho(g)
    return torch.einsum("bij,b...j->b...i", rho, value)
