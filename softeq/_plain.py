"""torch's own layers with copies of a weight and a bias: what soft layers fold into."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The ``nn.Linear`` with copies of a weight ``(out, in)`` and a bias ``(out,)``."""
    plain = nn.Linear(1, 1, bias is not None)  # of its own size it would be filled at random, and warn if that is 0
    plain.out_features, plain.in_features = weight.shape
    plain.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone())
    return plain
