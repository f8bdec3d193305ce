"""One solver case with the `emlp` package, in its own environment: ``python -m benchmarks.emlp_worker CASE``.

Nothing of softeq or torch is imported here. Solutions are kept by emlp in the process alone, so each run is cold.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

_BEGAN = time.perf_counter()

import jax  # noqa: E402 - the clock starts before the imports
from emlp import groups  # noqa: E402
from emlp.groups import O  # noqa: E402
from emlp.nn import EMLP, gated, uniform_rep  # noqa: E402
from emlp.reps import Rep, Scalar, T, V  # noqa: E402

from benchmarks import cases  # noqa: E402
from benchmarks.gauge import gauge, hand_back  # noqa: E402


def solve(case: str, channels: int = cases.CHANNELS) -> tuple[dict[str, float], list[int]]:
    """What `gauge` measured and the ranks found: of the pair, or of each layer's weight and bias in turn."""
    call = {cases.NETWORK_BASES: _bases, cases.NETWORK_BUILT: _built}.get(case)
    if case in cases.SUITE:
        rep, measured = gauge(lambda: _uniform(cases.SUITE[case]))
        return measured, [rep.equivariant_basis().shape[-1]]
    if call is None:
        pair = cases.PAIRS[case]
        basis, measured = gauge(lambda: _pair_basis(pair))
        return measured, [basis.shape[-1]]
    reps, measured = gauge(lambda: call(channels))
    return measured, [rep.equivariant_basis().shape[-1] for rep in reps]


def _pair_basis(pair: cases.Pair) -> Any:
    group = _group(pair.group)
    return jax.block_until_ready((T(*pair.rep_in)(group) >> T(*pair.rep_out)(group)).equivariant_basis())


def _uniform(case: cases.Uniform) -> Any:
    rep = sum(count * T(rank) for rank, count in enumerate(case.counts) if count)(_group(case.group))
    maps = rep >> rep
    maps.equivariant_projector()
    jax.block_until_ready(list(Rep.solcache.values()))
    return maps


def _group(name: str) -> Any:
    """emlp's group of a name of ours: ``Permutation(4)`` is its ``S(4)``, ``Sp(2)`` its ``Sp(1)``."""
    head, _, rest = name.partition("(")
    arguments = [int(part) for part in rest.rstrip(")").split(",") if part]
    if head == "Sp":
        arguments = [arguments[0] // 2]
    return getattr(groups, {"Permutation": "S"}.get(head, head))(*arguments)


def _bases(channels: int) -> list[Any]:
    group = O(3)
    rep_in, rep_out, hidden = (5 * Scalar + 5 * V)(group), T(2)(group), uniform_rep(channels, group)
    layers = [(a, gated(b)) for a, b in itertools.pairwise([rep_in, *[hidden] * cases.LAYERS])]
    reps = []
    for a, b in [*layers, (hidden, rep_out)]:
        reps += [b * a.T, b]
        for rep in reps[-2:]:
            rep.equivariant_projector()
    jax.block_until_ready(list(Rep.solcache.values()))
    return reps


def _built(channels: int) -> list[Any]:
    model = EMLP(5 * Scalar + 5 * V, T(2), O(3), ch=channels, num_layers=cases.LAYERS)
    jax.block_until_ready(list(Rep.solcache.values()))
    blocks = list(model.network)
    hidden = blocks[0].nonlinearity.rep
    outs = [gated(block.nonlinearity.rep) for block in blocks[:-1]] + [T(2)(O(3))]
    weights = [block.linear.rep_W for block in blocks[:-1]] + [outs[-1] * hidden.T]
    return [rep for pair in zip(weights, outs, strict=True) for rep in pair]


if __name__ == "__main__":
    import_seconds = time.perf_counter() - _BEGAN
    figures, ranks = solve(sys.argv[1])
    hand_back(**figures, ranks=ranks, import_seconds=import_seconds, jax=jax.__version__)
