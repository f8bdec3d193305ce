"""SWAG: a Gaussian through the iterates of SGD at a constant rate (Maddox et al., NeurIPS 2019).

Mean and diagonal variance of the iterates, and the deviations of the last K from the running mean:
``w = mean + diag(variance)^(1/2) z_1 / sqrt 2 + D z_2 / sqrt(2 (K - 1))``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softeq.errors import SofteqValueError


class Swag:
    """The moments of a sequence of vectors ``(D,)``.

    Args:
        rank: K, how many deviations are kept, at least 2.

    Raises:
        SofteqValueError: a rank below 2.
    """

    def __init__(self, rank: int) -> None:
        if rank < 2:
            raise SofteqValueError(f"rank: expected at least 2, got {rank}")
        self.rank, self.n = rank, 0
        self.mean = self.squares = torch.zeros(())
        self.deviations: list[Tensor] = []

    def take(self, vector: Tensor) -> None:
        """Count one more iterate."""
        vector = vector.detach().double()
        self.n += 1
        self.mean = self.mean + (vector - self.mean) / self.n
        self.squares = self.squares + (vector.square() - self.squares) / self.n
        self.deviations = [*self.deviations, vector - self.mean][-self.rank :]

    @property
    def variance(self) -> Tensor:
        """Of each coordinate over the iterates, ``(D,)``, never below 0."""
        return (self.squares - self.mean.square()).clamp(min=0)

    def sample(self, generator: torch.Generator) -> Tensor:
        """A draw ``(D,)``, float64.

        Raises:
            SofteqValueError: fewer than two iterates were taken.
        """
        if self.n < 2:
            raise SofteqValueError(f"take: expected two iterates or more before a draw, got {self.n}")
        k = len(self.deviations)
        alone = torch.randn(self.mean.shape, generator=generator, dtype=torch.float64)
        shared = torch.randn(k, generator=generator, dtype=torch.float64)
        spread = self.variance.sqrt() * alone / math.sqrt(2)
        return self.mean + spread + torch.stack(self.deviations).T @ shared / math.sqrt(2 * (k - 1))
