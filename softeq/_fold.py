"""From soft networks to plain and hard ones, and how far each layer is from its constraint."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from softeq._means import forget_means
from softeq.errors import SofteqValueError
from softeq.pathways import MergedLayer, SoftLayer, soft_layers


def fold(model: nn.Module) -> nn.Module:
    """A copy in which every soft layer is the plain module that it equals: the same outputs, no pathways.

    Linear soft layers become ``nn.Linear``; a model of those and of torch's own modules then runs without softeq.
    Layers that are not linear (bilinear, gated) become plain modules with their pathways merged; export the copy with
    ``torch.export`` to run it where softeq is not installed.
    """
    return _replaced(model, lambda layer: layer.folded())


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


def weight_defect(model: nn.Module) -> dict[str, float]:
    """Per soft layer that equals a plain one, ``||W - P(W)|| / ||W||`` in [0, 1], by module name.

    Raises:
        SofteqValueError: the model has no such layer.
    """
    defects = {name: m.weight_defect() for name, m in model.named_modules() if isinstance(m, MergedLayer)}
    if not defects:
        raise SofteqValueError(f"weight_defect: {type(model).__name__} has no soft layer with a merged weight")
    return defects


def _replaced(model: nn.Module, replacement: Callable[[SoftLayer], nn.Module]) -> nn.Module:
    """A deep copy with a replacement, a copy too, in the place of every soft layer, however often it stands there."""
    if isinstance(model, SoftLayer):
        return replacement(model)
    return copy.deepcopy(model, {id(layer): replacement(layer) for _, layer in soft_layers(model)})
