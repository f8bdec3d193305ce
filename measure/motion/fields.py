"""Flows on maps that are more than images: tokens, and escnn's field types, whose channels turn with the plane.

escnn (Weiler, Cesa, NeurIPS 2019; Cesa, Lang, Weiler, ICLR 2022) acts in a plane with the y axis up, where its
rotations are counter-clockwise as seen; images have the row axis down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.flows import AffineFlow, Flow, inside

_TOLERANCE = 1e-9
_ROWS_DOWN = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)  # times entries: y up <-> row down


class TokenFlow(Flow):
    """A flow of maps ``(B, h, w, C)``, on tokens ``(B, prefix + h * w, C)``; the prefix does not move."""

    def __init__(self, base: Flow, grid: tuple[int, int], prefix: int = 0) -> None:
        self.base, self.grid, self.prefix = base, grid, prefix
        self.name, self.unit, self.matrix = base.name, base.unit, base.matrix

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The moved tokens."""
        return torch.cat([x[:, : self.prefix], self.base(self.on_map(x), t).flatten(1, 2)], 1)

    def tangent(self, x: Tensor) -> Tensor:
        """The map's tangent; zeros for the tokens in front."""
        return torch.cat([torch.zeros_like(x[:, : self.prefix]), self.base.tangent(self.on_map(x)).flatten(1, 2)], 1)

    def stays(self, x: Tensor, t: float) -> Tensor | None:
        """The map's, (prefix + h * w, 1); the tokens in front stay."""
        places = self.base.stays(self.on_map(x), t)
        return None if places is None else torch.cat([places.new_ones(self.prefix, 1), places.flatten(0, 1)])

    def on_map(self, x: Tensor) -> Tensor:
        """The tokens of the grid, ``(B, h, w, C)``, a view."""
        return x[:, self.prefix :].unflatten(1, self.grid)


class FibreFlow(Flow):
    """Maps whose content is carried along an affine flow while their channels turn.

    Args:
        base: how places move.
        fibre: the channels' generator, ``(C, C)`` in float64.
    """

    def __init__(self, base: AffineFlow, fibre: Tensor) -> None:
        self.base, self.fibre = base, fibre
        self.name, self.unit, self.matrix = base.name, base.unit, base.matrix

    def with_(self, **changes: Any) -> FibreFlow:
        """A copy whose base has other fields, e.g. ``stencil``."""
        return FibreFlow(self.base.with_(**changes), self.fibre)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The moved maps; within the margin they stay as they are."""
        turned = self.on_channels(t, self.base(x, t))
        return torch.where(self._inside(x), turned, x)

    def tangent(self, x: Tensor) -> Tensor:
        """The base's tangent and the fibre's; 0 within the margin."""
        return self.base.tangent(x) + self._on_channels(self.fibre, x) * self._inside(x)

    def stays(self, x: Tensor, t: float) -> Tensor | None:
        """The base's."""
        return self.base.stays(x, t)

    def on_channels(self, t: float, x: Tensor) -> Tensor:
        """The maps with their channels turned as by a motion of length t; places stay."""
        return self._on_channels(torch.linalg.matrix_exp(t * self.fibre), x)

    def _on_channels(self, matrix: Tensor, x: Tensor) -> Tensor:
        axis = -1 if self.base.channels_last else 1
        return (x.movedim(axis, -1) @ matrix.to(x).mT).movedim(-1, axis)

    def _inside(self, x: Tensor) -> Tensor:
        height, width = self.base.images(x).shape[-2:]
        mask = inside(height, width, self.base.margin).to(x.device)
        return mask[..., None] if self.base.channels_last else mask


def field_flow(field: Any, flow: AffineFlow) -> FibreFlow:
    """A flow on maps of an escnn ``FieldType``: places move under ``flow``, the channels turn with them.

    Raises:
        NotMeasurable: see `fibre_generator`.
    """
    return FibreFlow(flow, fibre_generator(check_field(field), flow.matrix))


def check_field(field: Any) -> Any:
    """``field``, or an error: no escnn ``FieldType``, or none of the plane."""
    if not all(hasattr(field, attribute) for attribute in ("gspace", "representations", "size")):
        raise SofteqTypeError(f"field: expected an escnn FieldType, got {type(field).__name__}")
    if field.gspace.dimensionality != 2:
        raise SofteqValueError(f"field: expected a field type of the plane, got one of {field.gspace.name}")
    return field


def base_matrix(field: Any, element: Any) -> Tensor:
    """How a group element moves places (column, row) about the image's centre: ``(2, 2)`` in float64."""
    return torch.as_tensor(field.gspace.basespace_action(element), dtype=torch.float64) * _ROWS_DOWN


def fibre_matrix(field: Any, element: Any) -> Tensor:
    """How a group element moves channels: ``(field.size, field.size)`` in float64.

    Raises:
        SofteqValueError: the element belongs to another group.
    """
    group = field.gspace.fibergroup
    if getattr(element, "group", None) != group:
        raise SofteqValueError(f"element: expected one of {group.name}, e.g. field.gspace.fibergroup.sample()")
    blocks = [torch.as_tensor(rep(element), dtype=torch.float64) for rep in field.representations]
    return torch.block_diag(*blocks)


def fibre_generator(field: Any, matrix: Tensor) -> Tensor:
    """The derivative of the fibre's matrix along a flow of places: ``(field.size, field.size)`` in float64.

    Args:
        field: an escnn ``FieldType`` of the plane.
        matrix: of the flow on (column, row), ``(2, 2)``, before any change of resolution.

    Raises:
        NotMeasurable: the group is discrete and has no derivative, or does not contain the flow (scale, shears).
    """
    if not matrix.any():  # translations leave the fibre alone, whatever the group
        return torch.zeros(field.size, field.size, dtype=torch.float64)
    group = field.gspace.fibergroup
    if not group.continuous:
        raise NotMeasurable(
            f"{field.gspace.name} is discrete: its fibre has no derivative along a rotation; measure exact elements "
            "with equivariance_error and field_element"
        )
    turn = _generator(field.gspace.basespace_action) * _ROWS_DOWN
    speed = (matrix * turn).sum() / (turn * turn).sum()
    if float((matrix - speed * turn).norm()) > _TOLERANCE * float(matrix.norm()):
        raise NotMeasurable(
            f"a field type of {field.gspace.name} says how its fibre moves under rotations and translations alone, "
            "not under scale, shears or stretches; measure those with field=None or leave them out"
        )
    return speed * torch.block_diag(*[_generator(rep) for rep in field.representations])


def _generator(rep: Any) -> Tensor:
    """d/dangle at 0 of a representation of SO(2) or O(2): its irreps turn by 0 or k times the angle."""
    blocks = []
    for identity in rep.irreps:
        irrep = rep.group.irrep(*identity)
        k = float(irrep.attributes["frequency"])
        turn = torch.tensor([[0.0, -k], [k, 0.0]], dtype=torch.float64)
        blocks.append(turn if irrep.size == 2 else torch.zeros(1, 1, dtype=torch.float64))
    basis, inverse = (torch.as_tensor(m, dtype=torch.float64) for m in (rep.change_of_basis, rep.change_of_basis_inv))
    return basis @ torch.block_diag(*blocks) @ inverse
