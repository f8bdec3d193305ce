"""Convolutions that take and give escnn's geometric tensors beside plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from softeq._grid_types import GridType
from softeq.errors import SofteqTypeError, SofteqValueError


class FieldConv(nn.Module):
    """A plain convolution that takes and gives escnn's geometric tensors where it is given one."""

    def __init__(self, conv: nn.Module, types: tuple[GridType, GridType]) -> None:
        super().__init__()
        self.conv, self.types = conv, types

    def forward(self, x: Any) -> Any:
        """A tensor to a tensor, a ``GeometricTensor`` of the layer's input type to one of its output type."""
        if isinstance(x, Tensor):
            return self.conv(x)
        return on_fields(x, self.conv, self.types)


def on_fields(x: Any, function: Callable[[Tensor], Tensor], types: tuple[GridType, GridType]) -> Any:
    from escnn.nn import GeometricTensor

    if not isinstance(x, GeometricTensor):
        raise SofteqTypeError(f"x: expected a tensor or an escnn GeometricTensor, got {type(x).__name__}")
    if x.type != types[0].type:
        raise SofteqValueError(f"x: expected fields of type {types[0].type}, got {x.type}")
    return GeometricTensor(function(x.tensor), types[1].type)
