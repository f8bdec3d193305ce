"""Small classifiers of images in plain torch: convolutional networks and vision transformers.

They are the subjects of measurements, so each differs from the others in what is known to matter for equivariance:
how it halves the resolution (strides alias, maxima less so), whether its head sees positions (a flattened map) or not
(an average), how patches are embedded (in one stride, or by a convolutional stem), and how tokens are gathered. Nothing
in them is stochastic, and every network is differentiable almost everywhere.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from softeq._arguments import whole
from softeq.errors import SofteqValueError

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SofteqValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _positive(**sizes: int | Sequence[int]) -> None:
    for name, size in sizes.items():
        values = list(size) if isinstance(size, Sequence) else [size]
        if not values or min(whole(name, value) for value in values) < 1:
            raise SofteqValueError(f"{name}: expected integers of at least 1, got {size}")


def _activation(name: str) -> nn.Module:
    _one_of("activation", name, list(ACTIVATIONS))
    return ACTIVATIONS[name]()


class ConvNet(nn.Module):
    """3x3 convolutions, each followed by a halving of the resolution, then a linear head.

    Args:
        size: (H, W) of the input in pixels; needed where the head is ``"flatten"``.
        in_channels: of the input.
        classes: of the output.
        channels: of each convolution.
        down: ``"stride"`` (the convolution steps by 2) or ``"max"`` (2x2 maxima after the activation).
        head: ``"average"`` over all positions, or ``"flatten"``, which sees where each feature is.
        activation: a key of `ACTIVATIONS`.

    Raises:
        SofteqValueError: for a size below 1 or an unknown name.
    """

    def __init__(
        self,
        size: tuple[int, int] = (28, 28),
        in_channels: int = 1,
        classes: int = 10,
        *,
        channels: Sequence[int] = (16, 32, 64),
        down: str = "stride",
        head: str = "average",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        _positive(size=size, in_channels=in_channels, classes=classes, channels=channels)
        _one_of("down", down, ("stride", "max"))
        _one_of("head", head, ("average", "flatten"))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([in_channels, *channels]):
            layers += [nn.Conv2d(before, after, 3, stride=2 if down == "stride" else 1, padding=1)]
            # A ceiling keeps odd maps whole, so that both kinds have maps of the same sizes.
            layers += [_activation(activation)] + [nn.MaxPool2d(2, ceil_mode=True)] * (down == "max")
        self.features = nn.Sequential(*layers)
        height, width = (_halved(n, len(channels)) for n in size)
        positions = height * width if head == "flatten" else 1
        pool: list[nn.Module] = [] if head == "flatten" else [nn.AdaptiveAvgPool2d(1)]
        self.head = nn.Sequential(*pool, nn.Flatten(), nn.Linear(positions * channels[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        return self.head(self.features(x))


def _halved(n: int, times: int) -> int:
    for _ in range(times):
        n = (n + 1) // 2
    return n


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut (He et al., CVPR 2016); the first may step by 2."""

    def __init__(self, before: int, after: int, *, stride: int, activation: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            _activation(activation),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = stride == 1 and before == after
        projection = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if same else projection
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W)`` to ``(B, after, H / stride, W / stride)``, sizes rounded up."""
        return self.activation(self.inner(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 convolution, one `ResidualBlock` per further entry of ``channels``, each halving, average, linear head.

    Args and errors as `ConvNet`; ``channels`` starts with that of the first convolution, which keeps the resolution.
    """

    def __init__(
        self,
        size: tuple[int, int] = (28, 28),
        in_channels: int = 1,
        classes: int = 10,
        *,
        channels: Sequence[int] = (16, 32, 64),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        _positive(size=size, in_channels=in_channels, classes=classes, channels=channels)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            _activation(activation),
        )
        pairs = itertools.pairwise(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, stride=2, activation=activation) for a, b in pairs))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        return self.head(self.blocks(self.stem(x)))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., NeurIPS 2017): ``(B, N, dim)`` to the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Every token's attention to all tokens."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then two linear layers, each on normalised tokens and added to them: ``(B, N, dim)`` to the same."""

    def __init__(self, dim: int, heads: int, *, expansion: int, activation: str) -> None:
        super().__init__()
        hidden = expansion * dim
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), _activation(activation), nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's tokens."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al., ICLR 2021) with learned absolute positions.

    Args:
        size: (H, W) of the input in pixels, multiples of ``patch``.
        in_channels: of the input.
        classes: of the output.
        patch: pixels per side of a token.
        stem: ``"patch"`` (one convolution with stride ``patch``) or ``"convolution"`` (3x3 convolutions with stride 2,
            as in Xiao et al., NeurIPS 2021; ``patch`` is then a power of 2).
        dim: width of a token, a multiple of ``heads``.
        depth: blocks.
        heads: of the attention.
        expansion: hidden width of a block's linear layers, in units of ``dim``.
        gather: ``"class"`` (a class token) or ``"mean"`` of the tokens.
        activation: a key of `ACTIVATIONS`.

    Raises:
        SofteqValueError: for sizes that do not fit or an unknown name.
    """

    def __init__(
        self,
        size: tuple[int, int] = (28, 28),
        in_channels: int = 1,
        classes: int = 10,
        *,
        patch: int = 4,
        stem: str = "patch",
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        expansion: int = 2,
        gather: str = "class",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        _positive(size=size, in_channels=in_channels, classes=classes)
        _positive(patch=patch, dim=dim, depth=depth, heads=heads, expansion=expansion)
        _one_of("gather", gather, ("class", "mean"))
        if any(n % patch for n in size):
            raise SofteqValueError(f"size: expected multiples of patch={patch}, got {tuple(size)}; change either")
        if dim % heads:
            raise SofteqValueError(f"dim: expected a multiple of heads={heads}, got {dim}")
        self.stem = _stem(stem, in_channels, dim, patch, activation)
        tokens = (size[0] // patch) * (size[1] // patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if gather == "class" else None
        self.positions = nn.Parameter(torch.empty(1, tokens + (gather == "class"), dim))
        nn.init.trunc_normal_(self.positions, std=0.02)
        blocks = (TransformerBlock(dim, heads, expansion=expansion, activation=activation) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(dim))
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.blocks(tokens + self.positions)
        return self.head(tokens.mean(dim=1) if self.class_token is None else tokens[:, 0])


def _stem(kind: str, in_channels: int, dim: int, patch: int, activation: str) -> nn.Module:
    _one_of("stem", kind, ("patch", "convolution"))
    if kind == "patch":
        return nn.Conv2d(in_channels, dim, patch, stride=patch)
    halvings = patch.bit_length() - 1
    if patch != 2**halvings or halvings < 1:
        raise SofteqValueError(f"patch: expected a power of 2 for stem='convolution', got {patch}")
    widths = [in_channels, *(max(1, dim // 2**k) for k in range(halvings - 1, -1, -1))]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), _activation(activation)]
    return nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))


def _lazy(module: str, name: str) -> Callable[..., nn.Module]:
    """The class ``name`` of ``module``, which is imported when a network is built: it imports from here."""
    return lambda **config: getattr(importlib.import_module(module), name)(**config)


MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "resnet": ResNet,
    "vit": ViT,
    "soft-resnet": _lazy("softeq.models.soft_images", "SoftResNet"),
    "d-conv": _lazy("softeq.models.soft_images", "DConv"),
    "steerable": _lazy("softeq.models.soft_steerable", "SteerableCNN"),
    "soft-vit": _lazy("softeq.models.soft_vit", "SoftViT"),
}


def build(name: str, **config: Any) -> nn.Module:
    """The network of that name, a key of `MODELS`, with ``config`` as its arguments; torch's generator draws it.

    Raises:
        SofteqValueError: for an unknown name, an argument that the network does not have, or a value it refuses.
    """
    _one_of("name", name, list(MODELS))
    try:
        return MODELS[name](**config)
    except TypeError as error:
        raise SofteqValueError(f"config: {name} cannot be built from {config}: {error}") from error
