"""What ``SoftAttention`` is made of: projections, classes of token pairs, absolute positions, the plain layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._arguments import check_read
from softeq.errors import SofteqTypeError, SofteqValueError

BIAS_STD = 0.02
"""Standard deviation of biases on logits, as vision transformers draw their positions."""


def offset_classes(size: tuple[int, int], prefix: int, periodic: bool) -> Tensor:
    """``(N, N)`` int64, N = prefix + H * W: equal for pairs of tokens that a shift of the grid takes to each other.

    Pairs within the grid are told apart by their offset (modulo the grid if periodic); a pair of prefix tokens is a
    class of its own, and so are a prefix token with all grid tokens, as query and as key.
    """
    height, width = size
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down, right = rows - rows[:, None], columns - columns[:, None]
    if periodic:
        grid = (down % height) * width + right % width
        count = height * width
    else:
        grid = (down + height - 1) * (2 * width - 1) + right + width - 1
        count = (2 * height - 1) * (2 * width - 1)
    classes = torch.empty(prefix + len(grid), prefix + len(grid), dtype=torch.int64)
    classes[prefix:, prefix:] = grid
    classes[:prefix, :prefix] = count + torch.arange(prefix * prefix).view(prefix, prefix)
    classes[:prefix, prefix:] = count + prefix * prefix + torch.arange(prefix)[:, None]
    classes[prefix:, :prefix] = count + prefix * prefix + prefix + torch.arange(prefix)
    return classes


class Projections(nn.Module):
    """The linear layers of an attention, ``dim -> 3 dim`` and ``dim -> dim``; ``bias`` is that of the first."""

    def __init__(self, dim: int, *, bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias)
        self.out = nn.Linear(dim, dim)

    @property
    def read_qkv(self) -> nn.Linear:
        """The first layer, whose weight and bias are read without a call.

        Raises:
            SofteqTypeError: something else than a linear layer stands in for ``qkv``, such as an adapter around it.
        """
        if type(self.qkv).forward is not nn.Linear.forward:
            raise SofteqTypeError(
                f"qkv: expected an nn.Linear, whose weight is read without a call, got {type(self.qkv).__name__}, "
                "whose own computation would be left out; leave qkv out of the modules that are adapted"
            )
        return check_read(self.qkv)

    def attend(self, x: Tensor, logits: Tensor, offset: Tensor | None) -> Tensor:
        """Attention with these biases: ``x (..., N, dim)``, ``logits (heads, N, N)``, ``offset (N, 3 dim)`` or less."""
        return attend(x, self.read_qkv.weight, offset, logits, self.out)


def attend(x: Tensor, qkv: Tensor, offset: Tensor | None, logits: Tensor, out: nn.Linear) -> Tensor:
    """Multi-head self-attention with a bias on the logits, ``(..., heads, N, N)``; x ``(..., N, dim)`` to the same.

    The fused kernels for CPUs want a bias of as many axes as the query has, and none that asks for a gradient; they are
    three times faster than what torch falls back on.
    """
    shared = offset if offset is not None and offset.dim() == 1 else None
    moved = F.linear(x, qkv, shared)
    if offset is not None and shared is None:
        moved = moved + offset.to(moved.dtype)
    heads = logits.shape[-3]
    query, key, value = moved.unflatten(-1, (3, heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)
    logits = logits if torch.is_grad_enabled() else logits.detach()  # a view of a parameter would ask for a gradient
    logits = logits.to(query.dtype)[(None,) * (query.dim() - logits.dim())]
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=logits)
    return out(found.transpose(-2, -3).flatten(-2))


def masked(logits: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """The bias on the logits with a mask as ``scaled_dot_product_attention`` takes it: booleans hide where False.

    Raises:
        SofteqTypeError: a mask of integers or the like.
        SofteqValueError: a mask of another shape; or ``is_causal``, as the tokens of a grid have no order.
    """
    if is_causal:
        raise SofteqValueError("is_causal: expected False, as tokens of a grid have no order; give attn_mask instead")
    if attn_mask is None:
        return logits
    if attn_mask.dtype != torch.bool and not attn_mask.dtype.is_floating_point:
        raise SofteqTypeError(f"attn_mask: expected booleans, or numbers to add to the logits, got {attn_mask.dtype}")
    heads, tokens = logits.shape[-3], logits.shape[-1]
    own = attn_mask.shape[-3:]
    wanted = (heads, tokens, tokens)[-len(own) :] if own else ()
    if not own or any(n not in (1, m) for n, m in zip(own, wanted, strict=True)):
        raise SofteqValueError(
            f"attn_mask: expected a shape that broadcasts with (B, {heads}, {tokens}, {tokens}), got "
            f"{tuple(attn_mask.shape)}"
        )
    return logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask


class AbsolutePositions(nn.Module, ABC):
    """The residual pathway: a bias on the logits per pair of tokens, and an offset of q, k, v per token.

    Args:
        dim, heads, tokens: of the layer.
        start: standard deviation of the bias on the logits, and of the offset.
        rank: of the low-rank form; the others have no use for it.
        projections: where there is no equivariant pathway to have them.
        offset: whether there is one, ``(N, 3 dim)``.
    """

    offset: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        heads: int,
        tokens: int,
        start: float,
        rank: int,
        projections: Projections | None,
        *,
        offset: bool,
    ) -> None:
        super().__init__()
        self.projections = projections
        self._make(heads, tokens, start, rank)
        free = nn.Parameter(torch.randn(tokens, 3 * dim) * start) if offset else None
        self.register_parameter("offset", free)

    @property
    def start_squares(self) -> dict[str, float]:
        """Per own parameter the mean square at which an unconstrained layer starts; of two factors both alike."""
        return {name: BIAS_STD**2 for name, _ in self.named_parameters(recurse=False)}

    @abstractmethod
    def _make(self, heads: int, tokens: int, start: float, rank: int) -> None:
        """Makes the parameters of the bias on the logits."""

    @abstractmethod
    def logits(self) -> Tensor:
        """The bias on the logits, ``(heads, N, N)``."""

    @abstractmethod
    def clear(self) -> None:
        """Makes it zero so that it can leave zero."""

    def _clear_offset(self) -> None:
        if self.offset is not None:
            self.offset.zero_()


class DensePositions(AbsolutePositions):
    """A number per head and pair of tokens, ``(heads, N, N)``."""

    def _make(self, heads: int, tokens: int, start: float, rank: int) -> None:
        self.pairs = nn.Parameter(torch.randn(heads, tokens, tokens) * start)

    def logits(self) -> Tensor:
        """See ``AbsolutePositions.logits``."""
        return self.pairs

    @torch.no_grad()
    def clear(self) -> None:
        """All numbers zero."""
        self.pairs.zero_()
        self._clear_offset()


class LowRankPositions(AbsolutePositions):
    """``queries keys^T / sqrt(rank)``: two factors ``(heads, N, rank)``."""

    @property
    def start_squares(self) -> dict[str, float]:
        """See ``AbsolutePositions.start_squares``."""
        return super().start_squares | {"queries": BIAS_STD, "keys": BIAS_STD}

    def _make(self, heads: int, tokens: int, start: float, rank: int) -> None:
        self.queries = nn.Parameter(torch.randn(heads, tokens, rank) * start)
        self.keys = nn.Parameter(torch.randn(heads, tokens, rank))

    def logits(self) -> Tensor:
        """See ``AbsolutePositions.logits``."""
        return self.queries @ self.keys.mT / math.sqrt(self.queries.shape[-1])

    @torch.no_grad()
    def clear(self) -> None:
        """The query factors zero; the key factors give them a gradient."""
        self.queries.zero_()
        self._clear_offset()


POSITIONS: dict[str, type[AbsolutePositions]] = {"dense": DensePositions, "lowrank": LowRankPositions}


class PositionedAttention(nn.Module):
    """Plain attention with a bias on the logits and an offset per token: ``(B, N, dim)`` to the same.

    Args:
        projections: copied; their own bias is left out in favour of ``offset``.
        logits: ``(heads, N, N)``.
        offset: ``(N, 3 dim)``, ``(3 dim,)`` or ``None``.
    """

    offset: nn.Parameter | None

    def __init__(self, projections: Projections, logits: Tensor, offset: Tensor | None) -> None:
        super().__init__()
        like = projections.out.weight
        dim = projections.out.in_features
        self.qkv = nn.Parameter(projections.read_qkv.weight.detach().clone())
        self.out = nn.Linear(dim, dim, device=like.device, dtype=like.dtype)
        self.out.load_state_dict(projections.out.state_dict())
        self.logits = nn.Parameter(logits.detach().clone())
        self.register_parameter("offset", None if offset is None else nn.Parameter(offset.detach().clone()))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``(B, N, dim)`` to the same; see ``masked`` for the mask."""
        return attend(x, self.qkv, self.offset, masked(self.logits, attn_mask, is_causal), self.out)
