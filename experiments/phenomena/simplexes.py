"""Simplexes of weights between two solutions, as large as their loss lets them be (Benton et al., ICML 2021).

Each of two solutions spans a simplex with the same connecting points: segments through one of them, triangles on the
side between two, tetrahedra on the face of three. Nothing joins the solutions directly, so that every way from one to
the other goes through the connecting points. These are found one after another, from the mean of all points so far, by
the loss at random places of the simplexes minus a small multiple of the logarithm of their volume.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.phenomena.paths import Search, Weights


def simplex_log_volume(vertices: Tensor) -> Tensor:
    """The logarithm of the k-dimensional volume of a simplex, 0-d, float64.

    By the Gram determinant of its k edges from one corner: ``V = sqrt(det(E E^T)) / k!``. Where it is flat: -inf, or by
    rounding a large negative number.

    Args:
        vertices: ``(k + 1, D)``, k at least 1.

    Raises:
        SofteqValueError: fewer than two vertices.
    """
    if vertices.ndim != 2 or len(vertices) < 2:
        raise SofteqValueError(f"vertices: expected (k + 1, D) with k from 1, got {tuple(vertices.shape)}")
    edges = (vertices[1:] - vertices[0]).double()
    return torch.linalg.slogdet(edges @ edges.T).logabsdet / 2 - math.lgamma(len(vertices))


def barycentric(count: int, generator: torch.Generator) -> Tensor:
    """Coordinates ``(count,)`` of a place drawn uniformly from a simplex of so many vertices, float64, of sum 1."""
    lengths = torch.empty(count, dtype=torch.float64).exponential_(generator=generator)
    return lengths / lengths.sum()


@dataclass(frozen=True)
class Simplexes:
    """Two simplexes with a common face.

    Args:
        ends: the two solutions.
        connectors: the vertices of the face, at least one.
    """

    ends: tuple[Weights, Weights]
    connectors: tuple[Weights, ...]

    def __post_init__(self) -> None:
        if not self.connectors:
            raise SofteqValueError("connectors: expected at least one connecting point, got none")

    @property
    def _log_volumes(self) -> Tensor:
        face = [_flat(c) for c in self.connectors]
        return torch.stack([simplex_log_volume(torch.stack([_flat(end), *face])) for end in self.ends])

    @property
    def log_volume(self) -> Tensor:
        """Of both together, 0-d, float64."""
        return self._log_volumes.logsumexp(0)

    @property
    def relative_log_volume(self) -> float:
        """The volume over that of a cube whose edge is the distance between the ends, as a logarithm."""
        distance = (_flat(self.ends[0]) - _flat(self.ends[1])).double().norm()
        return float(self.log_volume - len(self.connectors) * distance.log())

    def place(self, generator: torch.Generator) -> Weights:
        """Weights at a place drawn uniformly from both simplexes: from each as often as its share of the volume is.

        Raises:
            SofteqError: both are flat.
        """
        shares = self._log_volumes.detach().softmax(0)
        if not bool(shares.isfinite().all()):
            raise SofteqError("the simplexes have no volume: their vertices lie in fewer dimensions, or two coincide")
        end = self.ends[int(torch.rand((), generator=generator, dtype=torch.float64) >= shares[0])]
        vertices = (end, *self.connectors)
        coordinates = barycentric(len(vertices), generator).tolist()
        return [_weighted(coordinates, parts) for parts in zip(*vertices, strict=True)]

    def edges(self) -> Iterator[tuple[Weights, Weights]]:
        """From each end to each connecting point, and between these."""
        yield from itertools.product(self.ends, self.connectors)
        yield from itertools.combinations(self.connectors, 2)


def spanned(ends: tuple[Weights, Weights], count: int, search: Search, reward: float) -> Simplexes:
    """Simplexes between two solutions with ``count`` connecting points, one found after another.

    Args:
        ends: the solutions; they stay where they are.
        count: at least 1.
        search: how a point is found.
        reward: nats per sample that are given for every e-fold of the volume.

    Raises:
        SofteqValueError: no connecting points, or a reward that is not positive.
        SofteqError: see `Simplexes.place`.
    """
    if count < 1 or not reward > 0:
        raise SofteqValueError(f"count, reward: expected at least 1 and a number above 0, got {count}, {reward}")
    found: tuple[Weights, ...] = ()
    for _ in range(count):
        found = (*found, _next(ends, found, search, reward))
    return Simplexes(ends, found)


def _next(ends: tuple[Weights, Weights], held: tuple[Weights, ...], search: Search, reward: float) -> Weights:
    def through(point: Weights) -> Simplexes:
        return Simplexes(ends, (*held, point))

    return search.found(
        [torch.stack(parts).mean(0) for parts in zip(*ends, *held, strict=True)],
        lambda point: through(point).place(search.generator),
        lambda point: reward * through(point).log_volume,
    )


def _weighted(coordinates: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    return sum((c * v for c, v in zip(coordinates, parts, strict=True)), torch.zeros(()))


def _flat(weights: Weights) -> Tensor:
    return torch.cat([w.flatten() for w in weights])
