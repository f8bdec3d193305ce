"""softeq: layers that are equivariant as far as the data say so, under a prior that says how far."""

from softeq._irreps_products import SoftGate, SoftTensorProduct
from softeq.attention import SoftAttention
from softeq.bilinear import SoftBilinear
from softeq.conv import SoftConv2d
from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError, SofteqWarning
from softeq.fold import fold, harden, weight_defect
from softeq.groups import Group
from softeq.irreps import SoftO3Linear
from softeq.linear import SoftLinear
from softeq.nonlinearity import SoftGated, gated
from softeq.pathways import MergedLayer, SoftLayer, SoftPathways
from softeq.prior import Prior, prior_penalty
from softeq.reps import Rep, Scalar, T, Vector
from softeq.soften import Softened, soften
from softeq.solve import equivariant_basis, equivariant_projector
from softeq.steerable import SoftR2Conv
from softeq.testing import assert_equivariant

__all__ = [
    "Group",
    "MergedLayer",
    "MissingExtraError",
    "Prior",
    "Rep",
    "Scalar",
    "SoftAttention",
    "SoftBilinear",
    "SoftConv2d",
    "SoftGate",
    "SoftGated",
    "SoftLayer",
    "SoftLinear",
    "SoftO3Linear",
    "SoftPathways",
    "SoftR2Conv",
    "SoftTensorProduct",
    "Softened",
    "SofteqError",
    "SofteqTypeError",
    "SofteqValueError",
    "SofteqWarning",
    "T",
    "Vector",
    "assert_equivariant",
    "equivariant_basis",
    "equivariant_projector",
    "fold",
    "gated",
    "harden",
    "prior_penalty",
    "soften",
    "weight_defect",
]
