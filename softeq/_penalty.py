"""What a soft layer's parameters cost under a Gaussian prior, each counted once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softeq._kernels import weighted_squares

if TYPE_CHECKING:
    from softeq.pathways import SoftLayer


def pathway_penalty(layer: SoftLayer, precisions: Mapping[str, float], seen: set[int]) -> Tensor:
    """``1/2 sum over pathways of precision ||w - m||^2``, every parameter once."""
    factors, distances = [], []
    means = layer.prior_means()
    for name, pathway in layer.pathways.items():
        for parameter in pathway.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                factors.append(0.5 * precisions[name])
                distances.append(parameter if id(parameter) not in means else parameter - means[id(parameter)])
    return weighted_squares(factors, distances) if distances else torch.zeros(())
