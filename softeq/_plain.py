"""torch's own layers with copies of a weight and a bias: what soft layers fold into."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The ``nn.Linear`` with copies of a weight ``(out, in)`` and a bias ``(out,)``."""
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    plain.weight.copy_(weight)
    if bias is not None:
        plain.bias.copy_(bias)
    return plain
