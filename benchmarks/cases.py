"""The solver's cases, written without any library: both workers read them in their own environments."""

from __future__ import annotations

from dataclasses import dataclass

NETWORK_BASES = "network: all bases"
NETWORK_BUILT = "network: constructed"
CHANNELS = 384
LAYERS = 3


@dataclass(frozen=True)
class Pair:
    """Maps from T(*rep_in) to T(*rep_out) of a group."""

    group: str
    rep_in: tuple[int, int]
    rep_out: tuple[int, int]

    @property
    def name(self) -> str:
        """``O(3) T(2) -> T(2)``."""
        a, b = (f"T({p})" if q == 0 else f"T({p},{q})" for p, q in (self.rep_in, self.rep_out))
        return f"{self.group} {a} -> {b}"


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("O(3)", (2, 0), (2, 0)),
        Pair("SL(3)", (1, 1), (1, 1)),
        Pair("Lorentz", (2, 0), (2, 0)),
        Pair("Permutation(5)", (2, 0), (2, 0)),
        Pair("SO(3)", (3, 0), (3, 0)),
        Pair("Z(64)", (1, 0), (1, 0)),
        Pair("Permutation(10)", (2, 0), (2, 0)),
        Pair("Z(5)", (3, 0), (2, 0)),
        Pair("Z(4)", (3, 0), (3, 0)),
    )
}
CASES = (NETWORK_BASES, NETWORK_BUILT, *PAIRS)
