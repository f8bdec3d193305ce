"""Soft layers between irreps of SO(3) and O(3), on plain tensors laid out as e3nn lays them out.

e3nn (Geiger, Smidt, arXiv 2207.09453) is imported where a layer is built. Its extra: ``pip install 'softeq[e3nn]'``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    pathway_penalty,
    pathways_of,
)

if TYPE_CHECKING:
    from e3nn.o3 import Irreps


def as_irreps(value: Any, name: str) -> Irreps:
    """``value`` as e3nn's ``Irreps``.

    Args:
        value: an ``Irreps`` or what it is made from, e.g. ``"64x0e + 32x1o"``.
        name: the argument's name, for the errors.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: no irreps, or irreps without a coordinate.
    """
    try:
        from e3nn import o3
    except ImportError as error:
        raise MissingExtraError("irreps need e3nn: pip install 'softeq[e3nn]'") from error
    try:
        irreps = o3.Irreps(value)
    except (ValueError, TypeError, AssertionError) as error:
        raise SofteqValueError(f"{name}: expected irreps such as '8x0e + 4x1o', got {value!r}") from error
    if irreps.dim == 0:
        raise SofteqValueError(f"{name}: expected at least one coordinate, got {value!r}")
    return irreps


def check_irreps_width(x: Tensor, irreps: Irreps, name: str = "x") -> None:
    """Raises unless the last axis of a layer's input has the coordinates of the irreps."""
    if x.shape[-1:] != (irreps.dim,):
        raise SofteqValueError(f"{name}: expected shape (..., {irreps.dim}) for {irreps}, got {tuple(x.shape)}")


def coordinates(irreps: Irreps) -> dict[Any, Tensor]:
    """Per kind of irrep, where its copies lie: ``(copies, 2 l + 1)`` coordinates, in the order of the layout."""
    found: dict[Any, list[Tensor]] = {}
    for (copies, kind), place in zip(irreps, irreps.slices(), strict=True):
        if copies:
            found.setdefault(kind, []).append(torch.arange(place.start, place.stop).view(copies, kind.dim))
    return {kind: torch.cat(parts) for kind, parts in found.items()}


class IrrepsProjector(nn.Module):
    """The equivariant maps between two sums of irreps: by Schur's lemma, one number per pair of equal irreps.

    With coordinates w_ij the map is ``sum_ij w_ij E_ij``, E_ij the identity from copy j to copy i over the square root
    of 2 l + 1: an orthonormal basis, so ``||w|| = ||W||``.

    Attributes:
        rank: of the basis.
        start: standard deviations ``(rank,)`` of coordinates that give every output coordinate the variance that a
            standard ``nn.Linear`` gives, 1/3 of the mean square input.
    """

    places: Tensor
    pairs: Tensor
    values: Tensor

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        self.shape = (irreps_out.dim, irreps_in.dim)
        inputs = coordinates(irreps_in)
        places, pairs, values, start = [], [], [], []
        self.rank = 0
        for kind, rows in coordinates(irreps_out).items():
            if kind not in inputs:
                continue
            columns = inputs[kind]
            count = len(rows) * len(columns)
            places.append((rows[:, None] * irreps_in.dim + columns[None]).view(count, kind.dim).flatten())
            pairs.append(torch.arange(self.rank, self.rank + count).repeat_interleave(kind.dim))
            values.append(torch.full((count * kind.dim,), kind.dim**-0.5, dtype=torch.float64))
            # An output coordinate sums len(columns) products with entries w / sqrt(2 l + 1).
            start.append(torch.full((count,), math.sqrt(kind.dim / (3 * len(columns)))))
            self.rank += count
        empty = torch.zeros(0, dtype=torch.long)
        self.register_buffer("places", torch.cat(places) if places else empty, persistent=False)
        self.register_buffer("pairs", torch.cat(pairs) if pairs else empty, persistent=False)
        exact = torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)
        self._exact = exact
        self.register_buffer("values", exact.to(torch.get_default_dtype()), persistent=False)
        self.start = torch.cat(start) if start else torch.zeros(0)

    def _apply(self, fn: Any, recurse: bool = True) -> IrrepsProjector:
        # From float64 each time: a trip through a narrow dtype must not leave its rounding in the basis.
        super()._apply(fn, recurse)
        self.values = self._exact.to(self.values)
        return self

    def matrix(self, weight: Tensor, base: Tensor | None = None) -> Tensor:
        """``base`` plus the map with these coordinates: ``(rank,)`` to ``(out, in)``."""
        spread = weight.index_select(0, self.pairs) * self.values.to(weight.dtype)
        flat = weight.new_zeros(self.shape[0] * self.shape[1]) if base is None else base.reshape(-1)
        return flat.scatter_add(0, self.places, spread).view(self.shape)

    def coordinates_of(self, matrix: Tensor) -> Tensor:
        """The coordinates of the projection of ``(out, in)``: ``(rank,)``."""
        spread = matrix.reshape(-1).index_select(0, self.places) * self.values.to(matrix.dtype)
        return spread.new_zeros(self.rank).index_add(0, self.pairs, spread)

    def forward(self, matrix: Tensor) -> Tensor:
        """The nearest equivariant map in the Frobenius norm, ``(out, in)``."""
        return self.matrix(self.coordinates_of(matrix))


class SoftO3Linear(MergedLayer):
    """A linear layer between irreps, ``y = x (W_e + W_b)^T + b_e + b_b``, as one dense operation.

    Args:
        irreps_in, irreps_out: e3nn ``Irreps`` or text, of input ``(..., irreps_in.dim)`` and output
            ``(..., irreps_out.dim)``, in e3nn's layout; the same irrep may occur in several places.
        constraint: ``"soft"``, ``"hard"`` (what e3nn's ``o3.Linear`` computes) or ``"none"``.
        bias: whether there is a bias; its equivariant part is on the even scalars (``0e``) alone.

    The equivariant weight is stored as coordinates in an orthonormal basis, ``(rank,)``, and the residual one as
    ``(out, in)``, so that both are priced by the Frobenius norm of the map that they are.

    Initialisation: every output coordinate starts with the variance that ``nn.Linear`` gives, 1/3 of the mean square
    input; e3nn's own start is the square root of 3 larger. The residual pathway starts at 1e-3 of a dense layer. An
    output irrep that the input lacks is zero in the hard layer and comes from the residual pathway alone.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: bad irreps or an unknown constraint.
    """

    def __init__(self, irreps_in: Any, irreps_out: Any, *, constraint: str = "soft", bias: bool = True) -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.irreps_in, self.irreps_out = as_irreps(irreps_in, "irreps_in"), as_irreps(irreps_out, "irreps_out")
        self.in_features, self.out_features = self.irreps_in.dim, self.irreps_out.dim
        self.constraint = constraint
        self.projector = IrrepsProjector(self.irreps_in, self.irreps_out)
        self.bias_projector = IrrepsProjector(as_irreps("0e", "bias"), self.irreps_out) if bias else None
        self.pathways = nn.ModuleDict()
        bound = 1 / math.sqrt(self.in_features)
        if EQUIVARIANT in names:
            weight = torch.randn(self.projector.rank) * self.projector.start
            offset = _uniform(self.bias_projector.rank, bound) if self.bias_projector is not None else None
            self.pathways[EQUIVARIANT] = Weights(weight, offset)
        if RESIDUAL in names:
            factor = bound * (1.0 if len(names) == 1 else RESIDUAL_START)
            weight = _uniform((self.out_features, self.in_features), factor)
            self.pathways[RESIDUAL] = Weights(weight, _uniform(self.out_features, factor) if bias else None)

    @property
    def weight(self) -> Tensor:
        """The merged weight ``(out, in)``."""
        equivariant, residual = self._pathway(EQUIVARIANT), self._pathway(RESIDUAL)
        base = None if residual is None else residual.weight
        if equivariant is not None:
            return self.projector.matrix(equivariant.weight, base)
        if base is None:
            raise SofteqValueError("SoftO3Linear has no pathway left: build it again with its constraint")
        return base

    @property
    def bias(self) -> Tensor | None:
        """The merged bias ``(out,)``; ``None`` without one."""
        if self.bias_projector is None:
            return None
        equivariant, residual = self._pathway(EQUIVARIANT), self._pathway(RESIDUAL)
        base = None if residual is None else residual.bias
        if equivariant is None or equivariant.bias is None:
            return base
        column = None if base is None else base[:, None]
        return self.bias_projector.matrix(equivariant.bias, column)[:, 0]

    def _pathway(self, name: str) -> Weights | None:
        pathway = self.pathways[name] if name in self.pathways else None  # noqa: SIM401 - a ModuleDict has no get
        return pathway if isinstance(pathway, Weights) else None

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``; under autocast the weight is merged in its own dtype and cast after."""
        if x.shape[-1:] != (self.in_features,):  # not by way of Irreps, which torch.compile cannot guard
            check_irreps_width(x, self.irreps_in)
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.weight, self.bias
            return F.linear(x, weight, bias)
        return F.linear(x, self.weight, self.bias)

    def penalty(self, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
        """See ``SoftLayer.penalty``."""
        return pathway_penalty(self, precisions, seen)

    @torch.no_grad()
    def weight_defect(self) -> float:
        """``||W - P(W)|| / ||W||`` of the merged weight in float64, in [0, 1]; 0 for a weight of zeros."""
        weight = self.weight.detach().double().cpu()
        size = float(weight.norm())
        exact = IrrepsProjector(self.irreps_in, self.irreps_out).double()
        return 0.0 if size == 0 else min(1.0, float((weight - exact(weight)).norm()) / size)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The plain ``nn.Linear`` that this layer equals, with copies of the merged weight and bias."""
        weight, bias = self.weight, self.bias
        plain = nn.Linear(self.in_features, self.out_features, bias is not None, weight.device, weight.dtype)
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
        return plain.train(self.training)

    @torch.no_grad()
    def hardened(self) -> SoftO3Linear:
        """The hard layer with this one's equivariant pathway."""
        source = self._pathway(EQUIVARIANT)
        if source is None:
            raise SofteqValueError("harden: a layer with constraint='none' has no equivariant pathway to keep")
        hard = SoftO3Linear(self.irreps_in, self.irreps_out, constraint="hard", bias=self.bias_projector is not None)
        hard = hard.to(source.weight.device, source.weight.dtype).train(self.training)
        target = hard._pathway(EQUIVARIANT)
        if target is not None:
            target.load_state_dict(source.state_dict())
        return hard

    @staticmethod
    @torch.no_grad()
    def from_e3nn(linear: nn.Module, *, constraint: str = "soft") -> SoftO3Linear:
        """The layer that starts as this ``e3nn.o3.Linear``: its map in the equivariant pathway, the residual one 0.

        Raises:
            SofteqTypeError: not an ``o3.Linear`` with weights of its own.
            SofteqValueError: ``constraint="none"``, which has no equivariant pathway.
        """
        from e3nn import o3

        if not isinstance(linear, o3.Linear) or not linear.internal_weights:
            raise SofteqTypeError(f"linear: expected an e3nn o3.Linear with weights of its own, got {linear!r}")
        if constraint == "none":
            raise SofteqValueError("constraint: expected 'soft' or 'hard', got 'none'")
        like = linear.weight
        layer = SoftO3Linear(linear.irreps_in, linear.irreps_out, constraint=constraint)
        layer = layer.to(like.device, like.dtype).train(linear.training)
        for parameter in layer.parameters():
            parameter.zero_()
        unit = torch.eye(layer.in_features, device=like.device, dtype=like.dtype)
        offset = linear(torch.zeros_like(unit[:1]))
        equivariant = layer._pathway(EQUIVARIANT)
        if equivariant is not None and equivariant.bias is not None and layer.bias_projector is not None:
            equivariant.weight.copy_(layer.projector.coordinates_of((linear(unit) - offset).T))
            equivariant.bias.copy_(layer.bias_projector.coordinates_of(offset.T))
        return layer

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{self.irreps_in} -> {self.irreps_out}, constraint={self.constraint!r}"


def _uniform(shape: int | tuple[int, ...], bound: float) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)
