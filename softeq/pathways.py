"""The abstract soft layer: named pathways under a Gaussian prior (residual pathway priors, arXiv 2112.01388)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from softeq._kernels import squared_norm
from softeq._means import make_room, means_within
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.reps import Rep

EQUIVARIANT = "equivariant"
RESIDUAL = "residual"
PATHWAYS = (EQUIVARIANT, RESIDUAL)

_OF_CONSTRAINT = {"soft": PATHWAYS, "hard": (EQUIVARIANT,), "none": (RESIDUAL,)}

RESIDUAL_START = 1e-3
"""The fraction of a dense layer's size at which a residual pathway starts: near the hard layer, with a gradient."""


def pathways_of(constraint: str) -> tuple[str, ...]:
    """The pathways that a layer has under ``"soft"``, ``"hard"`` or ``"none"``."""
    if not isinstance(constraint, str) or constraint not in _OF_CONSTRAINT:
        raise SofteqValueError(f"constraint: expected 'soft', 'hard' or 'none', got {constraint!r}")
    return _OF_CONSTRAINT[constraint]


def check_width(x: Tensor, size: int, rep: Rep, what: str = "") -> None:
    """Raises unless the last axis of a layer's input has ``size`` coordinates; the message names ``what`` and rep."""
    if x.shape[-1:] != (size,):
        raise SofteqValueError(f"x: expected shape (..., {size}) for {what}{rep!r}, got {tuple(x.shape)}")


class SoftLayer(nn.Module, ABC):
    """A layer that is the sum of an equivariant and a residual pathway, either of which may be absent.

    Attributes:
        pathways: an ``nn.ModuleDict`` with the keys ``"equivariant"`` and/or ``"residual"``; their parameters partition
            the layer's. Empty where one free weight carries both (the projected parametrization).
    """

    pathways: nn.ModuleDict

    def prior_means(self) -> dict[int, Tensor]:
        """The prior's mean m of each of the layer's parameters, by ``id(parameter)``; of one left out it is zero.

        ``softeq.anchor`` sets them. A mean has the parameter's shape, or is a 0-d zero; it has its dtype and device. A
        prior step on a parameter w that takes ``w - m`` must read them anew after ``load_state_dict`` and ``to``.
        """
        return means_within(self)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @abstractmethod
    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """``1/2 sum precision ||w - m||^2`` over the layer's pathways, m the prior's means, 0-d, in nats.

        Args:
            precisions: per pathway, 1 / variance.
            seen: ids of the parameters counted already; those are left out, and the layer's own are added.
        """

    @abstractmethod
    def folded(self) -> nn.Module:
        """A module without pathways that computes the same function."""

    @abstractmethod
    def hardened(self) -> nn.Module:
        """A copy with the equivariant pathway alone."""


class MergedLayer(SoftLayer):
    """A soft layer whose pathways are linear maps of one shape: it equals a plain layer with the merged weight."""

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weight of the plain layer that this one equals."""

    @property
    @abstractmethod
    def bias(self) -> Tensor | None:
        """The bias of the plain layer that this one equals."""

    @abstractmethod
    def weight_defect(self) -> float:
        """``||W - P(W)|| / ||W||`` of the merged weight, in [0, 1]; 0 for a weight of zeros."""


class Weights(nn.Module):
    """One pathway of a layer: a weight, and a bias or none."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))


def soft_layers(model: nn.Module) -> Iterator[tuple[str, SoftLayer]]:
    """The outermost soft layers of a model with their names; one inside another's pathway belongs to that pathway."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, SoftLayer) and not name.startswith(inside or ("\0",)):
            inside += (f"{name}." if name else "",)
            yield name, module


def squared_distance_of(
    parameters: Iterator[nn.Parameter], means: Mapping[int, Tensor], seen: set[int]
) -> Tensor | None:
    """``sum ||w - m||^2`` over parameters that are not in ``seen``, which they then join; ``None`` if there is none."""
    total: Tensor | None = None
    for parameter in parameters:
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        square = squared_norm(parameter if id(parameter) not in means else parameter - means[id(parameter)])
        total = square if total is None else total + square
    return total


def pathway_penalty(layer: SoftLayer, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
    """``1/2 sum over pathways of precision ||w - m||^2``, every parameter once."""
    terms = []
    means = layer.prior_means()
    for name, pathway in layer.pathways.items():
        square = squared_distance_of(pathway.parameters(), means, seen)
        if square is not None:
            terms.append(0.5 * precisions[name] * square)
    return torch.stack(terms).sum() if len(terms) > 1 else (terms[0] if terms else torch.zeros(()))


class SoftPathways(SoftLayer):
    """The sum of any two modules, ``equivariant(x) + residual(x)``, for pathways that do not merge.

    Args:
        equivariant: the constrained module, or ``None``.
        residual: the unconstrained one, or ``None``; both must map the same inputs to outputs of one shape.

    Soft layers inside a pathway count as part of that pathway: their parameters take its precision.
    """

    def __init__(self, *, equivariant: nn.Module | None = None, residual: nn.Module | None = None) -> None:
        super().__init__()
        given = {EQUIVARIANT: equivariant, RESIDUAL: residual}
        for name, module in given.items():
            if module is not None and not isinstance(module, nn.Module):
                raise SofteqTypeError(f"{name}: expected an nn.Module or None, got {type(module).__name__}")
        self.pathways = nn.ModuleDict({name: module for name, module in given.items() if module is not None})
        if not self.pathways:
            raise SofteqValueError("SoftPathways: expected an equivariant or a residual module, got neither")

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum of the pathways' outputs."""
        outputs = [pathway(*inputs) for pathway in self.pathways.values()]
        if len(outputs) == 1:
            return outputs[0]
        first, second = outputs
        if first.shape != second.shape:
            raise SofteqValueError(
                f"SoftPathways: the equivariant output has shape {tuple(first.shape)} and the residual one "
                f"{tuple(second.shape)}: they must agree"
            )
        return first + second

    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """See ``SoftLayer.penalty``."""
        return pathway_penalty(self, precisions, seen)

    def folded(self) -> nn.Module:
        """The single pathway where there is one, folded; else the sum of both, each folded inside."""
        from softeq._fold import fold

        parts = {name: fold(pathway) for name, pathway in self.pathways.items()}
        return next(iter(parts.values())) if len(parts) == 1 else Sum(*parts.values())

    def hardened(self) -> nn.Module:
        """The equivariant pathway alone, with the soft layers inside it hardened too."""
        from softeq._fold import harden

        if EQUIVARIANT not in self.pathways:
            raise SofteqValueError("harden: this SoftPathways has no equivariant pathway to keep")
        return SoftPathways(equivariant=harden(self.pathways[EQUIVARIANT]))


class Sum(nn.Module):
    """The sum of the outputs of several modules on the same inputs."""

    def __init__(self, *terms: nn.Module) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, *inputs: Tensor) -> Tensor:
        """``sum_i terms[i](*inputs)``."""
        total = self.terms[0](*inputs)
        for term in list(self.terms)[1:]:
            total = total + term(*inputs)
        return total
