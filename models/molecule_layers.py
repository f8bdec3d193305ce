"""What an interatomic potential needs beside soft linear layers: radial functions, harmonics, channel-wise products.

A channel has one copy of each irrep, so that the channels of all irreps stand in one tensor ``(..., channels, D)`` and
one batched matrix product takes the place of a loop over the paths of a tensor product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._arguments import check_dtype, check_read, no_equivariant_map
from softeq._constants import Constants
from softeq.irreps import as_irreps
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    MergedLayer,
    Weights,
    pathways_of,
)


def natural_irreps(lmax: int, copies: int = 1) -> Any:
    """``copies`` of every irrep up to ``lmax`` with the parity of the spherical harmonics: 0e, 1o, 2e, ..."""
    return as_irreps([(copies, (degree, (-1) ** degree)) for degree in range(lmax + 1)], "irreps")


class RadialNetwork(nn.Module):
    """Weights of the paths from distances: sine waves under a smooth cutoff, then a small network without biases.

    The waves are the spherical Bessel functions ``sin(n pi x) / 2 x``, x = r / cutoff, n from 1 to ``waves``, times the
    polynomial ``1 - 28 x^6 + 48 x^7 - 21 x^8``, which is 1 at 0 and goes to 0 at x = 1 with two derivatives (Gasteiger,
    Gross, Guennemann, ICLR 2020, equations 7 and 8, p = 6). Without biases the weights go to 0 there as smoothly.

    Args:
        cutoff: Angstrom, above 0.
        places: per layer of the potential, which of that layer's own weights stands at each place of what it takes.
        hidden: units of the two hidden layers, which all layers of the potential share.
        waves: radial functions.
    """

    def __init__(self, cutoff: float, places: Sequence[Tensor], *, hidden: int = 32, waves: int = 8) -> None:
        super().__init__()
        self.cutoff, self.sizes = cutoff, [len(place) for place in places]
        counts = [int(place.max()) + 1 for place in places]
        self.constants = Constants.of(_radial_tables, tuple(tuple(place.tolist()) for place in places), waves)
        self.inner = nn.ModuleList(nn.Linear(a, hidden, bias=False) for a in (waves, hidden))
        self.outer = nn.Linear(hidden, sum(counts), bias=False)
        for linear in (*self.inner, self.outer):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def basis(self, distance: Tensor) -> Tensor:
        """``(E, 1)`` distances in Angstrom to ``(E, waves)`` numbers of about unit size, 0 from the cutoff on."""
        x = (distance / self.cutoff).clamp(max=1.0)
        cube = x * x * x
        window = 1 + cube * cube * (-28 + x * (48 - 21 * x))
        return torch.sin(x * self.constants.on(x)["frequencies"]) * (window / (2 * x))

    def forward(self, distance: Tensor) -> tuple[Tensor, ...]:
        """``(E, 1)`` to one ``(E, size)`` per layer."""
        hidden = self.basis(distance)
        for linear in self.inner:
            hidden = 2 * F.silu(linear(hidden))  # swish halves what is small
        places = self.constants.on(hidden)["places"]
        return F.linear(hidden, self.outer.weight.index_select(0, places)).split(self.sizes, -1)


def _radial_tables(places: tuple[tuple[int, ...], ...], waves: int) -> dict[str, Tensor]:
    """The frequencies of the waves, and which row of the last linear layer stands at each place of all layers."""
    rows, start = [], 0
    for place in places:
        rows += [start + row for row in place]
        start += max(place) + 1
    return {"places": torch.tensor(rows), "frequencies": math.pi * torch.arange(1, waves + 1, dtype=torch.float64)}


class Harmonics(nn.Module):
    """Real spherical harmonics of unit vectors up to ``lmax``, in e3nn's order, ``||Y_l||^2 = 2 l + 1``.

    Each degree comes from the one before, ``Y_l`` proportional to the part of degree l of ``Y_1 (x) Y_(l-1)``.
    """

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.constants = Constants.of(_steps, lmax)

    def forward(self, unit: Tensor) -> Tensor:
        """``(E, 3)`` to ``(E, (lmax + 1)^2)``."""
        degrees = [torch.ones_like(unit[:, :1])]
        if self.lmax:
            degrees.append(math.sqrt(3) * unit)
        last, steps = unit, self.constants.on(unit)
        for degree in range(2, self.lmax + 1):
            last = (unit[:, :, None] * last[:, None, :]).flatten(1) @ steps[f"degree_{degree}"]
            degrees.append(math.sqrt(2 * degree + 1) * last)
        return torch.cat(degrees, -1)


def _steps(lmax: int) -> dict[str, Tensor]:
    """Per degree from 2 on what makes its harmonics of the products of those before with the vector."""
    from e3nn import o3

    steps = {}
    pole = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    last = pole
    for degree in range(2, lmax + 1):
        coefficients = o3.wigner_3j(1, degree - 1, degree, dtype=torch.float64).flatten(0, 1)
        value = torch.outer(pole, last).flatten() @ coefficients
        # Its size is the same for every unit vector, and positive along the axis where e3nn's is.
        sign = float(value[value.abs().argmax()].sign())
        steps[f"degree_{degree}"] = coefficients * sign / value.norm()
        last = sign * value / value.norm()
    return steps


class Couplings(nn.Module):
    """Clebsch-Gordan coefficients as the weight of a pathway that has no parameters.

    An empty buffer, which no average and no allocation can spoil, tells where the module is and in which dtype.
    """

    like: Tensor

    def __init__(self, irreps_in1: Any, irreps_in2: Any, wanted: Any) -> None:
        super().__init__()
        self.constants = Constants.of(_couplings_of, str(irreps_in1), str(irreps_in2), str(wanted))
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The coefficients, ``(edge coordinates, channel coordinates, out)``."""
        return self.like_that_of(self.like)

    def like_that_of(self, other: Tensor) -> Tensor:
        """The coefficients on the device and in the dtype of another tensor."""
        return self.constants.on(other)["weight"].to(other.dtype)


class SoftChannelwise(MergedLayer):
    """A product of each channel's irreps with those of an edge, the same for all channels, weighted path by path.

    ``out[u, q] = w[u, p(q)] sum_ab W[b, a, q] x[u, a] y[b]``. In the equivariant pathway W holds the Clebsch-Gordan
    coefficients (e3nn's ``'uvu'`` product) and has no parameters: its weights come from outside, as w. The residual
    pathway is a free tensor of the same shape, so that the two merge and the soft layer costs what the hard one does.

    Args:
        irreps_in1, irreps_in2: of one channel, and of the edge; every irrep once.
        irreps_out: which kinds to keep; ``self.irreps_out`` has one block per path, p.
        constraint: ``"soft"``, ``"hard"`` or ``"none"``.

    Raises:
        SofteqValueError: bad irreps or an unknown constraint, or no path.
    """

    def __init__(self, irreps_in1: Any, irreps_in2: Any, irreps_out: Any, *, constraint: str = "soft") -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.irreps_in1, self.irreps_in2 = as_irreps(irreps_in1, "irreps_in1"), as_irreps(irreps_in2, "irreps_in2")
        self.wanted, self.constraint = as_irreps(irreps_out, "irreps_out"), constraint
        self.irreps_out = _output(self.irreps_in1, self.irreps_in2, self.wanted)
        self.shape = (self.irreps_in2.dim, self.irreps_in1.dim, self.irreps_out.dim)
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = Couplings(self.irreps_in1, self.irreps_in2, self.wanted)
        if RESIDUAL in names:
            start = (self.shape[0] * self.shape[1]) ** -0.5 * (1.0 if len(names) == 1 else RESIDUAL_START)
            self.pathways[RESIDUAL] = Weights(torch.randn(self.shape) * start, None)

    @property
    def signature(self) -> str:
        """See ``SoftLayer.signature``."""
        return f"{self.irreps_in1} x {self.irreps_in2} -> {self.irreps_out}"

    def _merged_part(self, part: str) -> Tensor | None:
        if part == "bias":
            return None
        own, free = self.pathway(EQUIVARIANT), check_read(self.pathway(RESIDUAL))
        if own is None or free is None:
            return own.weight if free is None else free.weight
        return own.like_that_of(free.weight) + free.weight

    def nearest(self, weight: Tensor) -> Tensor:
        """Every block of the output may draw on every pair of inputs that reaches it."""
        near = torch.zeros_like(weight)
        for (_, kind_out), place in zip(self.irreps_out, self.irreps_out.slices(), strict=True):
            for place1, place2, _, coefficients in _blocks(self.irreps_in1, self.irreps_in2, {kind_out}):
                coefficients = coefficients.to(weight)
                size = (weight[place2, place1, place] * coefficients).sum()
                near[place2, place1, place] += size * coefficients
        return near

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """``(E, channels, in1)``, ``(E, in2)`` and w, ``(E, channels, out)``, to ``(E, channels, out)``."""
        weight = self.weight if RESIDUAL in self.pathways else self.pathway(EQUIVARIANT).like_that_of(x)
        for name, given in (("x", x), ("y", y), ("scale", scale)):
            check_dtype(given, weight, name)
        return channelwise(x, y, scale, weight)

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The product with the merged weight, as a plain module."""
        return Channelwise(self.weight.clone()).train(self.training)


class Channelwise(nn.Module):
    """See `SoftChannelwise`, with one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """See ``SoftChannelwise.forward``."""
        return channelwise(x, y, scale, self.weight)


def channelwise(x: Tensor, y: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """``scale[e, u, q] sum_ab weight[b, a, q] x[e, u, a] y[e, b]``: ``(E, channels, out)``."""
    maps = (y @ weight.flatten(1)).view(-1, *weight.shape[1:])
    return torch.bmm(x, maps) * scale


def _blocks(irreps_in1: Any, irreps_in2: Any, kinds: Any) -> list[tuple[slice, slice, Any, Tensor]]:
    """Per path its coordinates in both inputs, its kind and its coefficients ``(in2, in1, out)``, all of norm 1."""
    from e3nn import o3

    found = []
    for (_, kind1), place1 in zip(irreps_in1, irreps_in1.slices(), strict=True):
        for (_, kind2), place2 in zip(irreps_in2, irreps_in2.slices(), strict=True):
            for kind in kind1 * kind2:
                if kind in kinds:
                    coefficients = o3.wigner_3j(kind2.l, kind1.l, kind.l, dtype=torch.float64)
                    found.append((place1, place2, kind, coefficients))
    return found


def _output(irreps_in1: Any, irreps_in2: Any, wanted: Any) -> Any:
    """The irreps of the output, a block per path."""
    blocks = _blocks(irreps_in1, irreps_in2, {kind for _, kind in wanted})
    if not blocks:
        raise no_equivariant_map(f"{irreps_in1} and {irreps_in2}", wanted)
    return as_irreps([(1, kind) for _, _, kind, _ in blocks], "irreps_out")


def _couplings_of(irreps_in1: str, irreps_in2: str, wanted: str) -> dict[str, Tensor]:
    """The Clebsch-Gordan coefficients ``(in2, in1, out)``.

    An output coordinate has unit variance where the coordinates of both inputs have.
    """
    inn1, inn2, kept = (as_irreps(text, "irreps") for text in (irreps_in1, irreps_in2, wanted))
    irreps = _output(inn1, inn2, kept)
    couplings = torch.zeros(inn2.dim, inn1.dim, irreps.dim, dtype=torch.float64)
    blocks = _blocks(inn1, inn2, {kind for _, kind in kept})
    for (place1, place2, kind, coefficients), place in zip(blocks, irreps.slices(), strict=True):
        couplings[place2, place1, place] = math.sqrt(kind.dim) * coefficients
    return {"weight": couplings}
