"""Gated nonlinearities with a soft term."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._arguments import check_dtype, check_width
from softeq._constants import Constants
from softeq._layout import features_after, is_feature_major
from softeq.composite import Sum
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    SoftLayer,
    pathways_of,
)
from softeq.reps import Rep, Scalar


def gated(rep: Rep) -> Rep:
    """The input of a gated nonlinearity: a scalar gate for every tensor that needs one, then the rep.

    Scalars are their own gates, and so is each entry of a tensor whose entries the group merely permutes (vectors of
    ``Z(n)``, ``Permutation(n)``, ``Cube``): functions of single entries are equivariant there.
    """
    gates = sum(multiplicity for word, multiplicity in rep.terms if not rep.is_permuted(word))
    return gates * Scalar + rep


class Gate(nn.Module):
    """``sigmoid(gate) v`` for every tensor v; what is its own gate (see ``gated``) becomes swish."""

    def __init__(self, rep: Rep) -> None:
        super().__init__()
        self.gates = gated(rep).size - rep.size
        self.constants = Constants.of(_gates, rep)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gated size)`` to ``(..., size)``."""
        gate_of = self.constants.on(x)["gate_of"]
        opened = x.T.index_select(0, gate_of).T if is_feature_major(x) else x.index_select(-1, gate_of)
        return torch.sigmoid(opened) * features_after(x, self.gates)


def _gates(rep: Rep) -> dict[str, Tensor]:
    """Per coordinate where its gate lies in the input: one gather costs less than a product per term, joined again."""
    gate_of: list[int] = []
    next_gate, place = 0, gated(rep).size - rep.size
    for word, multiplicity in rep.terms:
        d = Rep([(word, 1)], rep.bound_group).size
        own = rep.is_permuted(word)
        for _ in range(multiplicity):
            gate_of += range(place, place + d) if own else [next_gate] * d
            next_gate, place = next_gate + (not own), place + d
    return {"gate_of": torch.tensor(gate_of, dtype=torch.int64)}


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
        self.rep_in, self.rep_out, self.constraint = gated(rep), rep, constraint
        self.in_features = self.rep_in.size
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = Gate(rep)
        if RESIDUAL in names:
            self.pathways[RESIDUAL] = CoordinateSwish(rep, 1.0 if len(names) == 1 else RESIDUAL_START)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gated(rep).size)`` to ``(..., rep.size)``."""
        check_width(x, self.in_features, self.rep_out, "the gated ")
        check_dtype(x, next(self.parameters(), None))
        outputs = [pathway(x) for pathway in self.pathways.values()]
        return sum(outputs[1:], outputs[0])

    def folded(self) -> nn.Module:
        """The sum of the terms as a plain module."""
        return copy.deepcopy(Sum(*self.pathways.values())).train(self.training)
