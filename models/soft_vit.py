"""A small vision transformer whose attention may leave the translations of the token grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from softeq.attention import SoftAttention
from softeq.errors import SofteqValueError
from softeq.models.images import _positive
from softeq.models.soft_images import Size, check_images, check_size


class SoftTransformerBlock(nn.Module):
    """Soft attention, then two linear layers, each on normalised tokens and added to them: ``(B, N, dim)`` to same."""

    def __init__(self, dim: int, heads: int, expansion: int, **options: Any) -> None:
        super().__init__()
        hidden = expansion * dim
        self.attention = nn.Sequential(nn.LayerNorm(dim), SoftAttention(dim, heads, **options))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """The block's tokens."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class SoftViT(nn.Module):
    """Patches embedded in one stride, blocks with `softeq.SoftAttention`, the mean of the tokens, a linear head.

    Positions enter through the attention alone: relative ones in the equivariant pathway, absolute ones in the other.
    All other layers act on each token alike, in every variant, as in any vision transformer.

    Args:
        size: (H, W) of the input in pixels, multiples of ``patch``.
        in_channels: of the input.
        classes: of the output.
        width: of a token, per head.
        heads: of the attention.
        depth: blocks.
        patch: pixels per side of a token.
        expansion: hidden width of a block's linear layers, in units of the token's.
        constraint: ``"soft"``, ``"hard"`` (relative positions alone) or ``"none"`` (absolute positions alone).
        residual, rank: of the absolute positions, see `softeq.SoftAttention`.
        periodic: relative positions modulo the grid. The hard network is then invariant, to rounding, under circular
            shifts by multiples of ``patch`` pixels.

    Raises:
        SofteqValueError: an argument out of its range, by its name.
    """

    def __init__(
        self,
        size: Size = (28, 28),
        in_channels: int = 1,
        classes: int = 10,
        *,
        width: int = 16,
        heads: int = 4,
        depth: int = 4,
        patch: int = 4,
        expansion: int = 2,
        constraint: str = "soft",
        residual: str = "dense",
        rank: int = 4,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, classes=classes, width=width, heads=heads)
        _positive(depth=depth, patch=patch, expansion=expansion)
        self.size, self.in_channels = check_size(size), in_channels
        if any(n % patch for n in self.size):
            raise SofteqValueError(f"size: expected multiples of patch={patch}, got {self.size}; change either")
        dim, grid = heads * width, (self.size[0] // patch, self.size[1] // patch)
        self.stem = nn.Conv2d(in_channels, dim, patch, stride=patch)
        options: dict[str, Any] = {"constraint": constraint, "residual": residual, "rank": rank, "periodic": periodic}
        blocks = (SoftTransformerBlock(dim, heads, expansion, size=grid, **options) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(dim))
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        check_images(x, self.in_channels, self.size)
        return self.head(self.blocks(self.stem(x).flatten(2).transpose(1, 2)).mean(1))
