"""Measuring the equivariance of any callable: Lie derivatives, local equivariance error, finite elements, by layer.

Lie derivatives follow Gruver, Finzi, Goldblum, Wilson, "The Lie Derivative for Measuring Learned Equivariance"
(ICLR 2023), with the images' tangents from a declared stencil and the model's part by forward mode.
"""

from softeq.measure.controls import CONTROLS
from softeq.measure.curve import default_displacements, displacement_curve
from softeq.measure.decibels import Decibels, equivariance_decibels
from softeq.measure.defect import equivariance_error, finite_step_curve
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.layerwise import layerwise
from softeq.measure.lee import assert_lee, local_equivariance_error
from softeq.measure.lie_derivative import AffineDerivatives, affine_derivatives, derivatives, lie_derivative
from softeq.measure.motion.actions import (
    Action,
    ImageMap,
    Invariant,
    Pick,
    Points,
    Tokens,
    UnderIrreps,
    UnderRep,
    Vectors,
)
from softeq.measure.motion.colour import ColourFlow, colour_flows
from softeq.measure.motion.elements import (
    Element,
    field_element,
    flip_horizontal,
    flip_vertical,
    irreps_element,
    matrix_element,
    on_tokens,
    permute_channels,
    quarter_turn,
    rep_element,
    shift,
)
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS, AffineFlow, Flow, resolve_flows
from softeq.measure.motion.grids import GridFlow, GridMap, time_flows, volume_flows
from softeq.measure.motion.infer import infer_action
from softeq.measure.motion.spaces import (
    IrrepsFlow,
    LinearFlow,
    PointFlow,
    RepFlow,
    ZeroFlow,
    group_flows,
    irreps_flows,
    point_flows,
)
from softeq.measure.motion.stencils import BOUNDARIES, STENCILS
from softeq.measure.results.classes import ClassChange, familiar
from softeq.measure.results.curve import DisplacementCurve
from softeq.measure.results.layers import LayerwiseResult
from softeq.measure.results.result import NORMS, LeeResult, concatenate

if __name__ == "measure":  # imported by its folder's name, from a checkout
    from softeq._names import same_modules

    same_modules(__name__)

__all__ = [
    "BOUNDARIES",
    "COEFFICIENTS",
    "CONTROLS",
    "FLOWS",
    "GENERATORS",
    "NORMS",
    "STENCILS",
    "Action",
    "AffineDerivatives",
    "AffineFlow",
    "ClassChange",
    "ColourFlow",
    "Decibels",
    "DisplacementCurve",
    "Element",
    "Flow",
    "GridFlow",
    "GridMap",
    "ImageMap",
    "Invariant",
    "IrrepsFlow",
    "LayerwiseResult",
    "LeeResult",
    "LinearFlow",
    "NotMeasurable",
    "Pick",
    "PointFlow",
    "Points",
    "RepFlow",
    "Tokens",
    "UnderIrreps",
    "UnderRep",
    "Vectors",
    "ZeroFlow",
    "affine_derivatives",
    "assert_lee",
    "colour_flows",
    "concatenate",
    "default_displacements",
    "derivatives",
    "displacement_curve",
    "equivariance_decibels",
    "equivariance_error",
    "familiar",
    "field_element",
    "finite_step_curve",
    "flip_horizontal",
    "flip_vertical",
    "group_flows",
    "infer_action",
    "irreps_element",
    "irreps_flows",
    "layerwise",
    "lie_derivative",
    "local_equivariance_error",
    "matrix_element",
    "measurable",
    "on_tokens",
    "permute_channels",
    "point_flows",
    "quarter_turn",
    "rep_element",
    "resolve_flows",
    "shift",
    "time_flows",
    "volume_flows",
]
