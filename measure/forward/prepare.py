"""A model made ready for forward-mode differentiation, for the length of a `with` block, and left as it was.

Fused attention kernels have no forward-mode rule, batch normalisation in training mode none that makes sense for a
single sample, and activations in place would write into what the derivative still needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.state import unchanged

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
    """The model in evaluation mode, its parameters constant, nothing in place, nothing compiled, attention by products.

    On exit, also after an error, everything is as it was: see measure.forward.state. A callable that is no module is
    not prepared; the modules that it refers to are left as they were too.

    Args:
        model: a module (changed for the length of the block) or any callable.
        fused: leave timm's modules their call of torch's attention function, for who follows that call itself.
    """
    with unchanged(model), math_attention(), _eager():
        if isinstance(model, nn.Module):
            with _prepared(model, (_IN_PLACE,) if fused else (_IN_PLACE, _FUSED)):
                yield model
        else:
            yield model


def _outside_of_inference_mode(model: nn.Module) -> None:
    """Raises where weights were made in torch.inference_mode: torch neither differentiates them nor lets them be."""
    made = [name for name, parameter in model.named_parameters() if parameter.is_inference()]
    if made:
        raise NotMeasurable(
            f"f holds weights that were made in torch.inference_mode ({made[0]}{', ...' if made[1:] else ''}), of which"
            " torch takes no derivative; make or load the model outside of that mode"
        )


@contextmanager
def repeated(f: Callable[[Tensor], Any], read: Callable[[Any], Tensor]) -> Iterator[Callable[[Tensor], Tensor]]:
    """``read(f(x))`` for many passes without derivatives: made ready once, each as if it were the first.

    The same as a block of `measurable` around each pass, at a fraction of its price. What is read is a copy: it may be
    something of f's own, which is put back after the pass.
    """
    with measurable(f, fused=True), unchanged(f) as kept, torch.no_grad():

        def once(x: Tensor) -> Tensor:
            try:
                return read(f(x)).clone()
            finally:
                kept.restore()

        yield once


@contextmanager
def _prepared(model: nn.Module, off: tuple[str, ...]) -> Iterator[None]:
    _outside_of_inference_mode(model)
    training = model.training
    try:
        evaluating(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        for module in model.modules():
            for name in off:
                if getattr(module, name, False) is True:
                    setattr(module, name, False)
        yield
    finally:
        if training and not model.training:
            with suppress(NotImplementedError):
                model.train()  # a model may do more in it than to set flags, which come back with the rest


def evaluating(model: nn.Module) -> None:
    """``model.eval()``; an exported program in it, which refuses, has the mode in which it was exported."""
    try:
        model.eval()
    except NotImplementedError:  # those after it have not been asked
        for child in model.children():
            evaluating(child)


@contextmanager
def _eager() -> Iterator[None]:
    """Compiled functions run as they were written: a compiler does not see what is done to every operation."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
