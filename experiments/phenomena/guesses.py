"""Random draws of small networks under quarter turns, many at once, and gradient descent on as many.

A network is ``f(x) = v . relu(W x)``, with W and v linear in coordinates that have a normal prior: those of the
equivariant maps in an orthonormal basis, and beside them every entry at ``residual`` times their size. A draw fits N
labels where the mean of ``log(1 + exp(-y f / rms f))``, with the root mean square over these N, is below a threshold:
the size of f does not count, as in Chiang et al. ("Loss landscapes are all you need", ICLR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from softeq import Scalar, Vector, equivariant_basis
from softeq.errors import MissingExtraError, SofteqValueError
from softeq.groups import Z

LEAST_LOSS = math.log1p(math.exp(-1))
"""Of labels that are all right with the same margin, .313 nats."""
BATCH = 2000
"""Networks that are drawn at once."""


@dataclass(frozen=True)
class Draws:
    """Coordinates of K networks: lists of ``(K, n)`` with requires_grad where they are trained."""

    equivariant: list[Tensor]
    residual: list[Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        """All of them."""
        return [*self.equivariant, *self.residual]

    @property
    def count(self) -> int:
        """K."""
        return len(self.leaves[0])


class RandomNetworks:
    """The family that is drawn from.

    Args:
        orbits: of pixels under quarter turns: ``4 orbits`` inputs.
        width: vectors of `Z(4)` in the hidden layer.
        constraint: ``"hard"``, ``"soft"`` or ``"none"`` (every entry alike).
        residual: of soft, the size of the residual's entries over that of the equivariant coordinates, above 0.

    Raises:
        SofteqValueError: an unknown constraint or a residual that is not positive.
    """

    def __init__(self, orbits: int, width: int, constraint: str, residual: float = 1.0) -> None:
        if constraint not in ("hard", "soft", "none") or not residual > 0:
            raise SofteqValueError(
                f"constraint, residual: expected hard, soft or none and a size above 0, got {constraint!r}, {residual}"
            )
        group = Z(4)
        reps = (orbits * Vector)(group), (width * Vector)(group), Scalar(group)
        self.shapes = [(4 * width, 4 * orbits), (1, 4 * width)]
        self.bases: list[Tensor] = []
        if constraint != "none":
            pairs = ((reps[0], reps[1]), (reps[1], reps[2]))
            self.bases = [equivariant_basis(*pair).float().flatten(1) for pair in pairs]
        self.residual = {"hard": 0.0, "soft": residual, "none": 1.0}[constraint]

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """``count`` networks from the prior."""
        sizes = [len(basis) for basis in self.bases]
        free = [rows * columns for rows, columns in self.shapes] if self.residual else []
        normal = lambda size: torch.randn(count, size, generator=generator)
        return Draws([normal(n) for n in sizes], [self.residual * normal(n) for n in free])

    def weights(self, draws: Draws) -> list[Tensor]:
        """The merged weights ``(K, out, in)`` of both layers."""
        found = []
        for k, shape in enumerate(self.shapes):
            parts = [draws.equivariant[k] @ self.bases[k]] if self.bases else []
            parts += [draws.residual[k]] if draws.residual else []
            found.append(sum(parts[1:], parts[0]).unflatten(1, shape))
        return found

    def __call__(self, draws: Draws, x: Tensor) -> Tensor:
        """Inputs ``(n, in)`` to values ``(K, n)``."""
        hidden, last = self.weights(draws)
        features = torch.einsum("khi,ni->knh", hidden, x).relu()
        return torch.einsum("knh,kh->kn", features, last[:, 0])


def normalised_loss(values: Tensor, signs: Tensor) -> Tensor:
    """``(K,)``: see the module's text; values ``(K, n)``, labels ``(n,)`` of -1 and 1. Constant zero gives log 2."""
    rms = values.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
    return softplus(-signs * values / rms).mean(1)


def hits(
    family: RandomNetworks,
    x: Tensor,
    signs: Tensor,
    counts: Sequence[int],
    threshold: float,
    draws: int,
    generator: torch.Generator,
) -> Iterator[dict[int, Draws]]:
    """The draws that fit the first N samples, by N, batch by batch; empty ones where none does.

    Args:
        family: drawn from.
        x, signs: the samples.
        counts: values of N.
        threshold: above `LEAST_LOSS`.
        draws: how many.
        generator: of the draws.
    """
    for start in range(0, draws, BATCH):
        drawn = family.draw(min(BATCH, draws - start), generator)
        values = family(drawn, x[: max(counts)])
        yield {n: chosen(drawn, normalised_loss(values[:, :n], signs[:n]) < threshold) for n in counts}


def largest_rate(count: int, draws: int, level: float = 0.95) -> float:
    """The upper bound, one-sided, on a rate of which ``count`` of so many draws are hits (Clopper and Pearson, 1934).

    Without hits it is ``1 - (1 - level)^(1 / draws)``, about 3 over the draws at .95.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.special import betaincinv
    except ImportError as error:
        raise MissingExtraError("bounds on rates need scipy: pip install 'softeq[experiments]'") from error
    return float(betaincinv(count + 1, draws - count, level)) if count < draws else 1.0


def chosen(draws: Draws, which: Tensor) -> Draws:
    """Some of them."""
    return Draws([t[which] for t in draws.equivariant], [t[which] for t in draws.residual])


def descend(
    family: RandomNetworks,
    start: Draws,
    x: Tensor,
    signs: Tensor,
    threshold: float,
    *,
    rate: float,
    steps: int,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Draws, Tensor]:
    """Each network by gradient descent until it fits; where it then stands, and ``(K,)`` whether it came there.

    The gradient is divided by its norm over each network's coordinates, so that networks of any size move alike; those
    that fit stay where they are.

    Args:
        family, threshold: as `hits`.
        x, signs: the samples.
        start: the networks.
        rate: the length of a step over the norm of the network's coordinates at the start.
        steps: at most.
        batch: samples of a step; all by default.
        generator: draws the batches.
    """
    leaves = [t.clone().requires_grad_() for t in start.leaves]
    now = Draws(leaves[: len(start.equivariant)], leaves[len(start.equivariant) :])
    length = rate * _norms(leaves)
    there = torch.zeros(start.count, dtype=torch.bool)
    for _ in range(steps):
        with torch.no_grad():
            there |= normalised_loss(family(now, x), signs) < threshold
        if bool(there.all()):
            break
        rows = torch.arange(len(x)) if batch is None else torch.randperm(len(x), generator=generator)[:batch]
        gradients = torch.autograd.grad(normalised_loss(family(now, x[rows]), signs[rows]).sum(), leaves)
        factor = length * ~there / _norms(gradients).clamp_min(1e-12)
        with torch.no_grad():
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf -= factor[:, None] * gradient
    return Draws([t.detach() for t in now.equivariant], [t.detach() for t in now.residual]), there


def _norms(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """``(K,)``: over all coordinates of each network."""
    return torch.stack([t.detach().square().sum(1) for t in tensors]).sum(0).sqrt()
