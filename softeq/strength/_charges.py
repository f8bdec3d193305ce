"""Which parameters a prior prices, under which layer and pathway, and what it says of their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softeq.linear import SoftLinear
from softeq.pathways import RESIDUAL, SoftLayer
from softeq.prior import Prior, soft_layers
from softeq.solve import EquivariantProjector

ELSEWHERE = "elsewhere"
"""The pathway's name of the parameters outside soft layers, whose layer is called ""."""


@dataclass(frozen=True)
class Charge:
    """One parameter that the prior prices.

    Attributes:
        layer: the soft layer's name in ``model.named_modules()``; "" and pathway "elsewhere" for what is outside them.
        pathway: the precision's key in that layer.
        name: the parameter's name in the model, for messages.
        parameter: itself.
        projector: of the projected parametrization alone: ``P``, whose image has the equivariant precision merged with
            the residual one, and whose complement has the residual one.
        spanned: the projection onto what the parameter spans, where it is stored with redundant coordinates.
        rank: the dimension of what is priced: entries, less redundant ones.
        owner: the soft layer, ``None`` outside.
    """

    layer: str
    pathway: str
    name: str
    parameter: nn.Parameter
    rank: int
    projector: EquivariantProjector | None = None
    spanned: Callable[[Tensor], Tensor] | None = None
    owner: SoftLayer | None = None

    def part(self, value: Tensor) -> Tensor:
        """What of a tensor of the parameter's shape lies in the priced space: of a projected weight ``W - P W``."""
        if self.projector is not None:
            return value - self.projector(value.reshape(self.projector.shape)).view_as(value)
        return value if self.spanned is None else self.spanned(value)

    @torch.no_grad()
    def shares(self) -> Tensor | None:
        """The diagonal of the projection onto the priced space, of the parameter's shape; ``None`` for the identity.

        From random signs z, as ``E (P z)_i^2 = P_ii``, scaled to the trace, which is the rank; exact zeros are exact.
        """
        if self.projector is None and self.spanned is None:
            return None
        generator, numel = torch.Generator().manual_seed(0), self.parameter.numel()
        draws = max(16, min(256, 2**20 // max(1, numel)))
        total = torch.zeros_like(self.parameter)
        for _ in range(draws):
            signs = 2 * torch.randint(0, 2, self.parameter.shape, generator=generator) - 1
            total += self.part(signs.to(total)).square()
        return total * (self.rank / float(total.sum().clamp_min(1e-30)))


def charges_of(model: nn.Module, elsewhere: bool = False) -> list[Charge]:
    """The priced parameters, each once, in the order in which `prior_penalty` meets them.

    Args:
        model: any module.
        elsewhere: whether parameters outside soft layers are priced too.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: set[int] = set()
    charges = []
    for layer_name, layer in soft_layers(model):
        for pathway, parameter, projector, spanned, rank in _of_layer(layer):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                name = names.get(id(parameter), f"{layer_name}.{pathway}")
                charges.append(Charge(layer_name, pathway, name, parameter, rank, projector, spanned, layer))
    if elsewhere:
        rest = [(name, p) for name, p in model.named_parameters() if id(p) not in seen]
        charges += [Charge("", ELSEWHERE, name, p, p.numel()) for name, p in rest]
    return charges


_Found = tuple[str, nn.Parameter, EquivariantProjector | None, Callable[[Tensor], Tensor] | None, int]


def _of_layer(layer: SoftLayer) -> Iterator[_Found]:
    if isinstance(layer, SoftLinear) and layer.projected:
        pairs = [(layer.free_weight, layer.projector), (getattr(layer, "free_bias", None), layer.bias_projector)]
        for parameter, projector in pairs:
            if parameter is not None and projector is not None:
                yield RESIDUAL, parameter, projector, None, parameter.numel() - projector.rank
        return
    for pathway, module in layer.pathways.items():
        for name, parameter in module.named_parameters():
            spanned = layer.spanned(pathway, name)
            if spanned is None:
                yield pathway, parameter, None, None, parameter.numel()
            else:
                yield pathway, parameter, None, spanned.project, spanned.rank


def precisions_of(charges: list[Charge], prior: Prior, elsewhere: float = 0.0) -> list[dict[str, float]]:
    """Per charge its layer's precisions by pathway."""
    by_layer: dict[str, dict[str, float]] = {}
    found = []
    for charge in charges:
        if charge.owner is None:
            found.append({ELSEWHERE: elsewhere})
            continue
        if charge.layer not in by_layer:
            by_layer[charge.layer] = prior.of(charge.layer, charge.owner.pathways)
        found.append(by_layer[charge.layer])
    return found


def merged_precision(equivariant: float, residual: float) -> float:
    """Of the sum of two Gaussians: ``1 / (1 / equivariant + 1 / residual)``; 0 where either is free."""
    if equivariant <= 0 or residual <= 0:
        return 0.0
    return residual * (equivariant / (equivariant + residual)) if math.isfinite(residual) else equivariant


@torch.no_grad()
def squared_distance(charge: Charge, mean: Tensor | None) -> float:
    """``||w - m||^2`` of the priced part, in float64."""
    value = charge.parameter if mean is None else charge.parameter - mean
    return float(charge.part(value).double().square().sum())
