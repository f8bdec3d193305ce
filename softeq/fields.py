"""What stands between steerable convolutions: normalisation, pooling and dropout by whole fields, on plain tensors.

escnn (Weiler and Cesa 2019, arXiv 1911.08251) has them on its geometric tensors. Here they need escnn where they are
built, to know what the fields are, and plain tensors where they run: they compile, export and stay when a network is
folded. In evaluation mode `FieldBatchNorm` folds to torch's own ``nn.BatchNorm2d``. Fields over space are taken too:
``(N, C, D, H, W)`` for ``(N, C, H, W)``, ``nn.BatchNorm3d`` for ``nn.BatchNorm2d``.

They commute with the group where its matrices are orthogonal, as those of all of escnn's named representations are:
they use a field's length alone, and its invariant part, which the group leaves where it is. A field without a part in
which every element acts as the identity has no mean to take away.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._constants import Constants
from softeq._filters import BiasBasis
from softeq._grid_filters import field_type
from softeq._grid_types import GridType
from softeq.errors import SofteqTypeError, SofteqValueError

if TYPE_CHECKING:
    from escnn.nn import FieldType


class _OnFields(nn.Module):
    """Sums over the channels of each field, and numbers of fields given to all their channels."""

    def __init__(self, in_type: FieldType) -> None:
        super().__init__()
        field_type(in_type, "in_type")
        self.in_type = GridType(in_type.gspace, in_type.representations)
        self.sizes = tuple(int(rep.size) for rep in self.in_type.representations)
        self.fields, self.channels, self.dims = len(self.sizes), sum(self.sizes), in_type.gspace.dimensionality
        self.positions = tuple(range(2, 2 + self.dims))
        self.constants = Constants.of(_places, self.sizes)

    def summed(self, x: Tensor, dim: int) -> Tensor:
        """Channels ``(..., C, ...)`` summed within each field, ``(..., F, ...)``."""
        if len(set(self.sizes)) == 1:
            return x.unflatten(dim, (self.fields, self.sizes[0])).sum(dim + 1)
        field = self.constants.on(x)["field"]
        shape = [*x.shape[:dim], self.fields, *x.shape[dim + 1 :]]
        return x.new_zeros(shape).index_add(dim, field, x)

    def spread(self, x: Tensor, dim: int) -> Tensor:
        """A number per field ``(..., F, ...)`` for each of its channels, ``(..., C, ...)``."""
        return x.index_select(dim, self.constants.on(x)["field"])

    def counts(self, like: Tensor) -> Tensor:
        """The channels of each field, ``(F,)``."""
        return self.constants.on(like)["count"].to(like.dtype)

    def checked(self, x: Tensor) -> Tensor:
        """The input as a batch ``(N, C, H, W)``; raises where it is no such tensor."""
        if not isinstance(x, Tensor):
            raise SofteqTypeError(f"x: expected a tensor (of a geometric one its .tensor), got {type(x).__name__}")
        if not x.is_floating_point() or x.dim() - self.dims not in (1, 2) or x.shape[-self.dims - 1] != self.channels:
            wanted = ", ".join(["N", str(self.channels), *"DHW"[-self.dims :]])
            raise SofteqValueError(f"x: expected floating numbers of shape ({wanted}), got {x.dtype} {tuple(x.shape)}")
        return x if x.dim() == self.dims + 2 else x[None]

    def everywhere(self, x: Tensor) -> Tensor:
        """Numbers of channels ``(..., C)`` with axes for the positions."""
        return x.view(*x.shape, *[1] * self.dims)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{self.fields} fields, {self.channels} channels"


class FieldBatchNorm(_OnFields):
    """Batch normalisation of whole fields: ``gamma (x - m) / sqrt(v + eps) + beta``.

    m is the mean over images and positions, in a field's invariant part alone (any other mean would point somewhere); v
    is the mean over images, positions and the field's channels of ``(x - m)^2``, one number per field; gamma is one
    number per field and beta a vector in the invariant part. With trivial fields it is ``nn.BatchNorm2d``.

    Args:
        in_type: escnn's type of the input ``(N, C, H, W)``.
        eps: added to the variance.
        momentum: of the running statistics, in (0, 1].
        affine: whether there are gamma and beta.

    Raises:
        SofteqTypeError, SofteqValueError: no field type, or a number out of its range.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, in_type: FieldType, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(in_type)
        self.eps, self.momentum = _within("eps", eps, 0.0, 1.0), _within("momentum", momentum, 0.0, 1.0)
        self.invariants = BiasBasis(self.in_type)
        rank = self.invariants.rank
        self.weight = nn.Parameter(torch.ones(self.fields)) if affine else None
        self.bias = nn.Parameter(torch.zeros(rank)) if affine and rank else None
        self.register_buffer("running_mean", torch.zeros(rank))
        self.register_buffer("running_var", torch.ones(self.fields))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``, or without N, to the same shape.

        Raises:
            SofteqValueError: another width; or in training a single value per channel, which has no variance.
        """
        batch = self.checked(x)
        mean, variance = self._statistics(batch) if self.training else (self.running_mean, self.running_var)
        scale, shift = self._affine(mean, variance)
        scale, shift = (self.everywhere(part.to(batch.dtype)) for part in (scale, shift))
        y = batch * scale + shift
        return y if x.dim() == self.dims + 2 else y[0]

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """This batch's mean, by coordinates in the invariant part ``(rank,)``, and variance ``(F,)``; kept too."""
        count = x[:, 0].numel()
        if count < 2:
            raise SofteqValueError(f"x: expected several values per channel in training, got shape {tuple(x.shape)}")
        wide = x.to(self.running_var.dtype)
        mean = self.invariants.coordinates_of(wide.mean((0, *self.positions)))
        centred = wide - self.everywhere(self.invariants.expand(mean))
        total = self.summed(centred.square().sum((0, *self.positions)), 0)
        # A mean in r directions uses up r of a field's numbers, once over the whole batch.
        variance = total / (count * self.counts(total))
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, variance

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The factor and the offset per channel, ``(C,)`` each."""
        factor = (variance + self.eps).rsqrt()
        scale = self.spread(factor if self.weight is None else factor * self.weight, 0)
        shift = -self.invariants.expand(mean) * scale
        return scale, shift if self.bias is None else shift + self.invariants.expand(self.bias)

    def folded(self) -> nn.Module:
        """In evaluation mode the ``nn.BatchNorm2d`` that it equals; in training, where it is none, a copy."""
        if self.training:
            return copy.deepcopy(self)
        with torch.no_grad():
            scale, shift = self._affine(self.running_mean, self.running_var)
            mean, variance = self.invariants.expand(self.running_mean), self.spread(self.running_var, 0)
        kind = nn.BatchNorm2d if self.dims == 2 else nn.BatchNorm3d
        plain = kind(self.channels, eps=self.eps, momentum=self.momentum, device=scale.device)
        plain = plain.to(scale.dtype).eval()
        found = {"weight": scale * (variance + self.eps).sqrt(), "bias": shift + mean * scale}
        plain.load_state_dict(found | {"running_mean": mean, "running_var": variance}, strict=False)
        return plain


class FieldNorm(_OnFields):
    """Every field of every image divided by its root mean square over positions and channels, ``gamma x / rms(x)``.

    It needs no batch, so that it does the same in training and in evaluation and treats images apart.

    Args:
        in_type: escnn's type of the input ``(N, C, H, W)``.
        eps: added to the mean square.
        affine: whether there is a factor gamma per field.

    Raises:
        SofteqTypeError, SofteqValueError: no field type, or a number out of its range.
    """

    def __init__(self, in_type: FieldType, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(in_type)
        self.eps = _within("eps", eps, 0.0, 1.0)
        self.weight = nn.Parameter(torch.ones(self.fields)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``, or without N, to the same shape."""
        batch = self.checked(x)
        wide = batch.to(torch.promote_types(batch.dtype, torch.float32))
        square = self.summed(wide.square().mean(self.positions), 1) / self.counts(wide)
        factor = (square + self.eps).rsqrt()
        factor = factor if self.weight is None else factor * self.weight
        y = batch * self.everywhere(self.spread(factor, 1).to(batch.dtype))
        return y if x.dim() == self.dims + 2 else y[0]


class FieldMaxPool(_OnFields):
    """In each window the vector of a field that is longest, whole (escnn's norm max pooling).

    Args:
        in_type: escnn's type of the input ``(N, C, H, W)``.
        kernel_size, stride, padding: as in ``nn.MaxPool2d``, one whole number for both directions, in pixels. Quarter
            turns of the image commute where the windows end at the last pixel.

    Raises:
        SofteqTypeError, SofteqValueError: no field type, or a number that is not whole or out of its range.
    """

    def __init__(self, in_type: FieldType, kernel_size: int, *, stride: int | None = None, padding: int = 0) -> None:
        super().__init__(in_type)
        self.kernel_size = _whole("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _whole("stride", stride, 1)
        self.padding = _whole("padding", padding, 0)
        if 2 * self.padding > self.kernel_size:
            raise SofteqValueError(f"padding: expected at most half of kernel_size={kernel_size}, got {padding}")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``, or without N, to ``(N, C, H', W')``."""
        batch = self.checked(x)
        lengths = self.summed(batch.square(), 1)
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        pooled, where = pool(lengths, self.kernel_size, self.stride, self.padding, return_indices=True)
        places = self.spread(where.flatten(2), 1)
        y = batch.flatten(2).gather(2, places).unflatten(2, pooled.shape[2:])
        return y if x.dim() == self.dims + 2 else y[0]


class FieldDropout(_OnFields):
    """Leaves out whole fields of an image, at all positions, with probability p, and scales the others by 1 / (1 - p).

    Args:
        in_type: escnn's type of the input ``(N, C, H, W)``.
        p: in [0, 1).

    Raises:
        SofteqTypeError, SofteqValueError: no field type, or p out of its range.
    """

    def __init__(self, in_type: FieldType, p: float = 0.5) -> None:
        super().__init__(in_type)
        self.p = _within("p", p, -1e-300, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``, or without N, to the same shape; the input itself in evaluation mode."""
        batch = self.checked(x)
        if not self.training or self.p == 0:
            return x
        kept = F.dropout(batch.new_ones(batch.shape[0], self.fields), self.p)
        y = batch * self.everywhere(self.spread(kept, 1))
        return y if x.dim() == self.dims + 2 else y[0]


def _places(sizes: tuple[int, ...]) -> dict[str, Tensor]:
    count = torch.tensor(sizes)
    return {"field": torch.arange(len(sizes)).repeat_interleave(count), "count": count.double()}


def _within(name: str, value: float, above: float, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SofteqTypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not above < value <= most or (name == "p" and value == 1):
        raise SofteqValueError(f"{name}: expected a number between {max(above, 0):g} and {most:g}, got {value}")
    return float(value)


def _whole(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SofteqTypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise SofteqValueError(f"{name}: expected at least {least}, got {value}")
    return value
