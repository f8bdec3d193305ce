"""The abstract soft layer: named pathways under a Gaussian prior (residual pathway priors, arXiv 2112.01388)."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from softeq._arguments import check_dtype, check_read, under_autocast
from softeq._constants import Constants as Constants  # for layers of users' own
from softeq._ladder import Ladder, Spanned
from softeq._means import forget_means, make_room, means_within
from softeq._penalty import pathway_penalty
from softeq._plain import plain_linear as plain_linear
from softeq.errors import SofteqTypeError, SofteqValueError

EQUIVARIANT = "equivariant"
RESIDUAL = "residual"
PATHWAYS = (EQUIVARIANT, RESIDUAL)

CONSTRAINTS = {"soft": PATHWAYS, "hard": (EQUIVARIANT,), "none": (RESIDUAL,)}

RESIDUAL_START = 1e-3
"""The fraction of a dense layer's size at which a residual pathway starts: near the hard layer, with a gradient."""


def pathways_of(constraint: str) -> tuple[str, ...]:
    """The pathways that a layer has under ``"soft"``, ``"hard"`` or ``"none"``."""
    if not isinstance(constraint, str) or constraint not in CONSTRAINTS:
        raise SofteqValueError(f"constraint: expected 'soft', 'hard' or 'none', got {constraint!r}")
    return CONSTRAINTS[constraint]


def relative_defect(off: float | Tensor, near: float | Tensor) -> float:
    """``||W - P(W)|| / ||W||`` from the squares of ``W - P(W)`` and ``P(W)``: 0 for zeros, NaN where W has NaN."""
    off, near = float(off), float(near)
    return 0.0 if off == 0 else math.sqrt(off / (off + near))


class SoftLayer(nn.Module, ABC):
    """A layer that is the sum of an equivariant and a residual pathway, either of which may be absent.

    Subclasses fill ``pathways``, set ``constraint``, write ``forward`` and ``folded``, and inherit the rest; see
    `MergedLayer` for those that are linear.

    Attributes:
        pathways: an ``nn.ModuleDict`` with the keys ``"equivariant"`` and/or ``"residual"``; their parameters partition
            the layer's. Empty where one free weight carries both (the projected parametrization).
        constraint: ``"soft"``, ``"hard"`` or ``"none"``: which pathways there are.
    """

    pathways: nn.ModuleDict
    constraint: str = "soft"

    def __init__(self) -> None:
        super().__init__()
        self.pathways = nn.ModuleDict()

    @property
    def signature(self) -> str | None:
        """What the parameters stand for, as text, e.g. the representations: kept in the metadata of a state dict.

        A state dict of a layer with another signature does not load; one without any (an older one, or one that lost
        its metadata, as in safetensors) does. What follows " # " is a comment. ``None`` checks nothing.
        """
        return None

    def pathway(self, name: str) -> Any:
        """The pathway with this name, or ``None``."""
        return self.pathways[name] if name in self.pathways else None  # noqa: SIM401 - a ModuleDict has no get

    def kept_pathway(self) -> Any:
        """The equivariant pathway.

        Raises:
            SofteqValueError: there is none.
        """
        if EQUIVARIANT not in self.pathways:
            raise SofteqValueError(
                f"harden: a {type(self).__name__} with constraint='none' has no equivariant pathway to keep; expected "
                "one with 'soft' or 'hard'"
            )
        return self.pathways[EQUIVARIANT]

    def prior_means(self) -> dict[int, Tensor]:
        """The prior's mean m of each of the layer's parameters, by ``id(parameter)``; of one left out it is zero.

        ``softeq.anchor`` sets them. A mean has the parameter's shape, or is a 0-d zero; it has its dtype and device. A
        prior step on a parameter w that takes ``w - m`` must read them anew after ``load_state_dict`` and ``to``.
        """
        return means_within(self)

    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """``1/2 sum precision ||w - m||^2`` over the layer's pathways, m the prior's means, 0-d, in nats.

        Args:
            precisions: per pathway, 1 / variance.
            seen: ids of the parameters counted already; those are left out, and the layer's own are added.
        """
        return pathway_penalty(self, precisions, seen)

    @abstractmethod
    def folded(self) -> nn.Module:
        """A module without pathways that computes the same function, of copies of the parameters."""

    def hardened(self) -> SoftLayer:
        """A copy with the equivariant pathway alone, not anchored.

        Raises:
            SofteqValueError: there is none.
        """
        self.kept_pathway()
        return self._keeping([EQUIVARIANT])

    def _keeping(self, names: Sequence[str]) -> Any:
        others = [pathway for name, pathway in self.pathways.items() if name not in names]
        hard = copy.deepcopy(self, {id(pathway): nn.Identity() for pathway in others})  # they may be large
        hard.pathways = nn.ModuleDict({name: hard.pathways[name] for name in names}).train(self.training)
        hard.constraint = "hard"
        forget_means(hard)
        return hard

    def spanned(self, pathway: str, part: str) -> Spanned | None:
        """What a parameter that is stored with redundant coordinates stands for; ``None`` where every number counts.

        Args:
            pathway: a key of ``pathways``.
            part: the parameter's name in that pathway.
        """
        return None

    def _apply(self, fn: Any, recurse: bool = True) -> SoftLayer:
        # Tried on nothing first: the imaginary part of a weight would be lost in the float64 of its defect.
        if fn(torch.empty(0)).is_complex():
            raise SofteqTypeError(
                f"{type(self).__name__}: expected a real dtype, as groups and bases here are real, got a complex one"
            )
        super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None and self.signature is not None:
            metadata["softeq"] = self.signature

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *rest: Any, **named: Any
    ) -> None:
        saved, own = local_metadata.get("softeq"), self.signature
        if saved is not None and own is not None and saved.partition(" # ")[0] != own.partition(" # ")[0]:
            raise SofteqValueError(
                f"state_dict: {prefix[:-1] or 'the layer'} was saved from another layer than it is to be loaded into: "
                f"expected {own}, got {saved}"
            )
        for name, value in state_dict.items():
            if name.startswith(prefix) and isinstance(value, Tensor) and value.is_complex():
                raise SofteqTypeError(f"state_dict: expected real numbers, got {value.dtype} in {name}")
        make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest, **named)


class MergedLayer(SoftLayer):
    """A soft layer whose pathways are linear maps of one shape: it equals a plain layer with the merged weight.

    Where the pathways are `Weights`, a subclass says how the equivariant one's numbers become a weight (``expand``),
    what the nearest equivariant weight is (``nearest``), and what plain layer it equals (``folded``).

    A layer with a ladder of nested symmetries has a pathway per rung between the two, see ``softeq._ladder``.

    Attributes:
        ladders: the rungs' spaces by part, ``"weight"`` and ``"bias"``; empty without a ladder.
    """

    ladders: Mapping[str, Ladder] = MappingProxyType({})

    @property
    def rungs(self) -> list[str]:
        """The names of the ladder's rungs, the largest group's first; empty without a ladder."""
        return list(self.ladders["weight"].rungs) if self.ladders else []

    @property
    def weight(self) -> Tensor:
        """The weight of the plain layer that this one equals."""
        weight = self._merged_part("weight")
        if weight is None:
            raise SofteqValueError(f"{type(self).__name__} has no pathway left: build it again with its constraint")
        return self.laid_out(weight)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the plain layer that this one equals; ``None`` without one."""
        return self._merged_part("bias")

    def laid_out(self, weight: Tensor) -> Tensor:
        """The pathways' merged weight in the layout of the plain layer; theirs by default."""
        return weight

    def _merged_part(self, part: str) -> Tensor | None:
        own, free = (getattr(check_read(self.pathway(name)), part, None) for name in PATHWAYS)
        if part in self.ladders:
            free = self.ladders[part].merged(self.pathways, part, free)
        return free if own is None else self.expand(part, own, free)

    def expand(self, part: str, own: Tensor, base: Tensor | None) -> Tensor:
        """``base`` plus what the equivariant pathway's numbers stand for.

        Args:
            part: ``"weight"`` or ``"bias"``.
            own: the equivariant pathway's parameter. By default it is a whole weight, and its nearest one counts.
            base: a whole weight or bias, or ``None`` for zero.
        """
        own = self.nearest(own) if part == "weight" else own
        return own if base is None else base + own

    @abstractmethod
    def nearest(self, weight: Tensor) -> Tensor:
        """The orthogonal projection of a merged weight onto the equivariant ones, in its dtype and on its device."""

    def merged_for(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for an input, whose dtype is checked; merged in their own dtype, outside of autocast."""
        if under_autocast(x):
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.weight, self.bias
        else:
            weight, bias = self.weight, self.bias
        check_dtype(x, weight)
        return weight, bias

    @torch.no_grad()
    def weight_defect(self) -> float:
        """``||W - P(W)|| / ||W||`` of the merged weight in float64, in [0, 1]; 0 for zeros, NaN where W has NaN."""
        weight = self.weight.double()
        nearest = self.nearest(weight)
        return relative_defect((weight - nearest).square().sum(), nearest.square().sum())

    @torch.no_grad()
    def rung_defects(self) -> dict[str, float]:
        """Per rung ``||W - P(W)|| / ||W||``, P onto all that is equivariant under that rung's group; in float64."""
        weight: Any = self._merged_part("weight")
        weight = weight.double()
        nearest = {rung: self.ladders["weight"].within[rung].nearest(weight) for rung in self.rungs}
        return {rung: relative_defect((weight - w).square().sum(), w.square().sum()) for rung, w in nearest.items()}

    def hardened(self) -> SoftLayer:
        """See ``SoftLayer.hardened``; without the ladder."""
        hard: Any = super().hardened()
        hard.ladders = {}
        return hard

    def hardened_to(self, rung: str) -> MergedLayer:
        """A copy that is exactly equivariant under a rung's group: the equivariant pathway and the rungs down to it.

        Raises:
            SofteqValueError: the layer has no such rung.
        """
        if rung not in self.rungs:
            raise SofteqValueError(f"rung: expected one of {self.rungs}, got {rung!r}")
        self.kept_pathway()
        names = [EQUIVARIANT, *self.rungs[: self.rungs.index(rung) + 1]]
        hard: MergedLayer = self._keeping(names)
        hard.ladders = {part: ladder.up_to(rung) for part, ladder in self.ladders.items()}
        return hard

    def spanned(self, pathway: str, part: str) -> Spanned | None:
        """Of the residual beside a ladder: what lies outside all rungs."""
        if pathway != RESIDUAL or part not in self.ladders:
            return None
        ladder = self.ladders[part]
        return Spanned(ladder.rest, ladder.rest_rank)


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
