"""The soft twins of single layers of a plain network: how each is made, and when a layer must be left as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from softeq._windows import CONVOLUTIONS
from softeq.attention import SoftAttention
from softeq.conv import SoftConv, SoftConv1d, SoftConv2d, SoftConv3d
from softeq.errors import SofteqError, SofteqValueError
from softeq.linear import SoftLinear
from softeq.reps import Rep
from softeq.testing import TOLERANCES

_SOFT: tuple[type[SoftConv], ...] = (SoftConv1d, SoftConv2d, SoftConv3d)
_ZERO_PADDING: dict[int, Any] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}
_PREFIXES = range(17)  # class and register tokens that may stand in front of a grid
_OUT_NAMES, _HEAD_NAMES = ("proj", "out"), ("num_heads", "heads")


class Left(Exception):
    """Why a module is left as it is."""


@dataclass
class Seen:
    """What one example showed of a module: copies, as the next module may write into what it is given.

    Attributes:
        args, kwargs, output: of the first call.
        shapes: of the first argument, over all calls.
        plain: whether every call had one tensor, the same in all places, and else only None and flags.
        map: (h, w) of the last convolution's output before it.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    plain: bool = True
    map: tuple[int, int] | None = None

    def one_shape(self) -> tuple[int, ...]:
        """The shape of the input; raises ``Left`` if it is not the same in all calls."""
        if len(self.shapes) > 1:
            raise Left(f"it is called on inputs of several sizes, {', '.join(map(str, sorted(self.shapes)))}")
        return next(iter(self.shapes))


class SoftMultihead(nn.Module):
    """A ``SoftAttention`` that is called as ``nn.MultiheadAttention`` is: self-attention without masks or weights.

    Args:
        attention: the layer.
        batch_first: of the module in whose place it stands.
    """

    # What torch's own transformer layers ask for before they take a path that would read the weights past us.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: SoftAttention, *, batch_first: bool) -> None:
        super().__init__()
        self.attention, self.batch_first = attention, batch_first
        self.embed_dim, self.num_heads = attention.dim, attention.heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """``(B, N, dim)``, or ``(N, B, dim)`` without ``batch_first``, to the same and None.

        Raises:
            SofteqValueError: three different inputs, a mask, or ``need_weights``.
        """
        if key is not query or value is not query:
            raise SofteqValueError("key, value: expected the query itself, as this is self-attention over a grid")
        if key_padding_mask is not None or attn_mask is not None or is_causal:
            raise SofteqValueError("key_padding_mask, attn_mask, is_causal: expected none, as a grid has no gaps")
        if need_weights:
            raise SofteqValueError("need_weights: expected False, as scaled_dot_product_attention returns no weights")
        if self.batch_first or query.dim() == 2:
            return self.attention(query), None
        return self.attention(query.transpose(0, 1)).transpose(0, 1), None


Ways = Iterator[Callable[[], nn.Module]]
"""The ways to make a module's twin, the likeliest first."""


@dataclass(frozen=True)
class Twins:
    """Which modules have a twin, and how it is made; see ``softeq.soften`` for the fields."""

    residual: str
    rank: int
    reps: Mapping[str, tuple[Rep, Rep]]
    types: Mapping[str, tuple[Any, Any]]

    def kind(self, name: str, module: nn.Module) -> Callable[[str, Any, Seen], Ways] | None:
        """What makes the ways for this module, or ``None``."""
        if name in self.reps:
            return lambda name, linear, _: iter([lambda: SoftLinear.from_linear(linear, *self.reps[name])])
        if name in self.types:
            return self.steerable
        if isinstance(module, tuple(CONVOLUTIONS.values())):
            return self.convolution
        if isinstance(module, nn.MultiheadAttention):
            return self.multihead
        return self.attention if isinstance(getattr(module, "qkv", None), nn.Linear) else None

    def steerable(self, name: str, conv: nn.Module, seen: Seen) -> Ways:
        """Split between the filters that commute with the group and the rest."""
        from softeq.steerable import SoftR2Conv, SoftR3Conv

        kind = SoftR3Conv if isinstance(conv, nn.Conv3d | nn.ConvTranspose3d) else SoftR2Conv
        yield lambda: kind.from_conv(conv, *self.types[name])

    def convolution(self, name: str, conv: Any, seen: Seen) -> Ways:
        """With its own padding; of a subclass also with that which keeps ``size / stride``, as TensorFlow's pad."""
        kind = next(kind for kind in _SOFT if isinstance(conv, CONVOLUTIONS[kind.dims]))
        size = seen.one_shape()[-kind.dims :]
        options: dict[str, Any] = {"residual": self.residual, "rank": self.rank}
        if isinstance(seen.output, Tensor) and math.prod(seen.output.shape[-kind.dims :]) == 1:
            raise Left("its output is one position, so that there is nothing to unshare")
        yield lambda: kind.from_conv(conv, size, **options)
        if type(conv) is not CONVOLUTIONS[kind.dims]:
            sides = [_same_padding(conv, axis, n) for axis, n in enumerate(size)]
            padded = [n + sum(both) for n, both in zip(size, sides, strict=True)]
            padding = _ZERO_PADDING[kind.dims](tuple(n for both in reversed(sides) for n in both))
            yield lambda: nn.Sequential(padding, kind.from_conv(conv, padded, **options))

    def attention(self, name: str, module: Any, seen: Seen) -> Ways:
        """A module with ``qkv``, ``proj`` or ``out``, and its number of heads."""
        out = _output_of(module)
        heads = next((h for n in _HEAD_NAMES if isinstance(h := getattr(module, n, None), int)), None)
        if out is None or heads is None:
            raise Left("it has a qkv, but no proj or out, or no number of heads")
        if any(m.p for m in module.modules() if isinstance(m, nn.Dropout)):
            raise Left("it drops out at random, which SoftAttention does not")
        yield lambda: self._attention(module.qkv, out, heads, seen.one_shape(), seen)

    def multihead(self, name: str, module: nn.MultiheadAttention, seen: Seen) -> Ways:
        """torch's own, which keeps its projections in one matrix."""
        if not module._qkv_same_embed_dim or module.add_zero_attn or module.dropout:
            raise Left("it has keys of another width, a zero token or dropout, which SoftAttention has not")
        if (seen.kwargs.get("need_weights", True) if len(seen.args) < 5 else seen.args[4]) is not False:
            raise Left("it returns its weights, which fused attention does not have: call it with need_weights=False")
        shape = seen.one_shape()
        shape = shape if module.batch_first or len(shape) == 2 else (shape[1], shape[0], shape[2])
        with torch.no_grad():
            dim, bias, like = module.embed_dim, module.in_proj_bias, module.in_proj_weight
            qkv = nn.Linear(dim, 3 * dim, bias is not None, like.device, like.dtype)
            qkv.weight.copy_(like)
            if bias is not None:
                qkv.bias.copy_(bias)

        def made() -> nn.Module:
            soft = self._attention(qkv, module.out_proj, module.num_heads, shape, seen)
            return SoftMultihead(soft, batch_first=module.batch_first)

        yield made

    def _attention(
        self, qkv: nn.Linear, out: nn.Linear, heads: int, shape: tuple[int, ...], seen: Seen
    ) -> SoftAttention:
        """On the grid of the last convolution's map, the tokens that are too many in front."""
        prefix = -1 if seen.map is None else shape[-2] - math.prod(seen.map)
        if seen.map is None or len(shape) != 3 or prefix not in _PREFIXES:
            raise Left(f"its {shape} are no tokens of the last convolution's map {seen.map}")
        residual = "dense" if self.residual == "dense" else "lowrank"
        options: dict[str, Any] = {"size": seen.map, "prefix": prefix, "residual": residual, "rank": self.rank}
        return SoftAttention.from_projections(qkv, out, heads, **options)


def twin_of(module: nn.Module, name: str, seen: Seen | None, twins: Twins) -> nn.Module | None:
    """The module's soft twin, or ``None`` for a kind that has none.

    It is the first of the ways whose result returns what the module did on what it was given.

    Raises:
        Left: the module must stay, and why.
    """
    kind = twins.kind(name, module)
    if kind is None:
        return None
    if seen is None or not seen.args:
        raise Left("the example did not reach it with a tensor")
    if not seen.plain:
        raise Left("it is called with more than one tensor")
    _check_whole(module)
    reasons = []
    for way in kind(name, module, seen):
        try:
            soft = way()
        except SofteqError as error:
            reasons.append(str(error))
            continue
        if _same(soft, seen):
            _carry_flags(module, soft)
            return soft.train(module.training)
    raise Left(reasons[0] if reasons else f"{type(module).__name__} computes something else than its soft twin")


def _check_whole(module: nn.Module) -> None:
    """Raises ``Left`` where a twin would lose something of the module, even if it does nothing to the example."""
    out = _output_of(module)
    known = ["weight", "bias", "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    for child in ("qkv", *(n for n in _OUT_NAMES if out is not None and getattr(module, n, None) is out)):
        known += [f"{child}.weight", f"{child}.bias"]
    own = [name for name, _ in [*module.named_parameters(), *module.named_buffers()] if name not in known]
    if own:
        raise Left(f"{type(module).__name__} has more than its twin would: {', '.join(own)}")
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(part, kind, None) for part in module.modules() for kind in hooks):
        raise Left("it has hooks, which its twin would not")


def _same(soft: nn.Module, seen: Seen) -> bool:
    try:
        with torch.no_grad():
            found = soft.eval()(*seen.args, **seen.kwargs)
    except TypeError as error:  # called with an argument that the twin does not know
        raise Left(f"its twin cannot be called as it is: {error}") from error
    found, expected = (x[0] if isinstance(x, tuple) else x for x in (found, seen.output))
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).norm() <= TOLERANCES[expected.dtype] * expected.norm().clamp_min(1e-30))


def _carry_flags(module: nn.Module, soft: nn.Module) -> None:
    """Every parameter of the twin asks for a gradient if the one does whose part or residual it is."""
    flags = {name: p.requires_grad for name, p in module.named_parameters()}
    out = next((f"{n}." for n in ("out_proj", *_OUT_NAMES) if f"{n}.weight" in flags), "")
    first = "in_proj_" if "in_proj_weight" in flags else "qkv." if "qkv.weight" in flags else ""
    for name, parameter in soft.named_parameters():
        kind = "bias" if name.rsplit(".", 1)[-1] in ("bias", "offset") else "weight"
        parameter.requires_grad_(flags[f"{out if '.out.' in name else first}{kind}"])


def _output_of(module: Any) -> nn.Linear | None:
    return next((o for n in _OUT_NAMES if isinstance(o := getattr(module, n, None), nn.Linear)), None)


def _same_padding(conv: Any, axis: int, n: int) -> tuple[int, int]:
    """Zeros before and after, so that the output has ``ceil(n / stride)`` pixels; the odd one comes after."""
    stride, dilation, kernel = conv.stride[axis], conv.dilation[axis], conv.kernel_size[axis]
    total = max((math.ceil(n / stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)
    return total // 2, total - total // 2
