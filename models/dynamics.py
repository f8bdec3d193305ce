"""Networks for dynamical systems and other vector data, built from soft layers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from softeq._arguments import check_width
from softeq._layout import turned
from softeq.bilinear import PUBLISHED_SCALE, SoftBilinear
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Group
from softeq.linear import SoftLinear
from softeq.nonlinearity import SoftGated, gated
from softeq.pathways import EQUIVARIANT, RESIDUAL, RESIDUAL_START, Weights
from softeq.reps import Rep, T, check_same_group

PUBLISHED = ("start", "scale", "bilinear")
"""The parts of the paper's set-up that `SoftEMLP` can have one by one."""

Channels = int | Rep
"""What a hidden block carries: a width, or a representation."""

_LAYERS = 3


def uniform_rep(channels: int, group: Group) -> Rep:
    """EMLP's split of channels over tensor orders: about as many channels in each order as fit (ICML 2021, section 5).

    Order r appears d^(R-r) times for the largest R with (R+1) d^R <= channels; what is left is split again. Under a
    group whose dual differs, the N tensors of order r are spread over T(k, r-k) as evenly as binomial weights allow.
    """
    if channels < 1:
        raise SofteqValueError(f"channels: expected at least 1, got {channels}")
    counts: list[int] = []
    left = channels
    while left > 0:
        top = 0
        while group.d > 1 and (top + 2) * group.d ** (top + 1) <= left:
            top += 1
        counts += [0] * (top + 1 - len(counts))
        for order in range(top + 1):
            counts[order] += group.d ** (top - order)
        left -= (top + 1) * group.d**top
    rep = Rep([])
    for order, count in enumerate(counts):
        if group.is_orthogonal:
            rep = rep + count * T(order)
            continue
        for k, share in enumerate(_binomial_split(count, order)):
            rep = rep + share * T(order - k, k)
    return rep(group)


def hidden_reps(channels: Channels | Sequence[Channels], layers: int | None, group: Group) -> list[Rep]:
    """The representation of each hidden block; see ``SoftEMLP``.

    Raises:
        SofteqTypeError: neither widths nor representations.
        SofteqValueError: a width below 1, an empty or foreign representation, or another number of layers.
    """
    if isinstance(channels, list | tuple):
        if layers is not None and layers != len(channels):
            raise SofteqValueError(
                f"layers: channels names {len(channels)} hidden blocks, got layers={layers}; leave layers out"
            )
        return [_hidden_rep(each, group) for each in channels]
    count = _LAYERS if layers is None else layers
    if isinstance(count, bool) or not isinstance(count, int):
        raise SofteqTypeError(f"layers: expected an integer, got {type(count).__name__}")
    if count < 0:
        raise SofteqValueError(f"layers: expected at least 0, got {count}")
    return [_hidden_rep(channels, group)] * count


def _hidden_rep(channels: object, group: Group) -> Rep:
    if isinstance(channels, Rep):
        if channels.group not in (None, group):
            raise SofteqValueError(f"channels: expected representations of {group}, got {channels!r}")
        rep = channels(group)
        if rep.size == 0:
            raise SofteqValueError(f"channels: expected at least one coordinate, got {channels!r}")
        return rep
    if isinstance(channels, bool) or not isinstance(channels, int):
        raise SofteqTypeError(
            f"channels: expected a width, a Rep, or a sequence of these such as [32, 64], got {channels!r}"
        )
    return uniform_rep(channels, group)


def _binomial_split(count: int, order: int) -> list[int]:
    """``count`` items over 0 .. order in binomial proportion, the largest remainders served first."""
    weights = [1.0]
    for k in range(order):
        weights.append(weights[-1] * (order - k) / (k + 1))
    exact = [count * w / 2**order for w in weights]
    shares = [int(e) for e in exact]
    by_remainder = sorted(range(order + 1), key=lambda k: shares[k] - exact[k])
    for k in by_remainder[: count - sum(shares)]:
        shares[k] += 1
    return shares


class SoftEMLPBlock(nn.Module):
    """Soft linear, plus its soft bilinear, then the soft gate: ``(..., rep_in.size)`` to ``(..., rep_out.size)``."""

    def __init__(self, rep_in: Rep, rep_out: Rep, *, constraint: str, published: Collection[str] = ()) -> None:
        super().__init__()
        inner = gated(rep_out)
        self.linear = SoftLinear(rep_in, inner, constraint=constraint)
        self.bilinear = SoftBilinear(
            inner,
            inner,
            constraint="hard" if "bilinear" in published else constraint,
            scale=PUBLISHED_SCALE if "scale" in published else None,
        )
        self.gate = SoftGated(rep_out, constraint=constraint)

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        linear = self.linear(x)
        return self.gate(linear + self.bilinear(linear))


class SoftEMLP(nn.Module):
    """A residual pathway network over any matrix group (Finzi, Benton, Wilson 2021); hard, it is EMLP.

    Args:
        rep_in, rep_out: bound to one group; input ``(..., rep_in.size)``, output ``(..., rep_out.size)``.
        channels: what the hidden blocks carry: a width, split over tensor orders by ``uniform_rep``, or a ``Rep``,
            bound or not; or a sequence of these, one for each block.
        layers: hidden blocks, where ``channels`` is no sequence; a last linear layer follows. ``None`` is 3.
        constraint: ``"soft"``, ``"hard"`` or ``"none"``.
        published: the paper's set-up, or some of its parts (`PUBLISHED`): ``"start"``, orthogonal equivariant weights
            and residual ones 1e-3 of them; ``"scale"`` of the bilinear layer, a tenth; ``"bilinear"``, that layer
            without a residual pathway. Only for ``"soft"`` and ``"hard"``.
    """

    def __init__(
        self,
        rep_in: Rep,
        rep_out: Rep,
        *,
        channels: Channels | Sequence[Channels] = 384,
        layers: int | None = None,
        constraint: str = "soft",
        published: bool | Collection[str] = False,
    ) -> None:
        super().__init__()
        group = check_same_group(rep_in, rep_out)
        parts = _published_parts(published)
        if parts and constraint == "none":
            raise SofteqValueError(
                "published: the paper has no such network with constraint='none'; use models.mlp.MLP"
            )
        self.rep_in, self.rep_out = rep_in, rep_out
        reps = [rep_in, *hidden_reps(channels, layers, group)]
        self.blocks = nn.ModuleList(
            SoftEMLPBlock(a, b, constraint=constraint, published=parts) for a, b in itertools.pairwise(reps)
        )
        self.last = SoftLinear(reps[-1], rep_out, constraint=constraint)
        if "start" in parts:
            for module in self.modules():
                if isinstance(module, SoftLinear):
                    _published_start(module)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., rep_in.size)`` to ``(..., rep_out.size)``."""
        check_width(x, self.rep_in.size, self.rep_in)
        hidden = turned(x.reshape(-1, self.rep_in.size))
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(hidden).contiguous().view(*x.shape[:-1], self.rep_out.size)


def _published_parts(published: bool | Collection[str]) -> Collection[str]:
    if isinstance(published, bool):
        return PUBLISHED if published else ()
    if isinstance(published, str) or not set(published) <= set(PUBLISHED):
        raise SofteqValueError(f"published: expected True, False or some of {PUBLISHED}, got {published!r}")
    return published


@torch.no_grad()
def _published_start(layer: SoftLinear) -> None:
    pathways = dict(layer.pathways.items())
    equivariant, residual = pathways[EQUIVARIANT], pathways.get(RESIDUAL)
    if not isinstance(equivariant, Weights) or equivariant.bias is None:
        raise SofteqValueError("published: expected linear layers with an equivariant weight and bias")
    nn.init.orthogonal_(equivariant.weight)
    equivariant.bias.uniform_(-1, 1).mul_(layer.out_features**-0.5)
    if isinstance(residual, Weights) and residual.bias is not None:
        residual.weight.copy_(RESIDUAL_START * equivariant.weight)
        residual.bias.copy_(RESIDUAL_START * equivariant.bias)
