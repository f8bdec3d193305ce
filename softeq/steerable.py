"""SoftR2Conv: a convolution that is equivariant under rotations and reflections of the plane as far as it is priced to.

On escnn (Cesa, Lang and Weiler 2022), imported where a layer is built: ``pip install 'softeq[escnn]'``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softeq._arguments import no_equivariant_map
from softeq._filters import BiasBasis, FilterBasis
from softeq._ladder import described, part_of, signature_of
from softeq._nested_planar import planar_ladders
from softeq._planar import OPTIONS, field_type
from softeq._planar_types import PlaneType
from softeq._residuals import uniform
from softeq._windows import Window, check_channels, padding_of, pair
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import (
    EQUIVARIANT,
    PATHWAYS,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    pathways_of,
)

if TYPE_CHECKING:
    from escnn.group import Representation
    from escnn.gspaces import GSpace
    from escnn.nn import FieldType


def _square(value: Any, name: str, least: int) -> tuple[int, int]:
    if not isinstance(value, int):
        raise SofteqTypeError(f"{name}: expected one whole number for both directions, got {value!r}")
    return pair(value, name, least)


def _of_one_group(fields: Sequence[Representation], groups: int, name: str) -> list[Representation]:
    """The fields of the first group of channels; raises unless those of the others are the same."""
    count = len(fields) // groups
    first = list(fields[:count])
    if first * groups != list(fields):
        raise SofteqValueError(f"{name}: expected {groups} times the same fields for groups={groups}, got {fields}")
    return first


class FieldConv2d(nn.Module):
    """A plain convolution that takes and gives escnn's geometric tensors where it is given one."""

    def __init__(self, conv: nn.Module, types: tuple[PlaneType, PlaneType]) -> None:
        super().__init__()
        self.conv, self.types = conv, types

    def forward(self, x: Any) -> Any:
        """A tensor to a tensor, a ``GeometricTensor`` of the layer's input type to one of its output type."""
        if isinstance(x, Tensor):
            return self.conv(x)
        return _on_fields(x, self.conv, self.types)


def _on_fields(x: Any, function: Callable[[Tensor], Tensor], types: tuple[PlaneType, PlaneType]) -> Any:
    from escnn.nn import GeometricTensor

    if not isinstance(x, GeometricTensor):
        raise SofteqTypeError(f"x: expected a tensor or an escnn GeometricTensor, got {type(x).__name__}")
    if x.type != types[0].type:
        raise SofteqValueError(f"x: expected fields of type {types[0].type}, got {x.type}")
    return GeometricTensor(function(x.tensor), types[1].type)


class SoftR2Conv(MergedLayer):
    """A steerable convolution plus a free one, merged into one ``conv2d``.

    Args:
        in_type, out_type: escnn ``FieldType``s of one gspace on the plane: C_n, D_n, SO(2), O(2) or a subgroup, with
            any representations. Input ``(N, in_type.size, H, W)`` or without N.
        kernel_size: taps per side of the square filter.
        stride, padding, dilation: whole numbers, in pixels and in both directions, as the rotations mix these.
        groups: input and output types must repeat this many times.
        padding_mode: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``.
        bias: whether there is a bias; its equivariant part is on the trivial irreps alone, the residual's on channels.
        constraint: ``"soft"``, ``"hard"`` (what escnn's ``R2Conv`` computes) or ``"none"``.
        options: for escnn's ``R2Conv``, among ``frequencies_cutoff``, ``rings``, ``sigma`` and ``basis_filter``.
        ladder: escnn's gspaces of nested groups, that of the types first, e.g. ``[flipRot2dOnR2(-1), rot2dOnR2(8),
            rot2dOnR2(4)]``: between the two pathways there is one for each further group, under the group's name
            (``"C8"``): filters that the groups before do not allow, in coordinates.

    Plain tensors in give plain tensors out, geometric ones geometric ones. Folding gives ``nn.Conv2d``, or, where the
    layer has been given geometric tensors or stands among escnn's modules, a `FieldConv2d` that takes both.

    What is equivariant. Under quarter turns and flips of the pixel grid, as far as they belong to the group, the hard
    layer is exact to rounding (images must be square, and with a stride the windows must end at the last pixel);
    between them it is as good as escnn's sampled filters. These are limited in frequency, so that fine filters
    that a quarter turn leaves alone count as part of the ``weight_defect`` too: widen ``frequencies_cutoff`` to keep
    them.

    The equivariant weight is stored as coordinates in an orthonormal basis of escnn's filters, ``(rank,)``, and the
    residual one as ``(out, in / groups, k, k)``, so that the prior prices both by the Frobenius norm of the filter; the
    basis depends on the span of escnn's filters alone, and a checkpoint with it.

    Initialisation: the coordinates are normal, scaled per output field to the variance that ``nn.Conv2d`` gives, 1/3
    of the mean square input; escnn's own start is the square root of 3 larger or more. The residual starts at 1e-3 of
    ``nn.Conv2d``'s, so that a soft layer starts at its hard twin.

    Raises:
        MissingExtraError: escnn is not installed.
        SofteqTypeError, SofteqValueError: a bad argument, by its name; no equivariant filter of this size.
    """

    def __init__(
        self,
        in_type: FieldType,
        out_type: FieldType,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        constraint: str = "soft",
        options: Mapping[str, Any] | None = None,
        ladder: Sequence[GSpace] | None = None,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        field_type(in_type, "in_type"), field_type(out_type, "out_type")
        if in_type.gspace != out_type.gspace:
            raise SofteqValueError(
                f"out_type: expected fields of the group of in_type, {in_type.gspace}, got {out_type.gspace}"
            )
        self.types = PlaneType.of(in_type), PlaneType.of(out_type)
        self.saw_fields = False
        self.constraint, self.has_bias = constraint, bias
        self.window = Window(
            _square(kernel_size, "kernel_size", 1),
            _square(stride, "stride", 1),
            _square(padding, "padding", 0),
            _square(dilation, "dilation", 1),
            groups,
            padding_mode,
        )
        check_channels(in_type.size, out_type.size, groups)
        self.options = dict(options or {})
        unknown = sorted(set(self.options) - set(OPTIONS))
        if unknown:
            raise SofteqValueError(f"options: expected keys among {OPTIONS}, got {unknown}")
        inputs = _of_one_group(in_type.representations, groups, "in_type")
        _of_one_group(out_type.representations, groups, "out_type")
        fields = PlaneType(in_type.gspace, inputs), self.types[1]
        self.basis = FilterBasis(*fields, kernel_size, dilation, self.options)
        self.bias_basis = BiasBasis(self.types[1]) if bias else None
        if EQUIVARIANT in names and self.basis.rank == 0:
            raise no_equivariant_map(f"{kernel_size} x {kernel_size} pixels of {in_type}", out_type)
        if ladder is not None:
            ladders = planar_ladders(self.basis, self.bias_basis, in_type.gspace, ladder, PATHWAYS)
            self.ladders = ladders if constraint == "soft" else {}
        order = [EQUIVARIANT, *self.rungs, RESIDUAL] if self.rungs else names
        self.pathways = nn.ModuleDict({name: self._start(name, alone=len(names) == 1) for name in order})

    def _start(self, name: str, alone: bool) -> Weights:
        bound = 1 / math.sqrt(math.prod(self.basis.shape[1:]))
        offset = uniform(self.basis.shape[:1], bound) if self.has_bias else None
        if name == EQUIVARIANT:
            own = None if offset is None or self.bias_basis is None else self.bias_basis.coordinates_of(offset)
            normal = torch.randn(self.basis.rank)
            start = normal * self.basis.start.to(normal.device)
            return Weights(start, own if own is not None and len(own) else None)
        factor = 1.0 if alone else RESIDUAL_START
        weight = part_of(self.ladders, name, "weight", uniform(self.basis.shape, bound * factor))
        return Weights(weight, None if offset is None else part_of(self.ladders, name, "bias", offset * factor))

    @property
    def in_type(self) -> FieldType:
        """The input's escnn type."""
        return self.types[0].type

    @property
    def out_type(self) -> FieldType:
        """The output's escnn type."""
        return self.types[1].type

    @property
    def signature(self) -> str:
        """See ``SoftLayer.signature``."""
        options = sorted(self.options.items(), key=str)
        return f"{self.in_type} -> {self.out_type}, options {options}{signature_of(self.ladders)}"

    def expand(self, part: str, own: Tensor, base: Tensor | None) -> Tensor:
        """``base`` plus the filter, or the bias, with these coordinates."""
        basis = self.basis if part == "weight" or self.bias_basis is None else self.bias_basis
        expanded = basis.expand(own)
        return expanded if base is None else base + expanded

    def nearest(self, weight: Tensor) -> Tensor:
        """The projection onto escnn's filters, ``(out, in / groups, k, k)``."""
        return self.basis(weight)

    def forward(self, x: Any) -> Any:
        """A tensor ``(N, in, H, W)`` or ``(in, H, W)`` to ``(N, out, H', W')``; a ``GeometricTensor`` to another."""
        if isinstance(x, Tensor):
            return self._convolve(x)
        self.saw_fields = True  # what it folds into must take them too
        return _on_fields(x, self._convolve, self.types)

    def _convolve(self, x: Tensor) -> Tensor:
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_type.size:
            raise SofteqValueError(f"x: expected shape (N, {self.in_type.size}, H, W), got {tuple(x.shape)}")
        self.window.output_size((x.shape[-2], x.shape[-1]))
        return self.window.convolve(x, *self.merged_for(x))

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The plain ``nn.Conv2d`` that this layer equals, with copies of the merged filter and bias."""
        return self.window.plain(self.weight, self.bias).train(self.training)

    def on_fields(self, conv: nn.Module) -> FieldConv2d:
        """What this layer folded into, on geometric tensors as well."""
        return FieldConv2d(conv, self.types)

    @staticmethod
    @torch.no_grad()
    def from_conv(
        conv: nn.Conv2d,
        in_type: FieldType,
        out_type: FieldType,
        *,
        constraint: str = "soft",
        ladder: Sequence[GSpace] | None = None,
        **options: Any,
    ) -> SoftR2Conv:
        """The layer that starts as this ``nn.Conv2d``: the projection of its filter equivariant, the rest residual.

        ``"soft"`` and ``"none"`` compute what it computes; ``"hard"`` is the nearest equivariant layer.

        Raises:
            SofteqTypeError: no ``nn.Conv2d``.
            SofteqValueError: a kernel, stride, padding or dilation that is not square, or types of other sizes.
        """
        if not isinstance(conv, nn.Conv2d):
            raise SofteqTypeError(f"conv: expected an nn.Conv2d, got {type(conv).__name__}")
        geometry: dict[str, Any] = {}
        sides = conv.kernel_size, conv.stride, padding_of(conv), conv.dilation
        for name, both in zip(("kernel_size", "stride", "padding", "dilation"), sides, strict=True):
            if both[0] != both[1]:
                raise SofteqValueError(f"conv: expected one {name} for both directions, got {both}")
            geometry[name] = both[0]
        if (conv.in_channels, conv.out_channels) != (in_type.size, out_type.size):
            raise SofteqValueError(
                f"conv: expected {in_type.size} -> {out_type.size} channels for these types, got {conv}"
            )
        layer = SoftR2Conv(
            in_type,
            out_type,
            **geometry,
            groups=conv.groups,
            padding_mode=conv.padding_mode,
            bias=conv.bias is not None,
            constraint=constraint,
            options=options,
            ladder=ladder,
        )
        layer = layer.to(conv.weight.device, conv.weight.dtype).train(conv.training)
        layer._split(conv.weight, conv.bias)
        return layer

    def _split(self, weight: Tensor, bias: Tensor | None) -> None:
        own = self.pathway(EQUIVARIANT)
        if own is not None:
            own.weight.copy_(self.basis.coordinates_of(weight))
            weight = weight - self.basis.expand(own.weight)
            if bias is not None and own.bias is not None and self.bias_basis is not None:
                own.bias.copy_(self.bias_basis.coordinates_of(bias))
                bias = bias - self.bias_basis.expand(own.bias)
        for name in self.pathways:
            pathway = self.pathway(name)
            if name != EQUIVARIANT:
                pathway.weight.copy_(part_of(self.ladders, name, "weight", weight))
                if bias is not None and pathway.bias is not None:
                    pathway.bias.copy_(part_of(self.ladders, name, "bias", bias))

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        window = self.window
        return (
            f"{self.in_type}, {self.out_type}, kernel_size={window.kernel[0]}, stride={window.stride[0]}, "
            f"padding={window.padding[0]}, dilation={window.dilation[0]}, groups={window.groups}, "
            f"padding_mode={window.mode!r}, constraint={self.constraint!r}{described(self.ladders)}"
        )
