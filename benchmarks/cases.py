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


@dataclass(frozen=True)
class Uniform:
    """All maps of a representation of many tensors to itself, as emlp's own tests take them for a layer.

    Args:
        group: its name for `softeq.groups.named`.
        dimension: of its vectors.
        channels: what the tensors have together at least, spread over their ranks as emlp's ``uniform_rep`` does.
    """

    group: str
    dimension: int
    channels: int = 256

    @property
    def name(self) -> str:
        """``SO(3), 256 channels``."""
        return f"{self.group}, {self.channels} channels"

    @property
    def counts(self) -> list[int]:
        """How many T(0), T(1), T(2), ... there are: of each rank the same number of channels, as far as they go."""
        left, found = self.channels, [0] * (self._top(self.channels) + 1)
        while left > 0:
            top = self._top(left)
            for rank in range(top + 1):
                found[rank] += self.dimension ** (top - rank)
            left -= (top + 1) * self.dimension**top
        return found

    def _top(self, channels: int) -> int:
        rank = 0
        while (rank + 2) * self.dimension ** (rank + 1) <= channels:
            rank += 1
        return rank


_DIMENSIONS = {
    2: ("SO(2)", "O(2)", "SL(2)", "GL(2)", "C(4)", "C(8)", "D(4)", "D(8)", "SO11p", "O11", "Sp(2)"),
    3: ("SO(3)", "O(3)", "SL(3)", "GL(3)", "Scaling(3)", "SO2eR3", "O2eR3"),
    4: ("SO(4)", "O(4)", "Permutation(4)", "Z(4)", "SO13p", "SO13", "O13", "Parity", "TimeReversal"),
    6: ("Permutation(6)", "Z(6)", "Cube"),
    8: ("ZksZnxZn(2,2)",),
}
SUITE = {case.name: case for d, groups in _DIMENSIONS.items() for case in (Uniform(group, d) for group in groups)}
