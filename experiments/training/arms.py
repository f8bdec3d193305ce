"""The arms of every comparison: one table, with what each is and how it is drawn.

A variant is an arm, alone or with the number of training samples behind it (``soft-200``), or with the residual
precision that it has instead of a chosen one (``soft@100``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from softeq.errors import SofteqValueError

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#666666",
)
"""Okabe and Ito's palette, which people with any of the common colour visions can tell apart."""

ASSUMED, TRUE = "assumed", "true"
"""Which group: the one that the comparison is about, or the one that really holds."""


@dataclass(frozen=True)
class Arm:
    """One way to use a symmetry.

    Args:
        name: in records and on the command line.
        about: one line, for the notes of a table.
        constraint: of the network's layers: ``"hard"``, ``"soft"`` or ``"none"``.
        rule: of the prior's strength, a name of `softeq.strength.RULES`; ``"default"`` for the library's,
            ``"published"`` for the paper's penalty.
        group: to which group the layers are equivariant, `ASSUMED` or `TRUE`.
        augment: by which group's elements training samples are transformed anew in every batch; None for not at all.
        cause: whether the network is told of what breaks the symmetry.
        matched: as wide as it takes to have about as many parameters as the soft arm.
        projected: the soft layers' other parametrization, one weight with a penalty on its defect.
        published: whether it has the set-up of Finzi, Benton, Wilson (2021), or which of its parts, see
            `models.dynamics.PUBLISHED`.
        settings_of: another arm, whose chosen rate and precision count where this one has not been tuned itself.
        everywhere: whether every comparison with soft layers has it, named in its declaration or not.
        colour, marker: in every figure; no two arms share both.
    """

    name: str
    about: str
    constraint: str
    colour: str
    marker: str
    rule: str = "fixed"
    group: str = ASSUMED
    augment: str | None = None
    cause: bool = False
    matched: bool = False
    projected: bool = False
    published: bool | tuple[str, ...] = False
    settings_of: str = ""
    everywhere: bool = False

    @property
    def rule_name(self) -> str:
        """The rule's name in `softeq.strength.RULES`."""
        from softeq import strength  # here, since figures and `softeq --help` need arms and not torch

        return strength.DEFAULT if self.rule == "default" else self.rule


_TABLE = (
    Arm("hard", "equivariant layers", "hard", BLUE, "o"),
    Arm("hard-matched", "hard, as many parameters as soft", "hard", BLUE, "D", matched=True, settings_of="hard"),
    Arm("hard-true", "hard to the subgroup that really holds", "hard", SKY, "s", group=TRUE),
    Arm("hard+cause", "hard, told of what breaks the symmetry", "hard", SKY, "v", cause=True),
    Arm("soft", "both pathways, the library's default rule", "soft", VERMILION, "s", rule="default"),
    Arm("soft-grid", "both pathways, precisions chosen on validation data", "soft", VERMILION, "P"),
    Arm("soft-projected", "soft-grid in the projected form", "soft", ORANGE, "X", projected=True),
    Arm("soft-published", "soft as published", "soft", ORANGE, "d", rule="published", published=True),
    Arm("soft-ladder", "a pathway for each of several nested groups", "soft", ORANGE, "o", rule="default"),
    *(
        Arm(f"published+{part}", f"as published, but for {what}", "soft", colour, "d", "published", published=kept)
        for part, what, colour, kept in (
            ("start", "our start", SKY, ("scale", "bilinear")),
            ("scale", "our scale of the bilinear layers", BLUE, ("start", "bilinear")),
            ("bilinear", "the residual pathways of the bilinear layers", GREEN, ("start", "scale")),
        )
    ),
    Arm("published+prior", "as published, but the decays act by the prior step", "soft", PURPLE, "d", published=True),
    Arm("none", "no symmetry", "none", GREEN, "^"),
    Arm("none-matched", "none, as many parameters as soft", "none", GREEN, ">", matched=True, settings_of="none"),
    Arm(
        "none-augmented",
        "none, training samples transformed by the assumed group",
        "none",
        PURPLE,
        "D",
        augment=ASSUMED,
    ),
    Arm(
        "none-augmented-true",
        "none, transformed by the group that really holds",
        "none",
        PURPLE,
        "<",
        augment=TRUE,
        settings_of="none-augmented",
    ),
    Arm("plain", "a pretrained network as it is, every weight trained", "none", GREY, "h"),
    Arm("frozen", "a pretrained network whose last layer is trained", "none", GREY, "*"),
)
ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _TABLE}
"""By name, in the order of tables and legends. The arm of a new rule is a line more."""

ALIASES = {"hard+field": "hard+cause"}
"""Names that older records have."""


def arm(name: str) -> Arm:
    """The arm of that name, also under an older one.

    Raises:
        SofteqValueError: for an unknown name.
    """
    found = ARMS.get(ALIASES.get(name, name))
    if found is None:
        raise SofteqValueError(f"arm: expected one of {', '.join(ARMS)}, got {name!r}")
    return found


@dataclass(frozen=True)
class Variant:
    """A variant's name taken apart; ``samples`` and ``precision`` are None where it has none."""

    arm: Arm
    samples: int | None = None
    precision: float | None = None


_NAME = re.compile(r"(?P<arm>.+?)(?:-(?P<samples>\d+))?(?:@(?P<precision>[-+.\deE]+))?")


def parse(variant: str) -> Variant:
    """A variant by its name: ``hard``, ``hard-200``, ``soft@1e3``.

    Raises:
        SofteqValueError: for an unknown arm or a precision that is no number.
    """
    match = _NAME.fullmatch(variant)
    if match is None:
        raise SofteqValueError(f"variant: expected an arm such as hard, hard-200 or soft@100, got {variant!r}")
    samples, precision = match["samples"], match["precision"]
    try:
        value = None if precision is None else float(precision)
    except ValueError as error:
        raise SofteqValueError(f"variant: expected a number behind the @, got {variant!r}") from error
    return Variant(arm(match["arm"]), None if samples is None else int(samples), value)
