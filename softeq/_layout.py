"""How a batch of features lies in memory: the features of a row together, or the rows of a feature together.

Sums over the few coordinates of a tensor, and gates that open whole tensors, have inner loops of three or nine numbers
when a row's features lie together, and of the batch's length when a feature's rows do; matrix products run as fast
either way. So the layers that do such things compute on ``(features, rows)``, and every layer hands its output on in
the layout in which it got its input: a network that turns its input once stays turned.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def turned(x: Tensor) -> Tensor:
    """``x``, ``(rows, features)``, with the rows of a feature together in memory."""
    return x.T.contiguous().T


def is_feature_major(x: Tensor) -> bool:
    """Whether the rows of a feature lie together, ``x`` being ``(rows, features)`` or of any other shape."""
    return x.ndim == 2 and x.shape[1] > 1 and x.stride(0) == 1


def features_after(x: Tensor, start: int) -> Tensor:
    """``x[..., start:]``, whose gradient has the layout of ``x``."""
    return x.T[start:].T if is_feature_major(x) else x[..., start:]


def in_the_order_of(x: Tensor, columns: Tensor) -> Tensor:
    """``columns``, ``(features, rows)``, as ``(rows, features)`` in the layout of ``x``."""
    return columns.T if is_feature_major(x) else columns.T.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b``, ``(..., in)`` to ``(..., out)``, in the layout of ``x``."""
    if not is_feature_major(x):
        return F.linear(x, weight, bias)
    return (weight @ x.T if bias is None else torch.addmm(bias[:, None], weight, x.T)).T
