"""anchor: the present values of a network's soft layers become the means of their prior, as fine-tuning wants it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softeq._means import MEANS, Means, forget_means
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.pathways import soft_layers


@torch.no_grad()
def anchor(model: nn.Module) -> nn.Module:
    """Makes the present values the prior's means: a parameter w is then N(m, 1 / precision), and costs 0 nats now.

    The network starts at the most probable point of its prior, and any precision keeps it near where it was rather than
    near zero (L2-SP: Li, Grandvalet, Davoine, arXiv 1802.01483). Where an equivariant pathway should stay free, give it
    a small precision as ever. A low-rank residual, a product of two factors, is anchored factor by factor: its
    coefficients are zero at the start of `soften` and its kernels where they are, so that it costs nothing, a high
    precision holds the product at zero, and the gradient of the coefficients is not shrunk away.

    Each outermost soft layer keeps its means in a submodule of buffers, ``means``. They go into checkpoints; one that
    has them anchors the model into which it is loaded, one from before leaves the model's own. ``fold`` and ``harden``
    drop them. An optimizer's prior step reads them as ``layer.prior_means()``.

    Args:
        model: with soft layers; changed in place. Anchored before, it is anchored anew.

    Returns:
        The same model.

    Raises:
        SofteqTypeError: ``model`` is no module.
        SofteqValueError: no soft layer in it, or a parameter without values (on the meta device), or with NaN or inf;
            nothing is changed then.
    """
    if not isinstance(model, nn.Module):
        raise SofteqTypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    layers = dict(soft_layers(model))
    if not layers:
        raise SofteqValueError(f"anchor: {type(model).__name__} has no soft layer, whose prior could have a mean")
    records = {name: _record(name, layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        forget_means(layer)
        setattr(layer, MEANS, records[name])
    return model


def _record(layer_name: str, layer: nn.Module) -> Means:
    means = Means()
    for name, parameter in layer.named_parameters():
        full = f"{layer_name}.{name}" if layer_name else name
        means.record(name, _mean(full, parameter.detach()))
    return means


def _mean(name: str, value: Tensor) -> Tensor:
    if value.is_meta:
        raise SofteqValueError(f"anchor: {name} is on the meta device and has no values: load or initialise it first")
    if not bool(value.isfinite().all()):
        raise SofteqValueError(f"anchor: {name} has NaN or inf, which is no mean: expected finite parameters")
    return value.clone() if bool(value.any()) else value.new_zeros(())
