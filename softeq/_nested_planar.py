"""Ladders of rotations and reflections of the plane: the filters that each subgroup allows beyond the larger ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softeq._filters import BiasBasis, Fields, FilterBasis
from softeq._grid_filters import filters_between, invariants_of
from softeq._grid_types import GridType, subgroup_id
from softeq._ladder import Described, Ladder, ladders_of, rung_names, spaces
from softeq.errors import SofteqTypeError, SofteqValueError

if TYPE_CHECKING:
    from escnn.gspaces import GSpace

_SAMPLED = 1e-4
"""escnn samples its filters in float32; those of nested groups are nested to 1e-7."""


def planar_ladders(
    basis: FilterBasis, bias: BiasBasis | None, own: GSpace, ladder: Any, taken: Sequence[str]
) -> dict[str, Ladder]:
    """The spaces of a layer's filter ``(out, in, k, k)`` and bias ``(out,)`` under nested groups of the plane.

    Args:
        basis, bias: of the layer's own group.
        own: that group, as escnn's gspace.
        ladder: what the user gave.
        taken: names that pathways have anyway.

    Raises:
        SofteqTypeError: no list of escnn's gspaces.
        SofteqValueError: another first group, or groups that are not nested.
    """
    ids = _subgroups(own, ladder, taken)
    names = {gspace.fibergroup.name: gspace.name for gspace in ladder}
    parts: dict[str, Described] = {"weight": (basis.shape, (*basis.constants.description, ids))}
    found = ladders_of(_filter_spaces, parts, names)
    if bias is not None:
        (type_out,) = bias.constants.description
        found |= ladders_of(_bias_spaces, {"bias": ((basis.shape[0],), (type_out, ids))}, names)
    return found


def _subgroups(own: GSpace, ladder: Any, taken: Sequence[str]) -> tuple[Any, ...]:
    """escnn's names of the rungs' groups as subgroups of the first."""
    from escnn.gspaces import GSpace2D

    if not isinstance(own, GSpace2D):
        raise SofteqValueError("ladder: expected None over volumes: nested groups are known on the plane alone")
    gspaces = list(ladder) if isinstance(ladder, list | tuple) else []
    for gspace in gspaces:
        if not isinstance(gspace, GSpace2D):
            raise SofteqTypeError(
                "ladder: expected escnn's gspaces on the plane, e.g. [flipRot2dOnR2(-1), rot2dOnR2(8)], got "
                f"{type(gspace).__name__}"
            )
    rung_names(ladder, [gspace.fibergroup.name for gspace in gspaces], taken)
    if gspaces[0] != own:
        raise SofteqValueError(f"ladder: expected the group of in_type first, {own}, got {gspaces[0]}")
    for larger, smaller in itertools.pairwise(gspaces):
        if _subgroup(larger, smaller) is None:
            raise SofteqValueError(
                f"ladder: expected each group to be a subgroup of the one before it, as escnn restricts fields; "
                f"it does not restrict {larger} to {smaller}"
            )
    return tuple(_subgroup(own, gspace) for gspace in gspaces[1:])


def _subgroup(larger: GSpace, smaller: GSpace) -> Any:
    """The name by which escnn restricts one gspace to the other, or ``None``."""
    n = smaller.rotations_order
    axes: list[Any] = [None, *range(max(larger.rotations_order, 0))]
    if smaller.flips_order and larger.rotations_order == -1:
        axes.append((subgroup_id(smaller)[0] - subgroup_id(larger)[0]) % (2 * math.pi))
    for name in (n, *((axis, n) for axis in axes)):
        try:
            if larger.restrict(name)[0] == smaller:
                return name
        except Exception:
            continue
    return None


def _positions(fields: Fields) -> Iterator[Tensor]:
    """Per kind of field the channels of its copies, ``(copies, size)``."""
    order = torch.arange(fields.size) if fields.order is None else torch.tensor(fields.order)
    counts = [kind.size * copies for kind, copies in zip(fields.kinds, fields.copies, strict=True)]
    for part, copies in zip(order.split(counts), fields.copies, strict=True):
        yield part.view(copies, -1)


def _filter_spaces(
    type_in: GridType, type_out: GridType, kernel_size: int, dilation: int, options: Any, ids: Sequence[Any]
) -> dict[str, Tensor]:
    inputs, outputs = Fields(type_in.representations), Fields(type_out.representations)
    own = {name: list(value) if isinstance(value, tuple) else value for name, value in options}
    gspaces = [type_in.gspace, *(type_in.gspace.restrict(name)[0] for name in ids)]
    taps = torch.arange(kernel_size**2)
    blocks = []
    for out, rows in zip(outputs.kinds, _positions(outputs), strict=True):
        for inn, columns in zip(inputs.kinds, _positions(inputs), strict=True):
            pairs = rows[:, None, :, None] * inputs.size + columns[None, :, None, :]
            places = (pairs[..., None] * len(taps) + taps).reshape(len(rows) * len(columns), -1)
            fields = [(inn, out), *((inn.restrict(name), out.restrict(name)) for name in ids)]
            levels = [
                filters_between(*pair, gspace, kernel_size, dilation, own).flatten(1)
                for pair, gspace in zip(fields, gspaces, strict=True)
            ]
            blocks.append((places, levels))
    return spaces(blocks, _SAMPLED)


def _bias_spaces(type_out: GridType, ids: Sequence[Any]) -> dict[str, Tensor]:
    fields, own = Fields(type_out.representations), type_out.gspace
    blocks = []
    for kind, places in zip(fields.kinds, _positions(fields), strict=True):
        levels = [invariants_of(kind, own)]
        levels += [invariants_of(kind.restrict(name), own.restrict(name)[0]) for name in ids]
        blocks.append((places, levels))
    return spaces(blocks, _SAMPLED)
