"""The unconstrained baseline: a plain multilayer perceptron."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from softeq.errors import SofteqValueError


class MLP(nn.Module):
    """``layers`` hidden layers of ``nn.Linear`` and SiLU, then one ``nn.Linear``; PyTorch's own initialisation.

    The MLP baseline of Finzi, Benton, Wilson (NeurIPS 2021). 20 inputs, 9 outputs, 384 channels and 3 layers have
    307,209 parameters.

    Args:
        size_in: coordinates of the input.
        size_out: coordinates of the output.
        channels: width of each hidden layer.
        layers: number of hidden layers.

    Raises:
        SofteqValueError: for a size below 1.
    """

    def __init__(self, size_in: int, size_out: int, *, channels: int = 384, layers: int = 3) -> None:
        super().__init__()
        _check(size_in=size_in, size_out=size_out, channels=channels, layers=layers)
        widths = [size_in] + [channels] * layers
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            modules += [nn.Linear(before, after), nn.SiLU()]
        self.network = nn.Sequential(*modules, nn.Linear(widths[-1], size_out))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., size_in)`` to ``(..., size_out)``."""
        return self.network(x)


def count_parameters(size_in: int, size_out: int, *, channels: int, layers: int) -> int:
    """The number of parameters of an `MLP` of these sizes, without building it."""
    _check(size_in=size_in, size_out=size_out, channels=channels, layers=layers)
    hidden = (layers - 1) * channels * (channels + 1)
    return channels * (size_in + 1) + hidden + size_out * (channels + 1)


def matched_channels(size_in: int, size_out: int, *, layers: int, parameters: int) -> int:
    """The width at which an `MLP` comes closest to a number of parameters (the smaller width in a tie).

    Raises:
        SofteqValueError: where even one channel has more parameters than that.
    """
    least = count_parameters(size_in, size_out, channels=1, layers=layers)
    if parameters < least:
        raise SofteqValueError(f"parameters: expected at least {least}, those of one channel, got {parameters}")
    # a c^2 + b c + size_out = parameters, the positive root; the nearest count is at one of its neighbours.
    a, b, c = layers - 1, size_in + 1 + layers - 1 + size_out, size_out - parameters
    root = -c / b if a == 0 else (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    candidates = range(max(1, math.floor(root)), math.floor(root) + 2)
    return min(
        candidates, key=lambda n: abs(count_parameters(size_in, size_out, channels=n, layers=layers) - parameters)
    )


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise SofteqValueError(f"{name}: expected at least 1, got {size}")
