"""From soft networks to plain and hard ones, and how far each layer is from its constraint."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping

from torch import nn

from softeq._means import forget_means
from softeq.errors import SofteqValueError
from softeq.fields import FieldBatchNorm
from softeq.pathways import MergedLayer, SoftLayer, soft_layers


def fold(model: nn.Module) -> nn.Module:
    """A copy in which every soft layer is the plain module that it equals: the same outputs, no pathways.

    Linear soft layers become ``nn.Linear``; a model of those and of torch's own modules then runs without softeq.
    Layers that are not linear (bilinear, gated) become plain modules with their pathways merged; export the copy with
    ``torch.export`` to run it where softeq is not installed. Among modules of escnn, convolutions keep taking its
    geometric tensors.
    """
    fields = _passes_fields(model)
    return _replaced(model, lambda layer: _folded(layer, fields), also=_plain_in_evaluation(model))


def _folded(layer: SoftLayer, fields: bool) -> nn.Module:
    on_fields = getattr(layer, "on_fields", None)
    plain = layer.folded()
    return on_fields(plain) if on_fields is not None and (fields or layer.saw_fields) else plain


def harden(model: nn.Module, rung: str | None = None) -> nn.Module:
    """A copy that keeps the equivariant pathway of every soft layer alone: exactly equivariant, and not anchored.

    Args:
        model: with soft layers.
        rung: the name of a rung of the layers' ladders: then layers that have it keep the pathways down to it, so that
            the copy is exactly equivariant under that rung's group. Layers without it keep the equivariant pathway.

    Raises:
        SofteqValueError: a layer without an equivariant pathway, or a rung that no layer has.
    """
    known = {name for _, layer in soft_layers(model) for name in _rungs(layer)}
    if rung is not None and rung not in known:
        raise SofteqValueError(f"rung: expected one of the layers' rungs, {sorted(known)}, got {rung!r}")
    hard = _replaced(model, lambda layer: _hardened(layer, rung))
    forget_means(hard)
    return hard


def _rungs(layer: nn.Module) -> list[str]:
    return layer.rungs if isinstance(layer, MergedLayer) else []


def _hardened(layer: SoftLayer, rung: str | None) -> nn.Module:
    if rung is not None and isinstance(layer, MergedLayer) and rung in layer.rungs:
        return layer.hardened_to(rung)
    return layer.hardened()


class WeightDefects(dict[str, float]):
    """Defects by module name.

    Attributes:
        left_out: the soft layers that are not covered, by module name, each with why.
    """

    left_out: dict[str, str]

    def __init__(self, defects: Mapping[str, float], left_out: Mapping[str, str]) -> None:
        super().__init__(defects)
        self.left_out = dict(left_out)

    def __str__(self) -> str:
        """One line per layer."""
        covered = [f"{name}: {defect:.3g}" for name, defect in self.items()]
        return "\n".join([*covered, *(f"{name}: left out, {why}" for name, why in self.left_out.items())])


def weight_defect(model: nn.Module) -> WeightDefects:
    """Per soft layer that equals a plain one, ``||W - P(W)|| / ||W||`` in [0, 1], by module name.

    Layers without a merged weight (products, gates, sums of modules) have no such number: they are named in the
    result's ``left_out``.

    Raises:
        SofteqValueError: the model has no soft layer with a merged weight.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SoftLayer)}
    defects = {name: m.weight_defect() for name, m in layers.items() if isinstance(m, MergedLayer)}
    left_out = {
        name: f"a {type(m).__name__} has no merged weight"
        for name, m in layers.items()
        if not isinstance(m, MergedLayer)
    }
    if not defects:
        raise SofteqValueError(
            f"weight_defect: {type(model).__name__} has no soft layer with a merged weight; its soft layers: "
            f"{sorted(left_out) or 'none'}"
        )
    return WeightDefects(defects, left_out)


def _passes_fields(model: nn.Module) -> bool:
    """Whether a model has modules of escnn outside of soft layers, which hand on geometric tensors."""
    escnn = sys.modules.get("escnn.nn")
    return escnn is not None and any(isinstance(m, escnn.EquivariantModule) for m in model.modules())


def _plain_in_evaluation(model: nn.Module) -> dict[int, nn.Module]:
    """By id, what norms over fields are in evaluation mode: torch's own."""
    return {id(module): module.folded() for module in model.modules() if isinstance(module, FieldBatchNorm)}


def _replaced(
    model: nn.Module, replacement: Callable[[SoftLayer], nn.Module], also: dict[int, nn.Module] | None = None
) -> nn.Module:
    """A deep copy with a replacement, a copy too, in the place of every soft layer, however often it stands there."""
    if isinstance(model, SoftLayer):
        return replacement(model)
    return copy.deepcopy(model, {id(layer): replacement(layer) for _, layer in soft_layers(model)} | (also or {}))
