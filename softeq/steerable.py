"""Convolutions that are equivariant under rotations and reflections, of the plane or space, as far as priced to.

On escnn (Cesa, Lang and Weiler 2022), imported where a layer is built: ``pip install 'softeq[escnn]'``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from softeq._arguments import no_equivariant_map
from softeq._field_conv import FieldConv, on_fields
from softeq._filters import BiasBasis, FilterBasis
from softeq._grid_filters import OPTIONS, field_type
from softeq._grid_types import GridType, fields_of_one_group
from softeq._ladder import described, part_of, signature_of
from softeq._nested_planar import planar_ladders
from softeq._residuals import uniform
from softeq._windows import CONVOLUTIONS, TRANSPOSED, Window, check_channels, per_axis, square_geometry, times
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
    from escnn.gspaces import GSpace
    from escnn.nn import FieldType


class SteerableConv(MergedLayer):
    """A steerable convolution plus a free one, merged into one convolution of torch's.

    `SoftR2Conv` and `SoftR3Conv` are this layer over the plane and over space.

    Args:
        in_type, out_type: escnn ``FieldType``s of one gspace, with any representations. Over the plane: C_n, D_n,
            SO(2), O(2) or a subgroup, input ``(N, in_type.size, H, W)`` or without N. Over space: the octahedral or
            the icosahedral group, SO(3), O(3) or a subgroup, input ``(N, in_type.size, D, H, W)``.
        kernel_size: taps per side of the square, or cubic, filter. Of 1 it is the pointwise layer: the linear maps that
            commute with the group, at each place.
        stride, padding, dilation: whole numbers, in pixels and in all directions, as the rotations mix these.
        transposed: whether it is the transposed convolution (``nn.ConvTranspose2d``), for larger outputs.
        output_padding: of a transposed one, more outputs at the end of each axis. Then the centre of the output is not
            that of the input, and no rotation maps one grid as it does the other: with stride 2 take 4 taps and
            padding 1, which need none.
        groups: input and output types must repeat this many times.
        padding_mode: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``; transposed, zeros.
        bias: whether there is a bias; its equivariant part is on the trivial irreps alone, the residual's on channels.
        constraint: ``"soft"``, ``"hard"`` (what escnn's ``R2Conv`` or ``R3Conv`` computes) or ``"none"``.
        options: for these, among ``frequencies_cutoff``, ``rings``, ``sigma`` and ``basis_filter``.
        ladder: over the plane, escnn's gspaces of nested groups, that of the types first, e.g. ``[flipRot2dOnR2(-1),
            rot2dOnR2(8), rot2dOnR2(4)]``: between the two pathways there is one for each further group, under the
            group's name (``"C8"``): filters that the groups before do not allow, in coordinates.

    Plain tensors in give plain tensors out, geometric ones geometric ones. Folding gives torch's own convolution, or,
    where the layer has been given geometric tensors or stands among escnn's modules, a `FieldConv` that takes both.

    What is equivariant. Under quarter turns and flips of the grid, as far as they belong to the group, the hard layer
    is exact to rounding (images must be square, volumes cubic, and with a stride the windows must end at the last
    pixel); between them it is as good as escnn's sampled filters. These are limited in frequency, so that fine filters
    that a quarter turn leaves alone count as part of the ``weight_defect`` too: widen ``frequencies_cutoff`` to keep
    them.

    The equivariant weight is stored as coordinates in an orthonormal basis of escnn's filters, ``(rank,)``, and the
    residual one as ``(out, in / groups, *kernel)``, so that the prior prices both by the Frobenius norm of the filter;
    the basis depends on the span of escnn's filters alone, and a checkpoint with it. ``weight`` has torch's layout,
    that of ``nn.ConvTranspose2d`` where the layer is transposed: ``(in, out / groups, *kernel)``.

    Initialisation: the coordinates are normal, scaled per output field to the variance that ``nn.Conv2d`` gives, 1/3
    of the mean square input; escnn's own start is the square root of 3 larger or more. Of a transposed layer it is the
    mean over the outputs, which see a filter's taps by turns. The residual starts at 1e-3 of that size, so that a soft
    layer starts at its hard twin.

    Raises:
        MissingExtraError: escnn is not installed.
        SofteqTypeError, SofteqValueError: a bad argument, by its name; no equivariant filter of this size.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_type: FieldType,
        out_type: FieldType,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        transposed: bool = False,
        output_padding: int = 0,
        groups: int = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        constraint: str = "soft",
        options: Mapping[str, Any] | None = None,
        ladder: Sequence[GSpace] | None = None,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        field_type(in_type, "in_type", self.dims), field_type(out_type, "out_type", self.dims)
        if in_type.gspace != out_type.gspace:
            raise SofteqValueError(
                f"out_type: expected fields of the group of in_type, {in_type.gspace}, got {out_type.gspace}"
            )
        self.types = GridType.of(in_type), GridType.of(out_type)
        self.saw_fields = False
        self.constraint, self.has_bias = constraint, bias
        self.window = Window(
            self._alike(kernel_size, "kernel_size", 1),
            self._alike(stride, "stride", 1),
            self._alike(padding, "padding", 0),
            self._alike(dilation, "dilation", 1),
            groups,
            padding_mode,
            transposed,
            self._alike(output_padding, "output_padding", 0),
        )
        check_channels(in_type.size, out_type.size, groups)
        self.options = dict(options or {})
        unknown = sorted(set(self.options) - set(OPTIONS))
        if unknown:
            raise SofteqValueError(f"options: expected keys among {OPTIONS}, got {unknown}")
        inputs = fields_of_one_group(in_type.representations, groups, "in_type")
        fields_of_one_group(out_type.representations, groups, "out_type")
        fields = GridType(in_type.gspace, inputs), self.types[1]
        self.basis = FilterBasis(*fields, kernel_size, dilation, self.options)
        self.bias_basis = BiasBasis(self.types[1]) if bias else None
        if EQUIVARIANT in names and self.basis.rank == 0:
            raise no_equivariant_map(f"{times(self.window.kernel)} pixels of {in_type}", out_type)
        if ladder is not None:
            ladders = planar_ladders(self.basis, self.bias_basis, in_type.gspace, ladder, PATHWAYS)
            self.ladders = ladders if constraint == "soft" else {}
        order = [EQUIVARIANT, *self.rungs, RESIDUAL] if self.rungs else names
        self.pathways = nn.ModuleDict({name: self._start(name, alone=len(names) == 1) for name in order})

    def _alike(self, value: Any, name: str, least: int) -> tuple[int, ...]:
        if not isinstance(value, int):
            raise SofteqTypeError(f"{name}: expected one whole number for all directions, got {value!r}")
        return per_axis(value, name, least, self.dims)

    def _start(self, name: str, alone: bool) -> Weights:
        # An output of a transposed layer meets one in stride^d taps.
        gain = math.sqrt(math.prod(self.window.stride)) if self.window.transposed else 1.0
        bound = gain / math.sqrt(math.prod(self.basis.shape[1:]))
        offset = uniform(self.basis.shape[:1], bound) if self.has_bias else None
        if name == EQUIVARIANT:
            own = None if offset is None or self.bias_basis is None else self.bias_basis.coordinates_of(offset)
            normal = torch.randn(self.basis.rank)
            start = normal * (gain * self.basis.start.to(normal.device))
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
        kind = " transposed" if self.window.transposed else ""
        return f"{self.in_type} -> {self.out_type}{kind}, options {options}{signature_of(self.ladders)}"

    def laid_out(self, weight: Tensor) -> Tensor:
        """Filters ``(out, in / groups, *kernel)`` in torch's layout, see the class; or back from it."""
        return self.window.swapped(weight) if self.window.transposed else weight

    def expand(self, part: str, own: Tensor, base: Tensor | None) -> Tensor:
        """``base`` plus the filter, or the bias, with these coordinates."""
        basis = self.basis if part == "weight" or self.bias_basis is None else self.bias_basis
        expanded = basis.expand(own)
        return expanded if base is None else base + expanded

    def nearest(self, weight: Tensor) -> Tensor:
        """The projection onto escnn's filters, in torch's layout."""
        return self.laid_out(self.basis(self.laid_out(weight)))

    def forward(self, x: Any) -> Any:
        """``(N, in, *size)`` or ``(in, *size)`` to ``(N, out, *out_size)``; a ``GeometricTensor`` to another."""
        if isinstance(x, Tensor):
            return self._convolve(x)
        self.saw_fields = True  # what it folds into must take them too
        return on_fields(x, self._convolve, self.types)

    def _convolve(self, x: Tensor) -> Tensor:
        if x.dim() - self.dims not in (1, 2) or x.shape[-self.dims - 1] != self.in_type.size:
            wanted = ", ".join(["N", str(self.in_type.size), *"DHW"[-self.dims :]])
            raise SofteqValueError(f"x: expected shape ({wanted}), got {tuple(x.shape)}")
        self.window.output_size(x.shape[-self.dims :])
        return self.window.convolve(x, *self.merged_for(x))

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The plain convolution that this layer equals, with copies of the merged filter and bias."""
        return self.window.plain(self.weight, self.bias).train(self.training)

    def on_fields(self, conv: nn.Module) -> FieldConv:
        """What this layer folded into, on geometric tensors as well."""
        return FieldConv(conv, self.types)

    @classmethod
    @torch.no_grad()
    def from_conv(
        cls,
        conv: nn.Module,
        in_type: FieldType,
        out_type: FieldType,
        *,
        constraint: str = "soft",
        ladder: Sequence[GSpace] | None = None,
        **options: Any,
    ) -> Self:
        """The layer that starts as this convolution of torch's: its filter's projection equivariant, the rest residual.

        ``"soft"`` and ``"none"`` compute what it computes; ``"hard"`` is the nearest equivariant layer.

        Raises:
            SofteqTypeError: no ``nn.Conv2d`` or ``nn.ConvTranspose2d``, over space ``nn.Conv3d`` or its transpose.
            SofteqValueError: a kernel, stride, padding or dilation that is not square, or types of other sizes.
        """
        plain = CONVOLUTIONS[cls.dims], TRANSPOSED[cls.dims]
        if not isinstance(conv, plain):
            raise SofteqTypeError(f"conv: expected an nn.{plain[0].__name__}, got {type(conv).__name__}")
        if (conv.in_channels, conv.out_channels) != (in_type.size, out_type.size):
            raise SofteqValueError(
                f"conv: expected {in_type.size} -> {out_type.size} channels for these types, got {conv}"
            )
        layer = cls(
            in_type,
            out_type,
            **square_geometry(conv),
            transposed=isinstance(conv, plain[1]),
            groups=conv.groups,
            padding_mode=conv.padding_mode,
            bias=conv.bias is not None,
            constraint=constraint,
            options=options,
            ladder=ladder,
        )
        layer = layer.to(conv.weight.device, conv.weight.dtype).train(conv.training)
        layer._split(layer.laid_out(conv.weight), conv.bias)
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
        tail = f"constraint={self.constraint!r}{described(self.ladders)}"
        return f"{self.in_type}, {self.out_type}, {self.window}, {tail}"


class SoftR2Conv(SteerableConv):
    """A `SteerableConv` over the plane, ``(N, in, H, W)``: escnn's ``R2Conv``, soft."""

    dims = 2


class SoftR3Conv(SteerableConv):
    """A `SteerableConv` over space, ``(N, in, D, H, W)``: escnn's ``R3Conv``, soft."""

    dims = 3
