"""Gated nonlinearities with a soft term."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._layout import features_after, is_feature_major
from softeq.errors import SofteqValueError
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    SoftLayer,
    Sum,
    check_width,
    pathway_penalty,
    pathways_of,
)
from softeq.reps import Rep, Scalar


def gated(rep: Rep) -> Rep:
    """The input of a gated nonlinearity: a scalar gate for every tensor of the rep that is no scalar, then the rep."""
    gates = sum(multiplicity for word, multiplicity in rep.terms if word)
    return gates * Scalar + rep


class Gate(nn.Module):
    """``sigmoid(gate) v`` for every tensor v; a scalar is its own gate (swish)."""

    gate_of: Tensor

    def __init__(self, rep: Rep) -> None:
        super().__init__()
        self.gates = gated(rep).size - rep.size
        # Per coordinate where its gate lies in the input: one gather costs less than a product per term, joined again.
        gate_of, next_gate, place = [], 0, self.gates
        for word, multiplicity in rep.terms:
            d = rep.bound_group.d ** len(word)
            for _ in range(multiplicity):
                gate_of += [next_gate if word else place] * d
                next_gate, place = next_gate + bool(word), place + d
        self.register_buffer("gate_of", torch.tensor(gate_of, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gated size)`` to ``(..., size)``."""
        opened = x.T.index_select(0, self.gate_of).T if is_feature_major(x) else x.index_select(-1, self.gate_of)
        return torch.sigmoid(opened) * features_after(x, self.gates)


class CoordinateSwish(nn.Module):
    """``w swish(v)`` on every coordinate by itself, one weight each: what an unconstrained network would do."""

    def __init__(self, rep: Rep, start: float) -> None:
        super().__init__()
        self.gates = gated(rep).size - rep.size
        self.weight = nn.Parameter(torch.full((rep.size,), start))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gated size)`` to ``(..., size)``."""
        return self.weight * F.silu(features_after(x, self.gates))


class SoftGated(SoftLayer):
    """``sigmoid(gate) v + w swish(v)`` (Finzi, Benton, Wilson 2021), w a weight per coordinate that starts at 1e-3.

    Args:
        rep: the output's representation, bound; the input is ``gated(rep)``.
        constraint: ``"soft"``, ``"hard"`` (the gate alone) or ``"none"`` (swish alone, w starting at 1).
    """

    def __init__(self, rep: Rep, *, constraint: str = "soft") -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.rep, self.constraint, self.in_features = rep, constraint, gated(rep).size
        self.pathways = nn.ModuleDict()
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = Gate(rep)
        if RESIDUAL in names:
            self.pathways[RESIDUAL] = CoordinateSwish(rep, 1.0 if len(names) == 1 else RESIDUAL_START)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gated(rep).size)`` to ``(..., rep.size)``."""
        check_width(x, self.in_features, self.rep, "the gated ")
        outputs = [pathway(x) for pathway in self.pathways.values()]
        return sum(outputs[1:], outputs[0])

    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """See ``SoftLayer.penalty``; the gate has no parameters."""
        return pathway_penalty(self, precisions, seen)

    def folded(self) -> nn.Module:
        """The sum of the terms as a plain module."""
        return Sum(*self.pathways.values())

    def hardened(self) -> nn.Module:
        """The gate alone."""
        if EQUIVARIANT not in self.pathways:
            raise SofteqValueError("harden: a layer with constraint='none' has no equivariant pathway to keep")
        return SoftGated(self.rep, constraint="hard")
