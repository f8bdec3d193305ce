"""Convolutions that may leave their translation symmetry, over series, images and volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from softeq._arguments import check_dtype, check_read, whole
from softeq._residuals import RESIDUALS, uniform
from softeq._windows import CONVOLUTIONS, Window, check_channels, padding_of, per_axis
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    pathways_of,
    relative_defect,
)

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
_SIZES = {1: "the series' length", 2: "the images' (H, W)", 3: "the volumes' (D, H, W)"}

Sizes = int | Sequence[int]
"""A whole number for every axis of the grid, or one for each."""


class SoftConv(MergedLayer):
    """A convolution plus unshared weights: ``conv2d(x) + residual(x)`` (Finzi, Benton, Wilson 2021, section 5).

    `SoftConv1d`, `SoftConv2d` and `SoftConv3d` are this layer over series, images and volumes.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``nn.Conv2d``, whole numbers or
            one for each axis, of an image ``(vertical, horizontal)``.
        size: of the grid, ``(L,)``, ``(H, W)`` or ``(D, H, W)``; input ``(N, in_channels, *size)`` or without N.
            ``None`` where the layer is hard and takes any.
        padding_mode: ``"zeros"`` or ``"circular"``.
        bias: whether there is a bias: per channel ``(out,)``, and in the residual per channel and position.
        constraint: ``"soft"``, ``"hard"`` (the convolution alone) or ``"none"`` (the residual alone).
        residual: ``"dense"``, from any position and channel to any, whatever the groups (the paper's);
            ``"local"``, a kernel per output position; or ``"lowrank"``, kernels per output position that are
            combinations of ``rank`` shared ones, with ``rank`` numbers per position.
        rank: of the low-rank residual.

    One operation or two. ``local`` merges: the kernel is added to those of every position, then one batched matrix
    product. ``lowrank`` is one convolution with ``rank + 1`` times the output channels and a weighted sum per position.
    ``dense`` runs a convolution beside the linear map: merging first would copy the largest tensor of the layer.
    ``weight`` is always the merged one: ``(out, in / groups, *kernel)`` if hard, ``(out, *out_size, in, *size)`` if
    dense, else ``(*out_size, out, in / groups, *kernel)``.

    Folding gives ``nn.Conv2d``, or its kin, if hard, for ``dense`` an ``nn.Linear`` between flatten and unflatten, for
    ``local`` and ``lowrank`` the plain modules of ``softeq.unshared``.

    What is equivariant. The hard layer's maps: convolutions with this kernel, stride and padding. With circular padding
    and stride 1 they commute with every shift; with zeros as far as the border is not reached. As matrices they are
    those in which all copies of a kernel tap, one per output position at which it lies inside the image, are equal:
    the orthogonal projector takes each tap's mean over those positions. ``weight_defect`` is the distance to them in
    the Frobenius norm of the whole map.

    The prior prices each stored number once: a shared kernel tap is one number, although it stands for ``copies``
    entries of the map. So the best split of unshared weights W costs, per tap with n copies and precisions p,
    ``1/2 p_e p_r n / (p_e + n p_r) mean(W)^2 + 1/2 p_r ||W - mean(W)||^2``; to price the kernel as a coordinate in an
    orthonormal basis, as SoftLinear's, give the equivariant pathway n times the precision.

    Initialisation: the kernel and its bias as in ``nn.Conv2d``; the residual at 1e-3 of an unconstrained layer of its
    form, so that a soft layer starts at its hard twin. Its low-rank kernels start at full size and its coefficients at
    1e-3: a product of two small factors would have hardly any gradient.

    Raises:
        SofteqTypeError, SofteqValueError: a bad argument, by its name; a grid smaller than the kernel covers.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        size: Sizes | None = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        residual: str = "dense",
        rank: int = 4,
        constraint: str = "soft",
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        check_channels(in_channels, out_channels, groups)
        if padding_mode not in ("zeros", "circular"):
            raise SofteqValueError(f"padding_mode: expected 'zeros' or 'circular', got {padding_mode!r}")
        if not isinstance(residual, str) or residual not in RESIDUALS:
            raise SofteqValueError(f"residual: expected one of {tuple(RESIDUALS)}, got {residual!r}")
        whole("rank", rank, 1)
        if size is None and RESIDUAL in names:
            raise SofteqValueError(f"size: expected {_SIZES[self.dims]}, as the residual has weights per position")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.constraint, self.residual, self.rank, self.has_bias = constraint, residual, rank, bias
        self.window = Window(
            per_axis(kernel_size, "kernel_size", 1, self.dims),
            per_axis(stride, "stride", 1, self.dims),
            per_axis(padding, "padding", 0, self.dims),
            per_axis(dilation, "dilation", 1, self.dims),
            groups,
            padding_mode,
        )
        self.size = None if size is None else per_axis(size, "size", 1, self.dims)
        self._check_circular()
        self.out_size = None if self.size is None else self.window.output_size(self.size)
        self.pathways = nn.ModuleDict({name: self._pathway(name, alone=len(names) == 1) for name in names})

    def _check_circular(self) -> None:
        if self.size is None or self.window.mode != "circular":
            return
        for n, extent, padding in zip(self.size, self.window.extent, self.window.padding, strict=True):
            if max(extent, padding) > n:
                raise SofteqValueError(
                    f"kernel_size: with circular padding the kernel covers {self.window.extent} pixels, padded by "
                    f"{self.window.padding}, of an image of {self.size}: two taps would read one pixel; take a "
                    "smaller kernel or padding_mode='zeros'"
                )

    def _pathway(self, name: str, alone: bool) -> nn.Module:
        if name == RESIDUAL and self.size is not None:
            channels, factor = (self.in_channels, self.out_channels), 1.0 if alone else RESIDUAL_START
            form = RESIDUALS[self.residual]
            return form(channels, self.size, self.window, factor=factor, bias=self.has_bias, rank=self.rank)
        shape = (self.out_channels, self.in_channels // self.window.groups, *self.window.kernel)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return Weights(uniform(shape, bound), uniform((self.out_channels,), bound) if self.has_bias else None)

    @property
    def signature(self) -> str:
        """See ``SoftLayer.signature``; written out, since checkpoints hold it."""
        w = self.window
        geometry = f"kernel={w.kernel}, stride={w.stride}, padding={w.padding}, dilation={w.dilation}"
        return f"Window({geometry}, groups={w.groups}, mode={w.mode!r}), size {self.size}"

    def _merged_part(self, part: str) -> Tensor | None:
        own, free = check_read(self.pathway(EQUIVARIANT)), check_read(self.pathway(RESIDUAL))
        shared = None if own is None else getattr(own, part)
        if free is None:
            return shared
        if part == "weight":
            return free.merged(shared)
        return free.bias if free.bias is None or shared is None else free.bias + shared.view(-1, *[1] * self.dims)

    def nearest(self, weight: Tensor) -> Tensor:
        """The merged weight of the nearest convolution: each tap's mean over the positions where it is in the image."""
        residual = self.pathway(RESIDUAL)
        return weight if residual is None else residual.nearest(weight)

    @property
    def copies(self) -> Tensor:
        """How many entries of the whole linear map a kernel tap stands for, per pair of channels, ``(*kernel)``."""
        if self.size is None:
            raise SofteqValueError("copies: expected a layer that was built with size=(H, W), got one without")
        return (self.window.sources(self.size) >= 0).sum(1).view(self.window.kernel)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in, *size)`` to ``(N, out, *out_size)``; without N too. Under autocast weights are merged before."""
        self._check(x)
        check_dtype(x, next(self.parameters()))
        residual = self.pathway(RESIDUAL)
        if residual is None:
            return self.window.convolve(x, self.weight, self.bias)
        batched = x.dim() == self.dims + 2
        y = residual.compute(x if batched else x[None], self._kernel(), self.bias)
        return y if batched else y[0]

    def _kernel(self) -> Tensor | None:
        own = self.pathway(EQUIVARIANT)
        return None if own is None else own.weight

    def _check(self, x: Tensor) -> None:
        wanted = _AXES[self.dims] if self.size is None else ", ".join(map(str, self.size))
        if x.dim() - self.dims not in (1, 2) or x.shape[-self.dims - 1] != self.in_channels:
            raise SofteqValueError(f"x: expected shape (N, {self.in_channels}, {wanted}), got {tuple(x.shape)}")
        if self.size is None:
            self.window.output_size(x.shape[-self.dims :])
        elif tuple(x.shape[-self.dims :]) != self.size:
            raise SofteqValueError(
                f"x: expected inputs of the declared size ({wanted}), got shape {tuple(x.shape)}; build the layer "
                "with size= of the inputs, as its residual has weights per position"
            )

    @torch.no_grad()
    def weight_defect(self) -> float:
        """``||W - P(W)|| / ||W||`` of the whole linear map in float64, in [0, 1]; 0 for a map of zeros."""
        residual = self.pathway(RESIDUAL)
        return relative_defect(0.0, 1.0) if residual is None else relative_defect(*residual.defect(self._kernel()))

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The plain layer that this one equals, of copies; which one, see the class."""
        residual = self.pathway(RESIDUAL)
        if residual is not None:
            return residual.plain(self._kernel(), self.bias).train(self.training)
        return self.window.plain(self.weight, self.bias).train(self.training)

    @classmethod
    @torch.no_grad()
    def from_conv(
        cls, conv: nn.Module, size: Sizes, *, residual: str = "local", rank: int = 4, constraint: str = "soft"
    ) -> Self:
        """The layer that computes what this ``nn.Conv2d``, or its kin, does: its kernel equivariant, the residual 0.

        The low-rank residual is zero by its coefficients, so that it can leave zero.

        Raises:
            SofteqTypeError: no convolution of torch's over such grids.
            SofteqValueError: padding of unequal sides or another mode, or ``constraint="none"``, which has no kernel.
        """
        plain = CONVOLUTIONS[cls.dims]
        if not isinstance(conv, plain):
            raise SofteqTypeError(f"conv: expected an nn.{plain.__name__}, got {type(conv).__name__}")
        if constraint == "none":
            raise SofteqValueError("constraint: expected 'soft' or 'hard', got 'none'")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            size=size,
            stride=conv.stride,
            padding=padding_of(conv),
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            residual=residual,
            rank=rank,
            constraint=constraint,
        )
        layer = layer.to(conv.weight.device, conv.weight.dtype).train(conv.training)
        own = layer.pathway(EQUIVARIANT)
        own.weight.copy_(conv.weight)
        if conv.bias is not None:
            own.bias.copy_(conv.bias)
        if RESIDUAL in layer.pathways:
            for name, parameter in layer.pathways[RESIDUAL].named_parameters():
                if name != "kernels":
                    parameter.zero_()
        return layer

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, {self.window}, size={self.size}, residual={self.residual!r}, "
            f"constraint={self.constraint!r}"
        )


class SoftConv1d(SoftConv):
    """A `SoftConv` over series: ``(N, in, L)`` to ``(N, out, L')``; ``size=L``. Hard, it is ``nn.Conv1d``."""

    dims = 1


class SoftConv2d(SoftConv):
    """A `SoftConv` over images: ``(N, in, H, W)`` to ``(N, out, H', W')``; ``size=(H, W)``.

    Hard, it is ``nn.Conv2d``.
    """

    dims = 2


class SoftConv3d(SoftConv):
    """A `SoftConv` over volumes: ``(N, in, D, H, W)`` to ``(N, out, D', H', W')``; ``size=(D, H, W)``.

    Hard, it is ``nn.Conv3d``. The dense residual of a volume is large: ``"local"`` and ``"lowrank"`` have a kernel, or
    ``rank`` numbers, per position.
    """

    dims = 3
