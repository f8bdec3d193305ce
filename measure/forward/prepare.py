"""A model made ready for forward-mode differentiation, for the length of a `with` block, and left as it was.

Fused attention kernels have no forward-mode rule, batch normalisation in training mode none that makes sense for a
single sample, and activations in place would write into what the derivative still needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

F = TypeVar("F", bound=Callable[..., Any])
_IN_PLACE, _FUSED = "inplace", "fused_attn"  # flags of torch's activations, of timm's attention


@contextmanager
def math_attention() -> Iterator[None]:
    """Attention as plain matrix products, which have a forward-mode rule; the settings before come back on exit."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def measurable(model: F, *, fused: bool = False) -> Iterator[F]:
    """The model in evaluation mode, its parameters constant, nothing in place, attention by plain matrix products.

    Every module's mode, every parameter's `requires_grad`, every flag and the backends' settings are restored on exit,
    also after an error. A callable that is no module gets `math_attention` alone.

    Args:
        model: a module (changed for the length of the block) or any callable.
        fused: leave timm's modules their call of torch's attention function, for who follows that call itself.
    """
    if not isinstance(model, nn.Module):
        with math_attention():
            yield model
        return
    modes = [(module, module.training) for module in model.modules()]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    off = (_IN_PLACE,) if fused else (_IN_PLACE, _FUSED)
    flags = [(m, name) for m in model.modules() for name in off if getattr(m, name, False) is True]
    try:
        model.eval()
        for parameter in learnt:
            parameter.requires_grad_(False)
        for module, name in flags:
            setattr(module, name, False)
        with math_attention():
            yield model
    finally:
        for module, name in flags:
            setattr(module, name, True)
        for parameter in learnt:
            parameter.requires_grad_(True)
        if modes[0][1]:  # a model may do more in train() than to set flags
            model.train()
        for module, mode in modes:
            module.training = mode
