"""The variance of a function's output over a set, gathered batch by batch: what "centred" errors are relative to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class Spread:
    """Count, mean and squared deviations of vectors.

    Attributes:
        count: vectors.
        mean: (dim,) float64, of them.
        squares: (dim,) float64, per entry the sum over vectors of the squared deviation from `mean`.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Spread:
        """Of (B, dim) vectors."""
        wide = vectors.detach().to("cpu", torch.float64)
        mean = wide.mean(0)
        return cls(len(wide), mean, (wide - mean).square().sum(0))

    def variance(self, entries: Tensor | None = None) -> float:
        """Mean over vectors and entries of the squared deviation; NaN for fewer than two, or where nothing varies.

        Args:
            entries: (dim,) bool, those to take; None: all.
        """
        squares = self.squares if entries is None else self.squares[entries.cpu()]
        total = float(squares.sum())
        return total / (self.count * max(1, squares.numel())) if self.count > 1 and total > 0 else math.nan

    def with_(self, other: Spread) -> Spread:
        """Of both sets of vectors (Chan, Golub, LeVeque 1983)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart.square() * (self.count * other.count / count)
        return Spread(count, self.mean + apart * (other.count / count), squares)


def joined(spreads: Iterable[Spread]) -> Spread | None:
    """Of all of them, None where their vectors are of several sizes, or there are none."""
    whole: Spread | None = None
    for spread in spreads:
        if whole is not None and whole.mean.shape != spread.mean.shape:
            return None
        whole = spread if whole is None else whole.with_(spread)
    return whole
