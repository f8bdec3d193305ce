"""Soft gates between irreps: e3nn's, plus a nonlinearity that knows nothing of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._arguments import check_dtype
from softeq.composite import Sum
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.irreps import as_irreps, check_irreps_width
from softeq.pathways import EQUIVARIANT, RESIDUAL, RESIDUAL_START, SoftLayer, pathways_of

Pointwise = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Pointwise] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "abs": torch.abs,
}
"""Pointwise functions by name."""


class SoftGate(SoftLayer):
    """e3nn's gate plus ``w act(v)`` on every coordinate, w a weight per coordinate that starts at 1e-3.

    Even scalars (``0e``) pass through ``act``, every other irrep is multiplied by ``gate`` of a scalar of its own. An
    odd scalar (``0o``) may pass through a function that is odd itself, ``odd``; without one it is gated too.

    Args:
        irreps: of the output ``(..., irreps.dim)``; the input has the layout ``irreps_in``: first one even scalar per
            gate, then the output's irreps.
        constraint: ``"soft"``, ``"hard"`` (the gate alone) or ``"none"`` (``act`` alone, w starting at 1).
        act: of the even scalars, and of all coordinates in the residual pathway: a name in ``ACTIVATIONS`` or a
            pointwise function (of a module, if the layer is to pickle).
        odd: of the odd scalars: ``None``, or an odd function, such as ``"tanh"``.
        gate: of the gates.
        normalised: whether each function is scaled so that of standard normal numbers the mean square is 1, as e3nn
            does.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqTypeError: no function.
        SofteqValueError: bad irreps, an unknown constraint or name, or a function for odd scalars that is not odd.
    """

    def __init__(
        self,
        irreps: Any,
        *,
        constraint: str = "soft",
        act: str | Pointwise = "silu",
        odd: str | Pointwise | None = None,
        gate: str | Pointwise = "sigmoid",
        normalised: bool = False,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.irreps_out, self.constraint = as_irreps(irreps, "irreps"), constraint
        functions = {"act": Activation(act, "act", normalised), "gate": Activation(gate, "gate", normalised)}
        if odd is not None:
            functions["odd"] = Activation(odd, "odd", normalised)
            functions["odd"].check_odd()
        terms = [(copies, kind.dim, _kind_of(kind, odd is not None)) for copies, kind in self.irreps_out if copies]
        gates = sum(copies for copies, _, how in terms if how == "gate")
        self.irreps_in = as_irreps(f"{gates}x0e + {self.irreps_out}" if gates else self.irreps_out, "irreps")
        self.in_features = self.irreps_in.dim
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = IrrepsGate(terms, functions)
        if RESIDUAL in names:
            start = 1.0 if len(names) == 1 else RESIDUAL_START
            self.pathways[RESIDUAL] = IrrepsPointwise(self.irreps_out.dim, gates, start, functions["act"])

    def forward(self, x: Tensor) -> Tensor:
        """``(..., irreps_in.dim)`` to ``(..., irreps_out.dim)``."""
        if x.shape[-1:] != (self.in_features,):  # not by way of Irreps, which torch.compile cannot guard
            check_irreps_width(x, self.irreps_in)
        check_dtype(x, next(self.parameters(), None))
        outputs = [pathway(x) for pathway in self.pathways.values()]
        return sum(outputs[1:], outputs[0])

    def folded(self) -> nn.Module:
        """The sum of the terms as a plain module."""
        return copy.deepcopy(Sum(*self.pathways.values())).train(self.training)


class Activation:
    """A pointwise function, perhaps scaled.

    Args:
        function: a name in ``ACTIVATIONS``, or a function.
        argument: the argument's name, for the errors.
        normalised: whether the mean square of its values at standard normal numbers is to be 1.
    """

    def __init__(self, function: str | Pointwise, argument: str, normalised: bool) -> None:
        if isinstance(function, str) and function not in ACTIVATIONS:
            raise SofteqValueError(f"{argument}: expected one of {tuple(ACTIVATIONS)} or a function, got {function!r}")
        if not isinstance(function, str) and not callable(function):
            raise SofteqTypeError(f"{argument}: expected a function or its name, got {function!r}")
        self.argument = argument
        self.function = ACTIVATIONS[function] if isinstance(function, str) else function
        self.scale = self._scale() if normalised else 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Pointwise."""
        y = self.function(x)
        return y if self.scale == 1.0 else y * self.scale

    def _values(self, points: Tensor) -> Tensor:
        values = self.function(points)
        if not isinstance(values, Tensor) or values.shape != points.shape:
            raise SofteqTypeError(f"{self.argument}: expected a pointwise function, got {self.function!r}")
        return values

    def _scale(self) -> float:
        # The trapezoidal rule on a smooth, decaying integrand: exact to 1e-8 also with a kink in the function.
        points = torch.linspace(-12, 12, 48001, dtype=torch.float64)
        density = torch.exp(-points.square() / 2) / math.sqrt(2 * math.pi)
        mean_square = float(torch.trapezoid(self._values(points).square() * density, points))
        if not 0 < mean_square < math.inf:
            raise SofteqValueError(f"{self.argument}: expected a function with a finite mean square that is not zero")
        return mean_square**-0.5

    def check_odd(self) -> None:
        """Raises unless ``f(-t) = -f(t)``: another function of an odd scalar is neither even nor odd, or even."""
        points = torch.linspace(0, 6, 101, dtype=torch.float64)
        if not torch.allclose(self._values(-points), -self._values(points), atol=1e-9):
            raise SofteqValueError(
                f"{self.argument}: expected an odd function, f(-t) = -f(t), as its argument changes sign under the "
                f"inversion and its value must too, got {self.function!r}; take 'tanh', or None to gate odd scalars"
            )


class IrrepsGate(nn.Module):
    """``gate(g) v`` for every irrep with a gate; scalars through the function of their parity.

    Args:
        terms: per block how many copies, of which size, and which function.
        functions: ``"act"``, ``"gate"`` and perhaps ``"odd"``.
    """

    def __init__(self, terms: list[tuple[int, int, str]], functions: dict[str, Activation]) -> None:
        super().__init__()
        self.terms, self.functions = terms, functions
        self.gates = sum(copies for copies, _, how in terms if how == "gate")

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gates + size)`` to ``(..., size)``."""
        if not self.terms:
            return x
        gates, *parts = x.split([self.gates, *(m * d for m, d, _ in self.terms)], -1)
        sizes = [m for m, _, how in self.terms if how == "gate"]
        opened = iter(self.functions["gate"](gates).split(sizes, -1) if self.gates else ())
        outputs = []
        for part, (copies, d, how) in zip(parts, self.terms, strict=True):
            if how == "gate":
                outputs.append((part.unflatten(-1, (copies, d)) * next(opened).unsqueeze(-1)).flatten(-2))
            else:
                outputs.append(self.functions[how](part))
        return torch.cat(outputs, -1)


class IrrepsPointwise(nn.Module):
    """``w act(v)`` on every coordinate by itself, the gates left out."""

    def __init__(self, size: int, gates: int, start: float, act: Activation) -> None:
        super().__init__()
        self.gates, self.act = gates, act
        self.weight = nn.Parameter(torch.full((size,), start))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gates + size)`` to ``(..., size)``."""
        return self.weight * self.act(x[..., self.gates :])


def _kind_of(kind: Any, odd: bool) -> str:
    """Which function opens an irrep, or which it passes through."""
    if kind.l == 0 and kind.p == 1:
        return "act"
    return "odd" if kind.l == 0 and odd else "gate"
