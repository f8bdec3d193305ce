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
        squares: sum over vectors and entries of the squared deviation from `mean`.
    """

    count: int
    mean: Tensor
    squares: float

    @classmethod
    def of(cls, vectors: Tensor) -> Spread:
        """Of (B, dim) vectors."""
        wide = vectors.detach().to("cpu", torch.float64)
        mean = wide.mean(0)
        return cls(len(wide), mean, float((wide - mean).square().sum()))

    @property
    def variance(self) -> float:
        """Mean over vectors and entries of the squared deviation; NaN for fewer than two, or where nothing varies."""
        if self.count < 2 or self.squares <= 0:
            return math.nan
        return self.squares / (self.count * max(1, self.mean.numel()))

    def with_(self, other: Spread) -> Spread:
        """Of both sets of vectors (Chan, Golub, LeVeque 1983)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        squares = self.squares + other.squares + float(apart.square().sum()) * self.count * other.count / count
        return Spread(count, self.mean + apart * (other.count / count), squares)


def joined(spreads: Iterable[Spread]) -> Spread | None:
    """Of all of them, None where their vectors are of several sizes, or there are none."""
    whole: Spread | None = None
    for spread in spreads:
        if whole is not None and whole.mean.shape != spread.mean.shape:
            return None
        whole = spread if whole is None else whole.with_(spread)
    return whole
