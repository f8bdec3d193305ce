"""The motions that an audit knows by name: the affine ones of images, and those of their colours."""

from __future__ import annotations

from softeq.errors import SofteqValueError
from softeq.measure.loading.model import Model
from softeq.measure.motion.colour import COLOURS, colour_flows
from softeq.measure.motion.flows import FLOWS, Flow

NAMES = (*FLOWS, *COLOURS)
"""What ``--flows`` takes."""


def flow_of(name: str, model: Model, *, stencil: str, boundary: str, margin: int = 0) -> Flow:
    """One of `NAMES`, of images as they are normalised for the model.

    Raises:
        SofteqValueError: colours of a model whose channels are not red, green and blue.
    """
    if name in FLOWS:
        return FLOWS[name].with_(stencil=stencil, boundary=boundary, margin=margin)
    if len(model.mean) != 3:
        raise SofteqValueError(
            f"flows: {name} needs images of red, green and blue, and {model.name} takes {len(model.mean)} channel"
            f"{'s' * (len(model.mean) > 1)}"
        )
    return next(flow for flow in colour_flows(model.mean, model.std) if flow.name == name)
