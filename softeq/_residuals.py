"""The residual pathways of ``SoftConv2d`` and its kin: weights that are not shared between positions, in three forms.

Each computes the whole layer, the shared kernel K plus its own weights, from K, or ``None`` where the layer has none.
With zero padding a tap that lies outside the image multiplies zero; such weights are no part of the linear map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._constants import Constants
from softeq._windows import Window, times
from softeq.errors import SofteqValueError
from softeq.unshared import LocalConv, LowRankConv, Unaligned, add_bias, local_conv, low_rank_conv

LARGEST_DENSE = 2**31
"""The most weights that a dense residual may have: 8 GiB in float32."""


def uniform(shape: tuple[int, ...], bound: float) -> Tensor:
    """Uniform between ``-bound`` and ``bound``."""
    return torch.empty(shape).uniform_(-bound, bound)


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


class Residual(Unaligned, ABC):
    """A residual pathway with unshared weights; its parameters are its own, the shared kernel is handed in.

    Args:
        channels: ``(in, out)``.
        size: of the grid, e.g. ``(H, W)`` of an image.
        window: the geometry; at most as large as the grid where padding is circular.
        factor: of the size at which an unconstrained layer of this form starts.
        bias: whether there is a bias ``(out, *out_size)``.
        rank: how many kernels the low-rank form combines; the others have no use for it.
    """

    bias: nn.Parameter | None
    fan_in: int

    def __init__(
        self,
        channels: tuple[int, int],
        size: tuple[int, ...],
        window: Window,
        *,
        factor: float,
        bias: bool,
        rank: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = channels
        self.size, self.window, self.out_size = size, window, window.output_size(size)
        self.positions = math.prod(self.out_size)
        self.kernel_shape = (self.out_channels, self.in_channels // window.groups, *window.kernel)
        self._make(factor, rank)
        start = uniform((self.out_channels, *self.out_size), factor / math.sqrt(self.fan_in)) if bias else None
        self.register_parameter("bias", None if start is None else nn.Parameter(start))

    @property
    def start_squares(self) -> dict[str, float]:
        """Per parameter the mean square at which an unconstrained layer of this form starts."""
        return {name: 1 / (3 * self.fan_in) for name, _ in self.named_parameters(recurse=False)}

    @abstractmethod
    def _make(self, factor: float, rank: int) -> None:
        """Makes the weights, and sets how many inputs an output number sees."""

    @abstractmethod
    def compute(self, x: Tensor, kernel: Tensor | None, bias: Tensor | None) -> Tensor:
        """The layer's output for ``(N, C, *size)``, with the merged bias."""

    @abstractmethod
    def merged(self, kernel: Tensor | None) -> Tensor:
        """The weight of the plain layer."""

    @abstractmethod
    def nearest(self, weight: Tensor) -> Tensor:
        """The merged weight of the nearest convolution."""

    @abstractmethod
    def defect(self, kernel: Tensor | None) -> tuple[float, float]:
        """``||W - P(W)||^2`` and ``||P(W)||^2``, W the whole linear map, P onto the convolutions; in float64."""

    @abstractmethod
    def plain(self, kernel: Tensor | None, bias: Tensor | None) -> nn.Module:
        """The layer as a module without pathways, of copies."""


def _inside(window: Window, size: tuple[int, ...]) -> dict[str, Tensor]:
    """Which taps lie inside the image at which output position, ``(taps, positions)``."""
    return {"inside": window.sources(size) >= 0}


def _copies(window: Window, size: tuple[int, ...], channels: tuple[int, int]) -> dict[str, Tensor]:
    """Where the copies of each tap of a kernel stand in a dense map, per pair of channels, and which tap each is."""
    inn, out = channels
    sources, own_size = window.sources(size), window.output_size(size)
    taps, positions = torch.nonzero(sources >= 0, as_tuple=True)
    outputs = torch.arange(out)[:, None] * math.prod(own_size) + positions
    # Channel i of the kernel's second axis is channel i of the output channel's own group.
    own = torch.arange(out) // (out // window.groups)
    first = (torch.arange(inn) * math.prod(size)).view(window.groups, -1, 1)[own]
    return {"places": outputs[:, None] * (inn * math.prod(size)) + first + sources[taps, positions], "taps": taps}


class DenseResidual(Residual):
    """From any position and channel to any, ``(out, *out_size, in, *size)``: the paper's."""

    def _make(self, factor: float, rank: int) -> None:
        self.fan_in = self.in_channels * math.prod(self.size)
        entries = self.fan_in * self.out_channels * self.positions
        if entries > LARGEST_DENSE:
            raise SofteqValueError(
                f"residual: 'dense' needs {entries:.1e} weights for a grid of {times(self.size)}: "
                "expected 'local' or 'lowrank' for layers of this size"
            )
        shape = (self.out_channels, *self.out_size, self.in_channels, *self.size)
        self.weight = nn.Parameter(uniform(shape, factor / math.sqrt(self.fan_in)))
        self.constants = Constants.of(_copies, self.window, self.size, (self.in_channels, self.out_channels))

    def compute(self, x: Tensor, kernel: Tensor | None, bias: Tensor | None) -> Tensor:
        """Two operations in the soft layer: a merged copy of the dense weight would cost more than the convolution."""
        flat = self.weight.reshape(-1, self.fan_in)
        y = F.linear(x.flatten(1), flat).unflatten(1, (self.out_channels, *self.out_size))
        return add_bias(y if kernel is None else y + self.window.convolve(x, kernel), bias)

    def merged(self, kernel: Tensor | None) -> Tensor:
        """``(out, *out_size, in, *size)``."""
        return self.weight if kernel is None else self.spread(kernel, self.weight)

    def spread(self, kernel: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the dense map of the convolution with this kernel."""
        found = self.constants.on(kernel)
        values = kernel.flatten(2).index_select(2, found["taps"])
        return base.reshape(-1).scatter_add(0, found["places"].reshape(-1), values.reshape(-1)).view(base.shape)

    def shared_part(self, weight: Tensor) -> Tensor:
        """The kernel of the nearest convolution: the mean of each tap's copies, ``(out, in / groups, *kernel)``."""
        found = self.constants.on(weight)
        copies = found["taps"].bincount(minlength=self.window.taps).clamp_min(1)
        values = weight.reshape(-1)[found["places"]]
        sums = values.new_zeros(*self.kernel_shape[:2], self.window.taps).index_add(2, found["taps"], values)
        return (sums / copies).view(self.kernel_shape)

    def nearest(self, weight: Tensor) -> Tensor:
        """See ``Residual.nearest``."""
        return self.spread(self.shared_part(weight), torch.zeros_like(weight))

    def defect(self, kernel: Tensor | None) -> tuple[float, float]:
        """See ``Residual.defect``."""
        weight = self.merged(kernel).double()
        near = self.nearest(weight)
        return float((weight - near).square().sum()), float(near.square().sum())

    def plain(self, kernel: Tensor | None, bias: Tensor | None) -> nn.Module:
        """Flatten, ``nn.Linear``, unflatten: torch's own modules alone."""
        weight = self.merged(kernel).reshape(-1, self.fan_in)
        linear = nn.Linear(self.fan_in, weight.shape[0], bias is not None, weight.device, weight.dtype)
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias.flatten())
        flatten = nn.Flatten(-1 - self.window.dims)
        return nn.Sequential(flatten, linear, nn.Unflatten(-1, (self.out_channels, *self.out_size)))


class LocalResidual(Residual):
    """A kernel per output position, ``(*out_size, out, in / groups, *kernel)``."""

    def _make(self, factor: float, rank: int) -> None:
        self.fan_in = math.prod(self.kernel_shape[1:])
        self.weight = nn.Parameter(uniform((*self.out_size, *self.kernel_shape), factor / math.sqrt(self.fan_in)))
        self.constants = Constants.of(_inside, self.window, self.size)

    def compute(self, x: Tensor, kernel: Tensor | None, bias: Tensor | None) -> Tensor:
        """One batched matrix product with the merged kernels."""
        return local_conv(x, self.merged(kernel), bias, self.window)

    def merged(self, kernel: Tensor | None) -> Tensor:
        """``(*out_size, out, in / groups, *kernel)``."""
        return self.weight if kernel is None else self.weight + kernel

    def nearest(self, weight: Tensor) -> Tensor:
        """See ``Residual.nearest``."""
        return _mean_over_positions(weight, self.constants.on(weight)["inside"])

    def defect(self, kernel: Tensor | None) -> tuple[float, float]:
        """See ``Residual.defect``; what lies outside the image is no part of the map."""
        weight = self.merged(kernel).double()
        near = self.nearest(weight)
        weight = weight * _places_inside(weight, self.constants.on(weight)["inside"])
        return float((weight - near).square().sum()), float(near.square().sum())

    def plain(self, kernel: Tensor | None, bias: Tensor | None) -> nn.Module:
        """A ``LocalConv``."""
        return LocalConv(self.merged(kernel).clone(), _copied(bias), self.window)


class LowRankResidual(Residual):
    """``sum_r coefficients[r, p] kernels[r]``: ``(rank, *out_size)`` and ``(rank, out, in / groups, *kernel)``.

    Zero coefficients make it zero while they still receive a gradient; both factors are priced by the prior, so that
    at the optimum of the split between them the price of each term is ``precision ||coefficients|| ||kernel||``. Around
    means (``softeq.anchor``, which ``soften`` calls) each factor is priced by its distance from its start, 0 there.
    """

    def _make(self, factor: float, rank: int) -> None:
        self.fan_in = math.prod(self.kernel_shape[1:])
        self.kernels = nn.Parameter(uniform((rank, *self.kernel_shape), 1 / math.sqrt(self.fan_in)))
        self.coefficients = nn.Parameter(torch.randn(rank, *self.out_size) * (factor / math.sqrt(rank)))
        self.constants = Constants.of(_inside, self.window, self.size)

    @property
    def start_squares(self) -> dict[str, float]:
        """Of each factor the mean square at which, both alike, their sum of products has that of a dense layer."""
        factor = 1 / math.sqrt(3 * self.fan_in * len(self.kernels))
        return super().start_squares | {"kernels": factor, "coefficients": factor}

    def nearest(self, weight: Tensor) -> Tensor:
        """See ``Residual.nearest``."""
        return _mean_over_positions(weight, self.constants.on(weight)["inside"])

    def compute(self, x: Tensor, kernel: Tensor | None, bias: Tensor | None) -> Tensor:
        """One convolution with ``rank + 1`` times the output channels, and their sum per position."""
        return low_rank_conv(x, kernel, self.kernels, self.coefficients, bias, self.window)

    def merged(self, kernel: Tensor | None) -> Tensor:
        """``(*out_size, out, in / groups, *kernel)``, as a local layer's: for inspection, it may be large."""
        own = self.coefficients.flatten(1).T @ self.kernels.flatten(1)
        own = own.view(*self.out_size, *self.kernel_shape)
        return own if kernel is None else own + kernel

    def defect(self, kernel: Tensor | None) -> tuple[float, float]:
        """See ``Residual.defect``; from the factors, tap by tap, without the merged weight."""
        kernels = self.kernels.double().flatten(1, 2).flatten(2)  # (rank, out * in / groups, taps)
        shared = torch.zeros_like(kernels[0]) if kernel is None else kernel.double().flatten(0, 1).flatten(1)
        coefficients = self.coefficients.double().flatten(1)
        off, near = 0.0, 0.0
        for tap, inside in enumerate(self.constants.on(coefficients)["inside"]):
            alive, own = coefficients[:, inside], kernels[:, :, tap]
            if not alive.shape[1]:
                continue
            mean = alive.mean(1, keepdim=True)
            spread = (alive - mean) @ (alive - mean).T
            off += float((spread * (own @ own.T)).sum())
            near += alive.shape[1] * float((shared[:, tap] + (mean * own).sum(0)).square().sum())
        return max(off, 0.0), near

    def plain(self, kernel: Tensor | None, bias: Tensor | None) -> nn.Module:
        """A ``LowRankConv``: the factors are kept, a local layer would need a kernel per position."""
        factors = self.kernels.clone(), self.coefficients.clone()
        return LowRankConv(_copied(kernel), *factors, _copied(bias), self.window)


def _places_inside(weight: Tensor, inside: Tensor) -> Tensor:
    """``(taps, positions)`` in the layout of a local layer's weight: ``(*out_size, 1, 1, *kernel)``."""
    dims = weight.dim() // 2 - 1
    return inside.T.reshape(*weight.shape[:dims], 1, 1, *weight.shape[dims + 2 :])


def _mean_over_positions(weight: Tensor, inside: Tensor) -> Tensor:
    """``(*out_size, out, in / groups, *kernel)``: each tap's mean over the positions where it is inside the image."""
    own, positions = _places_inside(weight, inside), tuple(range(weight.dim() // 2 - 1))
    return (weight * own).sum(positions) / own.sum(positions).clamp_min(1) * own


RESIDUALS: dict[str, type[Residual]] = {"dense": DenseResidual, "local": LocalResidual, "lowrank": LowRankResidual}
