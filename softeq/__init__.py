"""softeq: layers that are equivariant as far as the data say so, under a prior that says how far.

Names are imported when they are first used: ``softeq --help`` need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softeq._anchor import anchor
    from softeq._fold import fold, harden, weight_defect
    from softeq._irreps_external import SoftO3ExternalLinear
    from softeq._irreps_gate import SoftGate
    from softeq._irreps_products import SoftTensorProduct
    from softeq._param_groups import param_groups
    from softeq._soften import Softened, soften
    from softeq._summary import Summary, summary
    from softeq.attention import SoftAttention
    from softeq.bilinear import SoftBilinear
    from softeq.composite import SoftPathways
    from softeq.conv import SoftConv1d, SoftConv2d, SoftConv3d
    from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError, SofteqWarning
    from softeq.fields import FieldBatchNorm, FieldDropout, FieldMaxPool, FieldNorm
    from softeq.groups import Group
    from softeq.irreps import SoftO3Linear
    from softeq.linear import SoftLinear
    from softeq.nonlinearity import SoftGated, gated
    from softeq.pathways import MergedLayer, SoftLayer
    from softeq.prior import Prior, prior_penalty
    from softeq.reps import Rep, Scalar, T, Vector
    from softeq.solve import equivariant_basis, equivariant_projector
    from softeq.steerable import SoftR2Conv, SoftR3Conv
    from softeq.testing import assert_equivariant

__version__ = "0.2.0.dev0"

__all__ = [
    "FieldBatchNorm",
    "FieldDropout",
    "FieldMaxPool",
    "FieldNorm",
    "Group",
    "MergedLayer",
    "MissingExtraError",
    "Prior",
    "Rep",
    "Scalar",
    "SoftAttention",
    "SoftBilinear",
    "SoftConv1d",
    "SoftConv2d",
    "SoftConv3d",
    "SoftGate",
    "SoftGated",
    "SoftLayer",
    "SoftLinear",
    "SoftO3ExternalLinear",
    "SoftO3Linear",
    "SoftPathways",
    "SoftR2Conv",
    "SoftR3Conv",
    "SoftTensorProduct",
    "Softened",
    "SofteqError",
    "SofteqTypeError",
    "SofteqValueError",
    "SofteqWarning",
    "Summary",
    "T",
    "Vector",
    "anchor",
    "assert_equivariant",
    "equivariant_basis",
    "equivariant_projector",
    "fold",
    "gated",
    "harden",
    "param_groups",
    "prior_penalty",
    "soften",
    "summary",
    "weight_defect",
]

_HOMES = {
    "_anchor": ("anchor",),
    "_fold": (
        "fold",
        "harden",
        "weight_defect",
    ),
    "_irreps_external": ("SoftO3ExternalLinear",),
    "_irreps_gate": ("SoftGate",),
    "_irreps_products": ("SoftTensorProduct",),
    "_param_groups": ("param_groups",),
    "_soften": (
        "Softened",
        "soften",
    ),
    "_summary": (
        "Summary",
        "summary",
    ),
    "attention": ("SoftAttention",),
    "bilinear": ("SoftBilinear",),
    "composite": ("SoftPathways",),
    "conv": ("SoftConv1d", "SoftConv2d", "SoftConv3d"),
    "errors": (
        "MissingExtraError",
        "SofteqError",
        "SofteqTypeError",
        "SofteqValueError",
        "SofteqWarning",
    ),
    "fields": ("FieldBatchNorm", "FieldDropout", "FieldMaxPool", "FieldNorm"),
    "groups": ("Group",),
    "irreps": ("SoftO3Linear",),
    "linear": ("SoftLinear",),
    "nonlinearity": (
        "SoftGated",
        "gated",
    ),
    "pathways": (
        "MergedLayer",
        "SoftLayer",
    ),
    "prior": (
        "Prior",
        "prior_penalty",
    ),
    "reps": (
        "Rep",
        "Scalar",
        "T",
        "Vector",
    ),
    "solve": (
        "equivariant_basis",
        "equivariant_projector",
    ),
    "steerable": ("SoftR2Conv", "SoftR3Conv"),
    "testing": ("assert_equivariant",),
}
"""The module of every public name. A module must not bear a public name: importing it would hide the function."""


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is not None:
        value = getattr(importlib.import_module(f"softeq.{home}"), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f"softeq.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"softeq.{name}":
            raise
    raise AttributeError(f"module 'softeq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
