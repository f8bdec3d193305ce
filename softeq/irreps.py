"""Soft layers between irreps of SO(3) and O(3), on plain tensors laid out as e3nn lays them out.

e3nn (Geiger, Smidt, arXiv 2207.09453) is imported where a layer is built. Its extra: ``pip install 'softeq[e3nn]'``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._arguments import no_equivariant_map
from softeq._constants import Constants
from softeq._ladder import described, part_of, signature_of
from softeq._nested_irreps import irreps_ladders
from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.groups import Group
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    pathways_of,
    plain_linear,
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
        SofteqValueError: no irreps.
    """
    try:
        from e3nn import o3
    except ImportError as error:
        raise MissingExtraError("irreps need e3nn: pip install 'softeq[e3nn]'") from error
    try:
        return o3.Irreps(value)
    except (ValueError, TypeError, AssertionError) as error:
        raise SofteqValueError(f"{name}: expected irreps such as '8x0e + 4x1o', got {value!r}") from error


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

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps) -> None:
        super().__init__()
        self.shape = (irreps_out.dim, irreps_in.dim)
        self.constants = Constants.of(_projection, str(irreps_in), str(irreps_out))
        self.start = self.constants.exact["start"].to(torch.get_default_dtype())
        self.rank = len(self.start)

    def matrix(self, weight: Tensor, base: Tensor | None = None) -> Tensor:
        """``base`` plus the map with these coordinates: ``(rank,)`` to ``(out, in)``."""
        found = self.constants.on(weight)
        spread = weight.index_select(0, found["pairs"]) * found["values"].to(weight.dtype)
        flat = weight.new_zeros(self.shape[0] * self.shape[1]) if base is None else base.reshape(-1)
        return flat.scatter_add(0, found["places"], spread).view(self.shape)

    def coordinates_of(self, matrix: Tensor) -> Tensor:
        """The coordinates of the projection of ``(out, in)``: ``(rank,)``."""
        found = self.constants.on(matrix)
        spread = matrix.reshape(-1).index_select(0, found["places"]) * found["values"].to(matrix.dtype)
        return spread.new_zeros(self.rank).index_add(0, found["pairs"], spread)

    def forward(self, matrix: Tensor) -> Tensor:
        """The nearest equivariant map in the Frobenius norm, ``(out, in)``."""
        return self.matrix(self.coordinates_of(matrix))


def _projection(irreps_in: str, irreps_out: str) -> dict[str, Tensor]:
    """Per entry of the map that some E_ij touches: its flat place, its pair ij, its value; and ``start`` per pair."""
    inputs, width = coordinates(as_irreps(irreps_in, "irreps_in")), as_irreps(irreps_in, "irreps_in").dim
    places, pairs = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    values, start = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    rank = 0
    for kind, rows in coordinates(as_irreps(irreps_out, "irreps_out")).items():
        if kind not in inputs:
            continue
        columns = inputs[kind]
        count = len(rows) * len(columns)
        places.append((rows[:, None] * width + columns[None]).view(count, kind.dim).flatten())
        pairs.append(torch.arange(rank, rank + count).repeat_interleave(kind.dim))
        values.append(torch.full((count * kind.dim,), kind.dim**-0.5, dtype=torch.float64))
        # An output coordinate sums len(columns) products with entries w / sqrt(2 l + 1).
        start.append(torch.full((count,), math.sqrt(kind.dim / (3 * len(columns))), dtype=torch.float64))
        rank += count
    found = {"places": places, "pairs": pairs, "values": values, "start": start}
    return {name: torch.cat(parts) for name, parts in found.items()}


class SoftO3Linear(MergedLayer):
    """A linear layer between irreps, ``y = x (W_e + W_b)^T + b_e + b_b``, as one dense operation.

    Args:
        irreps_in, irreps_out: e3nn ``Irreps`` or text, of input ``(..., irreps_in.dim)`` and output
            ``(..., irreps_out.dim)``, in e3nn's layout; the same irrep may occur in several places.
        constraint: ``"soft"``, ``"hard"`` (what e3nn's ``o3.Linear`` computes) or ``"none"``.
        bias: whether there is a bias, or a list that says so of each block of ``irreps_out``. Its equivariant part is
            on the even scalars (``0e``) alone; a hard layer refuses a list that asks for more.
        ladder: nested subgroups of O(3), that one first, e.g. ``[O(3), O2eR3()]``: between the two pathways there is
            one for each further group, under its name: maps that the groups before do not allow, in coordinates.

    The equivariant weight is stored as coordinates in an orthonormal basis, ``(rank,)``, and the residual one as
    ``(out, in)``, so that both are priced by the Frobenius norm of the map that they are.

    Initialisation: every output coordinate starts with the variance that ``nn.Linear`` gives, 1/3 of the mean square
    input; e3nn's own start is the square root of 3 larger. The residual pathway starts at 1e-3 of a dense layer. An
    output irrep that the input lacks is zero in the hard layer and comes from the residual pathway alone. Without
    coordinates in the input (``"0x0e"``, ``""``) the output is the bias.

    For weights that come with each call, one set for all samples or one for each, see `SoftO3ExternalLinear`.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqTypeError: a ladder that is no list of groups.
        SofteqValueError: bad irreps, an unknown constraint, a ladder that is not nested or does not begin with O(3).
    """

    def __init__(
        self,
        irreps_in: Any,
        irreps_out: Any,
        *,
        constraint: str = "soft",
        bias: bool | Sequence[bool] = True,
        ladder: Sequence[Group] | None = None,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.irreps_in, self.irreps_out = as_irreps(irreps_in, "irreps_in"), as_irreps(irreps_out, "irreps_out")
        self.in_features, self.out_features = self.irreps_in.dim, self.irreps_out.dim
        self.constraint = constraint
        self.projector = IrrepsProjector(self.irreps_in, self.irreps_out)
        biased, places = _biased(self.irreps_out, bias, hard=RESIDUAL not in names)
        self.bias_projector = IrrepsProjector(as_irreps("0e", "bias"), biased) if places else None
        self.bias_places = Constants.of(_places, places) if 0 < len(places) < self.out_features else None
        bound = 1 / math.sqrt(max(self.in_features, 1))
        if EQUIVARIANT in names and not self.projector.rank and self.in_features and self.out_features:
            raise no_equivariant_map(self.irreps_in, self.irreps_out)
        if EQUIVARIANT in names:
            normal = torch.randn(self.projector.rank)
            weight = normal * self.projector.start.to(normal.device)
            offset = _uniform(self.bias_projector.rank, bound) if self.bias_projector is not None else None
            self.pathways[EQUIVARIANT] = Weights(weight, offset)
        factor = bound * (1.0 if len(names) == 1 else RESIDUAL_START)
        ladders = None if ladder is None else irreps_ladders(self.irreps_in, self.irreps_out, biased, ladder)
        if ladders is not None and constraint == "soft":
            self.ladders = ladders
        for name in (*self.rungs, *(name for name in names if name == RESIDUAL)):
            weight = part_of(self.ladders, name, "weight", _uniform((self.out_features, self.in_features), factor))
            offset = part_of(self.ladders, name, "bias", _uniform((len(places),), factor)) if places else None
            self.pathways[name] = Weights(weight, offset)

    def _merged_part(self, part: str) -> Tensor | None:
        merged = super()._merged_part(part)
        if part == "weight" or merged is None or self.bias_places is None:
            return merged
        return merged.new_zeros(self.out_features).index_copy(0, self.bias_places.on(merged)["places"], merged)

    @property
    def signature(self) -> str:
        """See ``SoftLayer.signature``."""
        return f"{self.irreps_in.simplify()} -> {self.irreps_out.simplify()}{signature_of(self.ladders)}"

    def expand(self, part: str, own: Tensor, base: Tensor | None) -> Tensor:
        """``base`` plus the map, or the bias, with these coordinates."""
        if part == "weight":
            return self.projector.matrix(own, base)
        if self.bias_projector is None:
            raise SofteqValueError("this SoftO3Linear was built with bias=False and has no bias to expand")
        return self.bias_projector.matrix(own, None if base is None else base[:, None])[:, 0]

    def nearest(self, weight: Tensor) -> Tensor:
        """The nearest equivariant map, ``(out, in)``."""
        return self.projector(weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``; under autocast the weight is merged in its own dtype and cast after."""
        if x.shape[-1:] != (self.in_features,):  # not by way of Irreps, which torch.compile cannot guard
            check_irreps_width(x, self.irreps_in)
        return F.linear(x, *self.merged_for(x))

    def folded(self) -> nn.Linear:
        """The plain ``nn.Linear`` that this layer equals, with copies of the merged weight and bias."""
        return plain_linear(self.weight, self.bias).train(self.training)

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
        equivariant = layer.pathway(EQUIVARIANT)
        if equivariant is not None and equivariant.bias is not None and layer.bias_projector is not None:
            equivariant.weight.copy_(layer.projector.coordinates_of((linear(unit) - offset).T))
            equivariant.bias.copy_(layer.bias_projector.coordinates_of(offset.T))
        return layer

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{self.irreps_in} -> {self.irreps_out}, constraint={self.constraint!r}{described(self.ladders)}"


def _biased(irreps_out: Irreps, bias: Any, *, hard: bool) -> tuple[Irreps, tuple[int, ...]]:
    """The irreps of an output that have a bias, and their coordinates.

    Raises:
        SofteqTypeError: neither a bool nor a list of them.
        SofteqValueError: a list of another length; in a hard layer, a block with a bias that is no even scalar.
    """
    flags = [bias] * len(irreps_out) if isinstance(bias, bool) else bias
    if not isinstance(flags, list | tuple) or not all(isinstance(flag, bool) for flag in flags):
        raise SofteqTypeError(f"bias: expected True, False, or a list of them, got {bias!r}")
    if len(flags) != len(irreps_out):
        raise SofteqValueError(f"bias: expected one of True and False per block of {irreps_out}, got {bias!r}")
    chosen = [(block, where) for block, where, flag in zip(irreps_out, irreps_out.slices(), flags, strict=True) if flag]
    for (_, kind), _ in chosen if hard and flags is bias else ():
        if not (kind.l == 0 and kind.p == 1):
            raise SofteqValueError(
                f"bias: expected False for {kind} in a hard layer, as only zero is equivariant there, got {bias!r}"
            )
    places = tuple(place for _, where in chosen for place in range(where.start, where.stop))
    return as_irreps([block for block, _ in chosen], "irreps_out"), places


def _places(places: tuple[int, ...]) -> dict[str, Tensor]:
    return {"places": torch.tensor(places)}


def _uniform(shape: int | tuple[int, ...], bound: float) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)
