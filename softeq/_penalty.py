"""What a soft layer's parameters cost under a Gaussian prior, each counted once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from softeq._kernels import squared_norm, unsharded

if TYPE_CHECKING:
    from softeq.pathways import SoftLayer


def squared_distance_of(
    parameters: Iterator[nn.Parameter], means: Mapping[int, Tensor], seen: set[int]
) -> Tensor | None:
    """``sum ||w - m||^2`` over parameters that are not in ``seen``, which they then join; ``None`` if there is none."""
    total: Tensor | None = None
    for parameter in parameters:
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        square = unsharded(squared_norm(parameter if id(parameter) not in means else parameter - means[id(parameter)]))
        total = square if total is None else total + square
    return total


def pathway_penalty(layer: SoftLayer, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
    """``1/2 sum over pathways of precision ||w - m||^2``, every parameter once."""
    terms = []
    means = layer.prior_means()
    for name, pathway in layer.pathways.items():
        square = squared_distance_of(pathway.parameters(), means, seen)
        if square is not None:
            terms.append(0.5 * precisions[name] * square)
    return torch.stack(terms).sum() if len(terms) > 1 else (terms[0] if terms else torch.zeros(()))
