"""EQ-T and EQ-R of a network that gives maps, as they are recorded: how well the map follows, in decibels.

They are defined on images that a network makes (Karras et al., NeurIPS 2021). Of class probabilities, logits and
vectors, which have no places, there are none, and the record says so; the finite curve says what shifts do to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from softeq.measure.decibels import equivariance_decibels
from softeq.measure.motion.actions import Action
from softeq.measure.results.statistics import finite_number

KINDS: Mapping[str, tuple[str, ...]] = {
    "translation_x": ("EQ-T", "EQ-T_frac"),
    "translation_y": ("EQ-T", "EQ-T_frac"),
    "rotation": ("EQ-R",),
}
"""Flow -> what is recorded with it; shifts go both ways at once, so both flows have the same numbers."""
DRAWS = 8
"""Random motions, the same for all images; each costs a forward pass."""


def decibels(
    model: Callable[[Tensor], Any],
    x: Tensor,
    kind: str,
    action: Action,
    *,
    boundary: str,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """One of EQ-T, EQ-T_frac and EQ-R.

    Args:
        model: the network.
        x: (B, C, H, W).
        kind: see `measure.decibels.KINDS`.
        action: how the output moves.
        boundary: how images go on beyond their edge.
        batch_size: images at once.
        seed: of the motions and the interval.

    Returns: ``value`` and ``interval`` in decibels, ``peak`` (the output's range) and ``error`` (the mean square);
    where nothing differs the value is None and the error 0.

    Raises:
        NotMeasurable: see `equivariance_decibels`.
    """
    found = equivariance_decibels(
        model, x, kind, action, draws=DRAWS, boundary=boundary, batch_size=batch_size, seed=seed
    )
    return {
        "value": finite_number(found.value),
        "interval": [finite_number(end) for end in found.interval],
        "peak": found.peak,
        "error": float(found.errors.mean()),
    }


def refusal(output: str) -> dict[str, Any]:
    """What stands in the place of a number where the output is no map."""
    return {
        "not_measurable": "defined on outputs that move with the image (map, tokens), and"
        f" {'a vector is' if output == 'vector' else output + ' are'} taken as invariant; the displacements say what"
        " motions do to the output"
    }
