"""Paths between networks: Bezier curves through weights, trained to have a low loss, and what is measured along them.

Weights are those that layers merge to: a list of ``(weight, bias)`` per layer, so that a hard network, a soft one and a
free one are points of one space, and the hard ones a subspace of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from softeq import SoftLinear
from softeq.errors import SofteqValueError
from softeq.prior import soft_layers

Weights = list[Tensor]
"""Of every layer its weight ``(out, in)`` and its bias ``(out,)``, one after the other."""


def merged(model: nn.Module) -> Weights:
    """The weights of a network of `SoftLinear` with biases, layer by layer, as copies.

    Raises:
        SofteqValueError: another kind of soft layer, or one without bias.
    """
    found: Weights = []
    for name, layer in soft_layers(model):
        if not isinstance(layer, SoftLinear) or layer.bias is None:
            raise SofteqValueError(
                f"model: expected layers of SoftLinear with biases, got {type(layer).__name__} {name}"
            )
        found += [layer.weight.detach().clone(), layer.bias.detach().clone()]
    return found


def outputs(weights: Weights, x: Tensor) -> Tensor:
    """Inputs ``(B, in)`` through the layers, with ReLUs between: ``(B, classes)``."""
    for k in range(0, len(weights), 2):
        x = linear(x.relu() if k else x, weights[k], weights[k + 1])
    return x


def bezier(ends: tuple[Weights, Weights], bend: Weights, t: float) -> Weights:
    """``(1 - t)^2 a + 2 t (1 - t) bend + t^2 b`` (Garipov et al., NeurIPS 2018), t in [0, 1]."""
    return [(1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b for a, c, b in zip(ends[0], bend, ends[1], strict=True)]


def middle(ends: tuple[Weights, Weights]) -> Weights:
    """The bend that makes the curve the straight line."""
    return [(a + b) / 2 for a, b in zip(*ends, strict=True)]


def off(weights: Weights, project: Callable[[Weights], Weights]) -> Tensor:
    """The squared norm of what is not equivariant, 0-d; ``project`` gives the nearest equivariant weights."""
    return sum(((w - p).square().sum() for w, p in zip(weights, project(weights), strict=True)), torch.zeros(()))


def projection(model: nn.Module) -> Callable[[Weights], Weights]:
    """Onto the weights that are equivariant, layer by layer; of a soft or hard network of `SoftLinear`."""
    layers = [layer for _, layer in soft_layers(model) if isinstance(layer, SoftLinear)]

    def project(weights: Weights) -> Weights:
        found: Weights = []
        for k, layer in enumerate(layers):
            found.append(layer.projector(weights[2 * k]))
            bias = weights[2 * k + 1]
            found.append(bias if layer.bias_projector is None else layer.bias_projector(bias[:, None])[:, 0])
        return found

    return project


def defect(weights: Weights, project: Callable[[Weights], Weights]) -> float:
    """``||w - P w|| / ||w||`` of all weights together, in [0, 1]."""
    whole = sum(float(w.double().square().sum()) for w in weights)
    return math.sqrt(float(off([w.double() for w in weights], project)) / whole) if whole else 0.0


@dataclass(frozen=True)
class Search:
    """How free points of a path are found: by Adam on the loss at a random place for each batch, under a prior.

    Args:
        loss: of weights on some rows of the training samples, 0-d, a mean.
        samples: how many there are.
        steps, rate, batch: of Adam, for each point.
        generator: draws batches and places.
        project: see `projection`; needed where there is a precision.
        precision: of the prior on what is not equivariant, in nats for the whole data set; infinite to keep the points
            equivariant.
        on_step: called after each step.

    Raises:
        SofteqValueError: a precision without a projection.
    """

    loss: Callable[[Weights, Tensor], Tensor]
    samples: int
    steps: int
    rate: float
    batch: int
    generator: torch.Generator
    project: Callable[[Weights], Weights] | None = None
    precision: float = 0.0
    on_step: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if self.precision and self.project is None:
            raise SofteqValueError("project: expected a projection, as there is a precision")

    def found(self, start: Weights, at: Callable[[Weights], Weights], reward: Callable[[Weights], Tensor]) -> Weights:
        """The point that is best from a start.

        Args:
            start: of the free point.
            at: the weights at a random place of the path through a point.
            reward: what the path is worth beside its loss, in nats per sample, 0-d.
        """
        # Not `training.loop`: what moves is a point's weights and no network's, and places are drawn between batches.
        point = [w.clone().requires_grad_() for w in start]
        optimizer = torch.optim.Adam(point, lr=self.rate)
        for _ in range(self.steps):
            rows = torch.randperm(self.samples, generator=self.generator)[: self.batch]
            weights = at(point)
            loss = self.loss(weights, rows) - reward(point)
            if self.project is not None and 0 < self.precision < math.inf:
                loss = loss + self.precision / 2 * off(weights, self.project) / self.samples
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if self.project is not None and self.precision == math.inf:
                with torch.no_grad():
                    for w, p in zip(point, self.project(point), strict=True):
                        w.copy_(p)
            self.on_step()
        return [w.detach() for w in point]


def bent(ends: tuple[Weights, Weights], search: Search) -> Weights:
    """The bend of the curve between two ends that a search found from the straight line."""

    def at(bend: Weights) -> Weights:
        return bezier(ends, bend, float(torch.rand((), generator=search.generator)))

    return search.found(middle(ends), at, lambda bend: torch.zeros(()))


@torch.no_grad()
def along(curve: Callable[[float], Weights], measure: Callable[[Weights], float], places: int) -> list[float]:
    """A number at equally spaced places of a curve, both ends included."""
    return [measure(curve(k / (places - 1))) for k in range(places)]


def barrier(values: Sequence[float]) -> float:
    """How far the largest value on a path is above the line between those at its ends; at least 0."""
    last = len(values) - 1
    return max(v - (values[0] + (values[-1] - values[0]) * k / last) for k, v in enumerate(values))


@torch.no_grad()
def sharpness(
    weights: Weights, measure: Callable[[Weights], float], size: float, generator: torch.Generator, draws: int = 10
) -> float:
    """The mean rise of a number where each weight is changed, in a random direction, by ``size`` times its norm."""
    still, risen = measure(weights), []
    for _ in range(draws):
        moved = []
        for w in weights:
            noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
            moved.append(w + size * w.norm() * noise / noise.norm().clamp_min(1e-12))
        risen.append(measure(moved) - still)
    return math.fsum(risen) / draws
