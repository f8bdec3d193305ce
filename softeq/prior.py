"""The Gaussian prior over pathways, and its penalty on a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import EQUIVARIANT, PATHWAYS, RESIDUAL, SoftLayer


@dataclass(frozen=True)
class Prior:
    """A precision (1 / variance) per pathway: each parameter w of a pathway is N(0, 1 / precision) beforehand.

    Args:
        equivariant: precision of the equivariant pathway, finite and at least 0; small leaves it free.
        residual: precision of the residual pathway, finite and at least 0; large keeps the network on the constraint.
        overrides: per soft layer, by its name in ``model.named_modules()``, other precisions for some pathways,
            e.g. ``{"layers.0": {"residual": 10.0}}``.

    Raises:
        SofteqValueError: a precision that is negative, NaN or infinite, or an override of an unknown pathway.
        SofteqTypeError: a precision that is no number, or overrides that are no mapping of mappings.
    """

    equivariant: float = 1e-6
    residual: float = 1.0
    overrides: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_precision("equivariant", self.equivariant)
        _check_precision("residual", self.residual)
        _check_mapping("overrides", self.overrides)
        for layer, precisions in self.overrides.items():
            _check_mapping(f"overrides[{layer!r}]", precisions)
            for pathway, precision in precisions.items():
                if pathway not in PATHWAYS:
                    raise SofteqValueError(f"overrides[{layer!r}]: expected keys among {PATHWAYS}, got {pathway!r}")
                _check_precision(f"overrides[{layer!r}][{pathway!r}]", precision)

    def of(self, layer: str) -> dict[str, float]:
        """The precisions of the soft layer with this name."""
        return {EQUIVARIANT: self.equivariant, RESIDUAL: self.residual, **self.overrides.get(layer, {})}


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise SofteqTypeError(
            f"{name}: expected a mapping such as {{'layers.0': {{'residual': 10.0}}}}, got {type(value).__name__}"
        )


def _check_precision(name: str, value: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SofteqTypeError(f"{name}: expected a precision as a number, got {type(value).__name__}")
    if not (math.isfinite(value) and value >= 0):
        hint = "; for no residual pathway at all use constraint='hard'" if value == math.inf else ""
        raise SofteqValueError(f"{name}: expected a finite precision of at least 0, got {value}{hint}")


def soft_layers(model: nn.Module) -> Iterator[tuple[str, SoftLayer]]:
    """The outermost soft layers of a model with their names; one inside another's pathway belongs to that pathway."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, SoftLayer) and not name.startswith(inside or ("\0",)):
            inside += (f"{name}." if name else "",)
            yield name, module


def prior_penalty(model: nn.Module, prior: Prior) -> Tensor:
    """Minus the log prior up to a constant: ``sum over pathways of 1/2 precision ||w||^2``, 0-d, nats, differentiable.

    It is for the whole data set: divide by the number of training samples where the loss is a mean over samples. Every
    parameter of every pathway counts exactly once, biases included, a shared one where it is met first; parameters
    outside soft layers do not count.

    Raises:
        SofteqValueError: no soft layer in the model, or an override that names none of them.
    """
    layers = dict(soft_layers(model))
    if not layers:
        raise SofteqValueError(
            f"prior_penalty: {type(model).__name__} has no soft layer; build it from SoftLinear and the like, "
            "or use plain weight decay"
        )
    unknown = sorted(set(prior.overrides) - set(layers))
    if unknown:
        raise SofteqValueError(f"prior.overrides: {unknown} name no soft layer; the soft layers are {sorted(layers)}")
    seen: set[int] = set()
    penalties = [layer.penalty(prior.of(name), seen) for name, layer in layers.items()]
    return sum(penalties[1:], penalties[0])
