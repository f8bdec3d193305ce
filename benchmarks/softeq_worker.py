"""One solver case with softeq in a fresh process: ``python -m benchmarks.softeq_worker CASE``."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

_BEGAN = time.perf_counter()

from benchmarks import cases  # noqa: E402 - the clock starts before the imports
from benchmarks.gauge import gauge, hand_back  # noqa: E402
from softeq import Rep, Scalar, SoftLinear, T, Vector, equivariant_basis, equivariant_projector, gated  # noqa: E402
from softeq.groups import O, named  # noqa: E402
from softeq.models.dynamics import SoftEMLP, uniform_rep  # noqa: E402


def solve(case: str, channels: int = cases.CHANNELS) -> tuple[dict[str, float], list[int]]:
    """What `gauge` measured and the ranks found: of the pair, or of each layer's weight and bias in turn."""
    call = {cases.NETWORK_BASES: _bases, cases.NETWORK_BUILT: _built}.get(case)
    if case in cases.SUITE:
        projector, measured = gauge(lambda: _uniform(cases.SUITE[case]))
        return measured, [projector.rank]
    if call is None:
        pair = cases.PAIRS[case]
        basis, measured = gauge(lambda: _pair_basis(pair))
        return measured, [len(basis)]
    projectors, measured = gauge(lambda: call(channels))
    return measured, [projector.rank for projector in projectors]


def _pair_basis(pair: cases.Pair) -> Any:
    group = named(pair.group)
    return equivariant_basis(T(*pair.rep_in)(group), T(*pair.rep_out)(group))


def _uniform(case: cases.Uniform) -> Any:
    rep = sum(count * T(rank) for rank, count in enumerate(case.counts) if count)(named(case.group))
    return equivariant_projector(rep, rep)


def _reps() -> tuple[Rep, Rep]:
    group = O(3)
    return (5 * Scalar + 5 * Vector)(group), T(2)(group)


def _bases(channels: int) -> list[Any]:
    rep_in, rep_out = _reps()
    group = rep_in.bound_group
    hidden = uniform_rep(channels, group)
    layers = [(a, gated(b)) for a, b in itertools.pairwise([rep_in, *[hidden] * cases.LAYERS])]
    projectors = []
    for a, b in [*layers, (hidden, rep_out)]:
        projectors += [equivariant_projector(a, b), equivariant_projector(Scalar(group), b)]
    return projectors


def _built(channels: int) -> list[Any]:
    model = SoftEMLP(*_reps(), channels=channels, layers=cases.LAYERS, constraint="hard")
    linears = [module for module in model.modules() if isinstance(module, SoftLinear)]
    return [projector for linear in linears for projector in (linear.projector, linear.bias_projector)]


if __name__ == "__main__":
    import_seconds = time.perf_counter() - _BEGAN
    figures, ranks = solve(sys.argv[1])
    hand_back(**figures, ranks=ranks, import_seconds=import_seconds)
