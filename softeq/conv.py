"""SoftConv2d: a convolution that may leave its translation symmetry."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from softeq._arguments import check_dtype, whole
from softeq._residuals import RESIDUALS, uniform
from softeq._windows import Window, check_channels, padding_of, pair
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


class SoftConv2d(MergedLayer):
    """A convolution plus unshared weights: ``conv2d(x) + residual(x)`` (Finzi, Benton, Wilson 2021, section 5).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``nn.Conv2d``, whole numbers or
            pairs ``(vertical, horizontal)``.
        size: ``(H, W)`` of the images, in pixels; input ``(N, in_channels, H, W)`` or ``(in_channels, H, W)``.
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
    ``weight`` is always the merged one: ``(out, in / groups, *kernel)`` if hard, ``(out, H', W', in, H, W)`` if dense,
    else ``(H', W', out, in / groups, *kernel)``.

    Folding gives ``nn.Conv2d`` if hard, for ``dense`` an ``nn.Linear`` between flatten and unflatten, for ``local``
    and ``lowrank`` the plain modules of ``softeq.unshared``.

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
        SofteqTypeError, SofteqValueError: a bad argument, by its name; an image smaller than the kernel covers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        size: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
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
            raise SofteqValueError("size: expected the images' (H, W), as the residual has weights per position")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.constraint, self.residual, self.rank, self.has_bias = constraint, residual, rank, bias
        self.window = Window(
            pair(kernel_size, "kernel_size", 1),
            pair(stride, "stride", 1),
            pair(padding, "padding", 0),
            pair(dilation, "dilation", 1),
            groups,
            padding_mode,
        )
        self.size = None if size is None else pair(size, "size", 1)
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
        """See ``SoftLayer.signature``."""
        return f"{self.window}, size {self.size}"

    def _merged_part(self, part: str) -> Tensor | None:
        own, free = self.pathway(EQUIVARIANT), self.pathway(RESIDUAL)
        shared = None if own is None else getattr(own, part)
        if free is None:
            return shared
        if part == "weight":
            return free.merged(shared)
        return free.bias if free.bias is None or shared is None else free.bias + shared[:, None, None]

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
        """``(N, in, H, W)`` to ``(N, out, H', W')``; without N too. Under autocast weights are merged, then cast."""
        self._check(x)
        check_dtype(x, next(self.parameters()))
        residual = self.pathway(RESIDUAL)
        if residual is None:
            return self.window.convolve(x, self.weight, self.bias)
        batch = x if x.dim() == 4 else x[None]
        y = residual.compute(batch, self._kernel(), self.bias)
        return y if x.dim() == 4 else y[0]

    def _kernel(self) -> Tensor | None:
        own = self.pathway(EQUIVARIANT)
        return None if own is None else own.weight

    def _check(self, x: Tensor) -> None:
        wanted = "H, W" if self.size is None else f"{self.size[0]}, {self.size[1]}"
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise SofteqValueError(f"x: expected shape (N, {self.in_channels}, {wanted}), got {tuple(x.shape)}")
        if self.size is None:
            self.window.output_size((x.shape[-2], x.shape[-1]))
        elif tuple(x.shape[-2:]) != self.size:
            raise SofteqValueError(
                f"x: expected images of the declared size ({wanted}), got shape {tuple(x.shape)}; build the layer "
                "with size= of the images, as its residual has weights per position"
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

    @staticmethod
    @torch.no_grad()
    def from_conv(
        conv: nn.Conv2d,
        size: int | tuple[int, int],
        *,
        residual: str = "local",
        rank: int = 4,
        constraint: str = "soft",
    ) -> SoftConv2d:
        """The layer that computes what this ``nn.Conv2d`` does: its kernel in the equivariant pathway, the residual 0.

        The low-rank residual is zero by its coefficients, so that it can leave zero.

        Raises:
            SofteqTypeError: no ``nn.Conv2d``.
            SofteqValueError: padding of unequal sides or another mode, or ``constraint="none"``, which has no kernel.
        """
        if not isinstance(conv, nn.Conv2d):
            raise SofteqTypeError(f"conv: expected an nn.Conv2d, got {type(conv).__name__}")
        if constraint == "none":
            raise SofteqValueError("constraint: expected 'soft' or 'hard', got 'none'")
        layer = SoftConv2d(
            conv.in_channels,
            conv.out_channels,
            pair(conv.kernel_size, "kernel_size", 1),
            size=size,
            stride=pair(conv.stride, "stride", 1),
            padding=padding_of(conv),
            dilation=pair(conv.dilation, "dilation", 1),
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
        window = self.window
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={window.kernel}, size={self.size}, "
            f"stride={window.stride}, padding={window.padding}, dilation={window.dilation}, groups={window.groups}, "
            f"padding_mode={window.mode!r}, residual={self.residual!r}, constraint={self.constraint!r}"
        )
