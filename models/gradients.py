"""Gradients inside of a forward pass (forces, Hamiltonian fields), whatever mode the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor


@contextmanager
def recording() -> Iterator[None]:
    """What the block computes can be differentiated, also under ``torch.no_grad`` and ``torch.inference_mode``."""
    outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with outside, torch.enable_grad():
        yield


def recordable(value: Tensor) -> Tensor:
    """The tensor; where it was made in ``torch.inference_mode``, and so can enter no gradient, a copy of it."""
    return value.clone() if value.is_inference() else value
