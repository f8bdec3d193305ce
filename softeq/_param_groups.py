"""param_groups: the parameters of a network as an optimizer's groups, pathway by pathway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import EQUIVARIANT, RESIDUAL, soft_layers

PROJECTED = "projected"
OTHER = "other"

_RESERVED = ("params", "name")


def param_groups(
    model: nn.Module,
    equivariant: Mapping[str, Any] | None = None,
    residual: Mapping[str, Any] | None = None,
    rungs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer: ``Adam(param_groups(model, residual={"lr": 1e-4}), lr=1e-3)``.

    Every parameter of the model is in one group, a shared one where it is met first. Groups without a parameter are
    left out; each has a ``"name"``: ``"equivariant"``, a rung's name, ``"residual"``, ``"projected"`` (the free weights
    of ``SoftLinear(parametrization="projected")``, which carry both pathways) or ``"other"`` (what is outside soft
    layers). The last two take the optimizer's own options.

    Args:
        model: with soft layers; wrapped or not.
        equivariant, residual: the optimizer's options for these pathways, such as ``{"lr": 1e-3}``.
        rungs: the options for a ladder's rungs, by name; a rung that is left out takes the residual's.

    Raises:
        SofteqTypeError: an argument of another type.
        SofteqValueError: no soft layer in the model, a rung that no layer has, or options named ``params`` or ``name``.
    """
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    _check("rungs", rungs or {})
    options: dict[str, Mapping[str, Any]] = {EQUIVARIANT: equivariant or {}, RESIDUAL: residual or {}, **(rungs or {})}
    for name, given in options.items():
        _check(name, given)
    parts = _parts(model)
    known = [name for name in parts if name not in (EQUIVARIANT, RESIDUAL, PROJECTED, OTHER)]
    if unknown := sorted(set(rungs or {}) - set(known)):
        raise SofteqValueError(f"rungs: expected names of rungs among {sorted(known)}, got {unknown}")
    options = {**dict.fromkeys(known, options[RESIDUAL]), **options}
    return [{"params": found, "name": name, **options.get(name, {})} for name, found in parts.items() if found]


def _check(name: str, options: Mapping[str, Any]) -> None:
    if not isinstance(options, Mapping):
        raise SofteqTypeError(f"{name}: expected a mapping of an optimizer's options, got {type(options).__name__}")
    if taken := [key for key in _RESERVED if key in options]:
        raise SofteqValueError(f"{name}: expected an optimizer's options, got {taken}, which param_groups sets")


def _parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters by the name of their group, each once."""
    parts: dict[str, list[nn.Parameter]] = {EQUIVARIANT: []}
    last: dict[str, list[nn.Parameter]] = {RESIDUAL: [], PROJECTED: [], OTHER: []}
    seen: set[int] = set()

    def put(name: str, parameters: Iterable[nn.Parameter]) -> None:
        group = last[name] if name in last else parts.setdefault(name, [])
        for parameter in parameters:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                group.append(parameter)

    layers = [layer for _, layer in soft_layers(model)]
    if not layers:
        raise SofteqValueError(f"param_groups: {type(model).__name__} has no soft layer: give model.parameters()")
    for layer in layers:
        for name, pathway in layer.pathways.items():
            put(name, pathway.parameters())
        put(PROJECTED, layer.parameters())
    put(OTHER, model.parameters())
    return parts | last
