"""Linear layers of a structure that costs less than a dense matrix, with what each costs and the matrix that it equals.

Costs are multiply-adds per sample, half of the floating-point operations, biases left out. Every layer starts with
outputs of the variance that ``nn.Linear`` gives, 1/3 of the mean square input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError


class Structured(nn.Module, ABC):
    """A linear layer with a bias.

    Args:
        inputs, outputs: of the layer, at least 1.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        if min(inputs, outputs) < 1:
            raise SofteqValueError(f"inputs, outputs: expected at least 1, got {inputs}, {outputs}")
        self.in_features, self.out_features = inputs, outputs
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    @abstractmethod
    def multiply_adds(self) -> int:
        """Per sample."""

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, outputs)``, without the bias."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, outputs)``."""
        return self.product(x) + self.bias

    @torch.no_grad()
    def dense(self) -> Tensor:
        """The matrix ``(outputs, inputs)`` that it equals."""
        return self.product(torch.eye(self.in_features, dtype=self.bias.dtype)).T


class Dense(Structured):
    """Any matrix."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight = _normal((outputs, inputs), 1 / (3 * inputs))

    @property
    def multiply_adds(self) -> int:
        """``inputs outputs``."""
        return self.in_features * self.out_features

    def product(self, x: Tensor) -> Tensor:
        """See the class."""
        return x @ self.weight.T


class LowRank(Structured):
    """``U V`` of rank r, a quarter of the smaller side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        rank = max(1, min(inputs, outputs) // 4)
        self.first = _normal((rank, inputs), 1 / inputs)
        self.second = _normal((outputs, rank), 1 / (3 * rank))

    @property
    def multiply_adds(self) -> int:
        """``r (inputs + outputs)``."""
        return len(self.first) * (self.in_features + self.out_features)

    def product(self, x: Tensor) -> Tensor:
        """See the class."""
        return x @ self.first.T @ self.second.T


class Kronecker(Structured):
    """``A x B`` of the factors that are nearest to square roots: one pattern, repeated and mixed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.ins, self.outs = near_root(inputs), near_root(outputs)
        self.first = _normal((self.outs[0], self.ins[0]), 1 / self.ins[0])
        self.second = _normal((self.outs[1], self.ins[1]), 1 / (3 * self.ins[1]))

    @property
    def multiply_adds(self) -> int:
        """``n1 n2 m2 + n1 m2 m1`` of n1 n2 inputs and m1 m2 outputs."""
        (n1, n2), (m1, m2) = self.ins, self.outs
        return n1 * n2 * m2 + n1 * m2 * m1

    def product(self, x: Tensor) -> Tensor:
        """See the class."""
        once = x.unflatten(1, self.ins) @ self.second.T  # (B, n1, m2)
        return (self.first @ once).flatten(1)


class BlockTensorTrain(Structured):
    """Two block-diagonal matrices with a transposition between (Qiu et al., "Compute Better Spent", ICML 2024), rank 1.

    ``y[a, b] = sum_j L[a, b, j] sum_i R[j, a, i] x[i, j]``: a Monarch matrix; every entry of the matrix it equals is a
    product of two numbers, and no pattern is repeated.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.ins, self.outs = near_root(inputs), near_root(outputs)
        (n1, n2), (m1, m2) = self.ins, self.outs
        self.first = _normal((n2, m1, n1), 1 / n1)
        self.second = _normal((m1, m2, n2), 1 / (3 * n2))

    @property
    def multiply_adds(self) -> int:
        """``n2 m1 (n1 + m2)`` of n1 n2 inputs and m1 m2 outputs."""
        (n1, n2), (m1, m2) = self.ins, self.outs
        return n2 * m1 * (n1 + m2)

    def product(self, x: Tensor) -> Tensor:
        """See the class."""
        columns = x.unflatten(1, self.ins).permute(2, 0, 1)  # (n2, B, n1)
        once = columns @ self.first.mT  # (n2, B, m1)
        return (once.permute(2, 1, 0) @ self.second.mT).permute(1, 0, 2).flatten(1)  # (m1, B, m2)


STRUCTURES: dict[str, type[Structured]] = {
    "dense": Dense,
    "low-rank": LowRank,
    "kronecker": Kronecker,
    "block-train": BlockTensorTrain,
}


def near_root(n: int) -> tuple[int, int]:
    """The two factors of n that are nearest to each other, the smaller first."""
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return small, n // small


def width_within(structure: str, inputs: int, classes: int, budget: int, *, multiple: int = 4) -> int:
    """The largest width of two equal hidden layers whose network costs at most ``budget`` multiply-adds.

    Widths are multiples of ``multiple`` squared for structures of two factors, so that these are alike, and of
    ``multiple`` else; the last layer is dense.

    Raises:
        SofteqValueError: an unknown structure, or a budget that no width fits.
    """
    if structure not in STRUCTURES:
        raise SofteqValueError(f"structure: expected one of {', '.join(STRUCTURES)}, got {structure!r}")
    step = multiple**2 if structure in ("kronecker", "block-train") else multiple
    width = step
    while _cost(structure, inputs, classes, width) <= budget:
        width += step
    if width == step:
        least = _cost(structure, inputs, classes, step)
        raise SofteqValueError(f"budget: expected at least {least} multiply-adds for {structure}, got {budget}")
    return width - step


def _cost(structure: str, inputs: int, classes: int, width: int) -> int:
    make = STRUCTURES[structure]
    with torch.device("meta"):
        return make(inputs, width).multiply_adds + make(width, width).multiply_adds + width * classes


def _normal(shape: tuple[int, ...], variance: float) -> nn.Parameter:
    return nn.Parameter(math.sqrt(variance) * torch.randn(shape))
