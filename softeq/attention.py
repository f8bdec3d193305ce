"""SoftAttention: self-attention over a grid of tokens that may leave its translation symmetry."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softeq._arguments import check_read, whole
from softeq._constants import Constants
from softeq._positions import BIAS_STD, POSITIONS, PositionedAttention, Projections, masked, offset_classes
from softeq._windows import pair
from softeq.errors import SofteqValueError
from softeq.pathways import EQUIVARIANT, RESIDUAL, RESIDUAL_START, MergedLayer, pathways_of, relative_defect


class RelativePositions(nn.Module):
    """The equivariant pathway: the projections, and one bias per head and per class of token pairs, ``(heads, c)``."""

    def __init__(self, dim: int, heads: int, classes: int, *, bias: bool) -> None:
        super().__init__()
        self.projections = Projections(dim, bias=bias)
        self.table = nn.Parameter(torch.randn(heads, classes) * BIAS_STD)


class SoftAttention(MergedLayer):
    """``softmax(q k^T / sqrt(d) + B_rel + B_abs) v``, with q, k, v affine in the tokens, their offset free per place.

    The equivariant pathway acts on each token alike (query, key, value and output projections) and sees positions only
    through ``B_rel``, one number per head and per offset between two tokens (Shaw, Uszkoreit, Vaswani 2018; Liu et al.
    2021). The residual adds absolute positions: ``B_abs``, a number per head and pair of tokens, and an offset of q, k
    and v per token, of which learned position embeddings are a special case. Both pathways merge into one bias on the
    logits and one offset, and run through ``scaled_dot_product_attention``.

    Args:
        dim: width of a token, a multiple of ``heads``; input and output ``(..., prefix + H * W, dim)``.
        heads: of the attention.
        size: ``(H, W)`` of the token grid, row by row after the prefix.
        prefix: how many tokens before the grid have no place in it, such as a class token.
        periodic: offsets are taken modulo the grid. Then the hard layer commutes with every cyclic shift of the grid.
            Otherwise it commutes with a shift as a convolution with padding does, as far as the frame does not matter.
        constraint: ``"soft"``, ``"hard"`` (relative positions alone) or ``"none"`` (the projections and absolute ones).
        residual: of ``B_abs``: ``"dense"``, ``heads N^2`` numbers for N tokens (12 heads: 1.9 MB at 14 x 14, 90 MB at
            37 x 37, in float32), or ``"lowrank"``, ``2 heads N rank`` numbers, query and key factors.
        rank: of the low-rank residual.
        qkv_bias: whether q, k and v have an offset: ``(3 dim,)``, in the residual ``(N, 3 dim)``.

    ``weight`` is the merged bias on the logits, ``(heads, N, N)``, and ``bias`` the merged offset. The defect is that
    of both together: what they have of positions beyond offsets, over what they are; the projections, which act on
    each token alike, are left out. Pairs with a prefix token count as equivariant where the grid token does not matter.

    Initialisation: projections as in ``nn.Linear``; ``B_rel`` normal with a standard deviation of 0.02; the residual at
    1e-3 of that (of ``"lowrank"`` the query factors, the key factors at full size, so that it can leave zero).

    Raises:
        SofteqTypeError, SofteqValueError: a bad argument, by its name.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        size: int | tuple[int, int],
        prefix: int = 0,
        periodic: bool = False,
        constraint: str = "soft",
        residual: str = "dense",
        rank: int = 4,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        for name, value, least in (("dim", dim, 1), ("heads", heads, 1), ("prefix", prefix, 0), ("rank", rank, 1)):
            whole(name, value, least)
        if dim % heads:
            raise SofteqValueError(f"dim: expected a multiple of heads={heads}, got {dim}")
        if not isinstance(residual, str) or residual not in POSITIONS:
            raise SofteqValueError(f"residual: expected one of {tuple(POSITIONS)}, got {residual!r}")
        self.dim, self.heads, self.size, self.prefix = dim, heads, pair(size, "size", 1), prefix
        self.constraint, self.residual, self.rank, self.periodic = constraint, residual, rank, periodic
        self.has_bias, self.tokens = qkv_bias, prefix + self.size[0] * self.size[1]
        self.constants = Constants.of(_classes, self.size, prefix, periodic)
        self.n_classes = int(self.constants.exact["classes"].max()) + 1
        self.pathways = nn.ModuleDict({name: self._pathway(name, alone=len(names) == 1) for name in names})

    @property
    def signature(self) -> str:
        """See ``SoftLayer.signature``."""
        return f"{self.heads} heads, grid {self.size}, prefix {self.prefix}, periodic {self.periodic}"

    def _pathway(self, name: str, alone: bool) -> nn.Module:
        if name == EQUIVARIANT:
            return RelativePositions(self.dim, self.heads, self.n_classes, bias=self.has_bias)
        form = POSITIONS[self.residual]
        start = BIAS_STD * (1.0 if alone else RESIDUAL_START)
        projections = Projections(self.dim, bias=False) if alone else None
        return form(self.dim, self.heads, self.tokens, start, self.rank, projections, offset=self.has_bias)

    @property
    def projections(self) -> Projections:
        """The layers that make q, k and v and that take the attention's result, from the pathway that has them."""
        for part in self.pathways.values():
            if isinstance(part.projections, Projections):
                return part.projections
        raise SofteqValueError("SoftAttention has no pathway left: build it again with its constraint")

    def _merged_part(self, part: str) -> Tensor | None:
        relative, absolute = check_read(self.pathway(EQUIVARIANT)), check_read(self.pathway(RESIDUAL))
        if part == "bias":
            return _added(self.projections.read_qkv.bias, None if absolute is None else absolute.offset)
        shared = None if relative is None else self._spread(relative.table)
        return _added(shared, None if absolute is None else absolute.logits())

    def _spread(self, table: Tensor) -> Tensor:
        """``(heads, c)`` to ``(heads, N, N)``; the way back of ``index_select`` is faster than that of ``[...]``."""
        classes = self.constants.on(table)["classes"]
        return table.index_select(1, classes.flatten()).unflatten(1, classes.shape)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``(B, N, dim)`` or ``(N, dim)`` to the same; under autocast the biases are merged first, then cast.

        Args:
            x: the tokens.
            attn_mask: ``(..., N, N)``, added to the bias on the logits, or booleans that hide keys where False. A hard
                layer commutes with any shift of the tokens that a mask leaves in sight, mask and all, while they stay
                inside the grid, periodic or not.
            is_causal: only False: a grid has no order.
        """
        if x.dim() not in (2, 3) or tuple(x.shape[-2:]) != (self.tokens, self.dim):
            raise SofteqValueError(
                f"x: expected (B, {self.tokens}, {self.dim}), got {tuple(x.shape)}; see size, prefix"
            )
        weight, bias = self.merged_for(x)
        return self.projections.attend(x, masked(weight, attn_mask, is_causal), bias)

    def nearest(self, weight: Tensor) -> Tensor:
        """The mean of the bias on the logits over all pairs of tokens in its class, ``(heads, N, N)``."""
        classes = self.constants.on(weight)["classes"].flatten()
        sums = weight.new_zeros(self.heads, self.n_classes).index_add(1, classes, weight.flatten(1))
        return self._spread(sums / classes.bincount(minlength=self.n_classes))

    @torch.no_grad()
    def weight_defect(self) -> float:
        """``||W - P(W)|| / ||W||`` of both merged biases in float64, in [0, 1]; P takes the mean over all places."""
        weight = self.weight.double()
        nearest = self.nearest(weight)
        off, near = float((weight - nearest).square().sum()), float(nearest.square().sum())
        if self.bias is not None:
            offset = self.bias.double().expand(self.tokens, -1)
            prefix, grid = offset.split([self.prefix, self.tokens - self.prefix])
            mean = grid.mean(0)  # each token of the prefix has a place of its own, which no shift moves
            off += float((grid - mean).square().sum())
            near += float(len(grid) * mean.square().sum() + prefix.square().sum())
        return relative_defect(off, near)

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """Attention with one bias on the logits and one offset, of copies."""
        return PositionedAttention(self.projections, self.weight, self.bias).train(self.training)

    @staticmethod
    @torch.no_grad()
    def from_projections(
        qkv: nn.Linear,
        out: nn.Linear,
        heads: int,
        *,
        size: int | tuple[int, int],
        prefix: int = 0,
        periodic: bool = False,
        residual: str = "dense",
        rank: int = 4,
    ) -> SoftAttention:
        """The soft layer that computes plain attention with these projections: no bias on the logits, the residual 0.

        Raises:
            SofteqValueError: projections that are not ``dim -> 3 dim`` and ``dim -> dim``, or ``out`` without a bias.
        """
        dim = qkv.in_features
        shapes = (qkv.out_features, out.in_features, out.out_features)
        if shapes != (3 * dim, dim, dim) or out.bias is None:
            raise SofteqValueError(
                f"qkv, out: expected {dim} -> {3 * dim} and {dim} -> {dim} with a bias, got {shapes}"
            )
        layer = SoftAttention(
            dim,
            heads,
            size=size,
            prefix=prefix,
            periodic=periodic,
            residual=residual,
            rank=rank,
            qkv_bias=qkv.bias is not None,
        )
        layer = layer.to(qkv.weight.device, qkv.weight.dtype).train(qkv.training)
        relative, absolute = layer.pathway(EQUIVARIANT), layer.pathway(RESIDUAL)
        relative.projections.qkv.load_state_dict(qkv.state_dict())
        relative.projections.out.load_state_dict(out.state_dict())
        relative.table.zero_()
        absolute.clear()
        return layer

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return (
            f"{self.dim}, heads={self.heads}, size={self.size}, prefix={self.prefix}, periodic={self.periodic}, "
            f"residual={self.residual!r}, constraint={self.constraint!r}"
        )


def _classes(size: tuple[int, int], prefix: int, periodic: bool) -> dict[str, Tensor]:
    return {"classes": offset_classes(size, prefix, periodic)}


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
