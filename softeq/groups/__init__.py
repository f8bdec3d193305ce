"""Matrix groups, given by what generates them: a Lie algebra and discrete elements.

A group acts on its defining space R^d. Everything else (representations, equivariant bases, random elements for
tests and augmentation) follows from the two sets of generators; see Finzi, Welling, Wilson, "A Practical Method for
Constructing Equivariant Multilayer Perceptrons for Arbitrary Matrix Groups" (ICML 2021), section 3.
"""

from softeq.groups._finite import Cube, Cyclic, Dihedral, DkeR3, Permutation, RubiksCube, Trivial, Z, ZksZnxZn
from softeq.groups._group import Group, separate
from softeq.groups._lie import (
    GL,
    O11,
    SL,
    SO,
    SO11,
    SO13,
    SU,
    Embed,
    Lorentz,
    O,
    O2eR3,
    Opq,
    Parity,
    Scaling,
    SO2eR3,
    SO11p,
    SO13p,
    SOpq,
    SOpqp,
    Sp,
    TimeReversal,
    U,
)
from softeq.groups._names import named
from softeq.groups._sampling import Sampler

__all__ = [
    "GL",
    "O11",
    "SL",
    "SO",
    "SO11",
    "SO13",
    "SU",
    "Cube",
    "Cyclic",
    "Dihedral",
    "DkeR3",
    "Embed",
    "Group",
    "Lorentz",
    "O",
    "O2eR3",
    "Opq",
    "Parity",
    "Permutation",
    "RubiksCube",
    "SO2eR3",
    "SO11p",
    "SO13p",
    "SOpq",
    "SOpqp",
    "Sampler",
    "Scaling",
    "Sp",
    "TimeReversal",
    "Trivial",
    "U",
    "Z",
    "ZksZnxZn",
    "named",
    "separate",
]
