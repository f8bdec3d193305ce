"""The Gaussian prior over pathways, and its penalty on a model."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import EQUIVARIANT, PATHWAYS, SoftLayer, soft_layers

_GLOB = set("*?[")


@dataclass(frozen=True)
class Prior:
    """A precision (1 / variance) per pathway: each parameter w of a pathway is N(m, 1 / precision) beforehand.

    The mean m is zero, or what ``softeq.anchor`` recorded.

    Args:
        equivariant: precision of the equivariant pathway, finite and at least 0; small leaves it free.
        residual: precision of the residual pathway, and of the rungs of a ladder, finite and at least 0; large keeps
            the network on the constraint.
        overrides: per soft layer other precisions for some pathways, e.g. ``{"layers.0": {"residual": 10.0}}``. A key
            is a layer's name in ``model.named_modules()``, or a shell-style pattern of names such as ``"layers.*"`` or
            ``"*"``. ``_orig_mod`` (``torch.compile``) and a leading ``module.`` (DDP, ``AveragedModel``) make no
            difference to a name. A pathway is ``"equivariant"``, ``"residual"`` or the name of a ladder's rung. Where
            several keys match, later patterns go before earlier ones, and a name before any pattern.

    Raises:
        SofteqValueError: a precision that is negative, NaN or infinite.
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
                _check_precision(f"overrides[{layer!r}][{pathway!r}]", precision)
        # A copy: what matches a layer is found once.
        object.__setattr__(self, "overrides", {layer: dict(given) for layer, given in self.overrides.items()})

    def of(self, layer: str, rungs: Iterable[str] = ()) -> dict[str, float]:
        """The precisions of the soft layer with this name, per pathway.

        Args:
            layer: its name, with or without a wrapper's prefix.
            rungs: the names of its pathways beside the two; they take the residual's precision unless overridden.
        """
        names = dict.fromkeys((*PATHWAYS, *rungs), self.residual)
        precisions = {**names, EQUIVARIANT: self.equivariant}
        for key in self._matching(layer):
            precisions.update(self.overrides[key])
        return {name: precision for name, precision in precisions.items() if name in names}

    def _matching(self, layer: str) -> list[str]:
        """The keys that match a layer's name, the weakest first."""
        name = unwrapped(layer)
        names, patterns = self._keys
        found = [key for key, pattern in patterns if pattern.fullmatch(name)]
        same = names.get(name, [])
        return [*found, *([layer] if layer in same else same)]

    @cached_property
    def _keys(self) -> tuple[dict[str, list[str]], list[tuple[str, re.Pattern[str]]]]:
        """The overrides' keys by unwrapped name, and those that are patterns with what they match.

        A pattern is looked up as a name too, as a module's name may hold brackets.
        """
        names: dict[str, list[str]] = {}
        for key in self.overrides:
            names.setdefault(unwrapped(key), []).append(key)
        patterns = [(key, re.compile(fnmatch.translate(unwrapped(key)))) for key in self.overrides if _GLOB & set(key)]
        return names, patterns

    def check_names(self, layers: Mapping[str, SoftLayer]) -> None:
        """Raises where an override would do nothing to these soft layers.

        Raises:
            SofteqValueError: a key that matches no layer, a name that several layers have but for a wrapper's prefix,
                or a pathway that none of the layers that it matches can have.
        """
        allowed: dict[str, set[str]] = {}
        for name, layer in layers.items():
            for key in self._matching(name):
                if key in allowed and not _GLOB & set(key):
                    raise SofteqValueError(
                        f"prior.overrides[{key!r}]: names several soft layers, {name!r} and one without or with "
                        "another wrapper's prefix: give the override of each under its full name"
                    )
                allowed.setdefault(key, set(PATHWAYS)).update(layer.pathways)
        unknown = sorted(set(self.overrides) - set(allowed))
        if unknown:
            raise SofteqValueError(
                f"prior.overrides: {unknown} name no soft layer; the soft layers are {sorted(layers)}"
            )
        for key, known in allowed.items():
            for pathway in self.overrides[key]:
                if pathway not in known:
                    raise SofteqValueError(
                        f"prior.overrides[{key!r}]: expected pathways among {sorted(known)}, got {pathway!r}"
                    )


def unwrapped(name: str) -> str:
    """A module's name without what ``torch.compile``, DDP and ``AveragedModel`` put into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


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


def prior_penalty(model: nn.Module, prior: Prior) -> Tensor:
    """Minus the log prior up to a constant: ``sum over pathways of 1/2 precision ||w - m||^2``, 0-d, in nats.

    It is for the whole data set: divide by the number of training samples where the loss is a mean over samples. Every
    parameter of every pathway counts exactly once, biases included, a shared one where it is met first; parameters
    outside soft layers do not count. The means m are zero, or what ``softeq.anchor`` recorded.

    Raises:
        SofteqTypeError: ``prior`` is no `Prior`.
        SofteqValueError: no soft layer in the model, or an override that names none of them or a pathway of none.
    """
    if not isinstance(prior, Prior):
        raise SofteqTypeError(f"prior: expected a Prior, e.g. Prior(residual=10.0), got {type(prior).__name__}")
    layers = dict(soft_layers(model))
    if not layers:
        raise SofteqValueError(
            f"prior_penalty: {type(model).__name__} has no soft layer; build it from SoftLinear and the like, "
            "or use plain weight decay"
        )
    prior.check_names(layers)
    seen: set[int] = set()
    penalties = [layer.penalty(prior.of(name, layer.pathways), seen) for name, layer in layers.items()]
    return sum(penalties[1:], penalties[0])
