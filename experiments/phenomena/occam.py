"""A bound on the error of a network from the length of its message: the union bound over all messages, in closed form.

A network that is written as a message of K bits of a prefix code, fixed before the data, has prior weight at least
2^-K. With probability 1 - delta over n independent samples every such network at once has an error rate R with

    kl(R_n || R) <= (K ln 2 + ln 1/delta) / n

where R_n is its error rate on the samples and kl that of two coins (Chernoff's bound and a union bound; the point-mass
case of the PAC-Bayes bounds of Lotfi et al. 2022, without the ln 2 sqrt n that posteriors need). Where R_n = 0 it says
``R <= 1 - (2^-K delta)^(1/n)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from softeq.errors import SofteqValueError

BITS_PER_LEVEL = 16
"""A level of a codebook is sent as a half-precision number."""
_HALVINGS = 60


def coin_divergence(q: float, p: float) -> float:
    """kl(q || p) in nats of two coins, with 0 ln 0 = 0; infinite where p excludes what q has."""
    total = 0.0
    for a, b in ((q, p), (1 - q, 1 - p)):
        if a > 0:
            total += math.inf if b <= 0 else a * math.log(a / b)
    return total


def largest_rate(observed: float, cost: float) -> float:
    """The largest rate R in [observed, 1] with ``kl(observed || R) <= cost``, by bisection from above.

    Args:
        observed: an error rate, in [0, 1].
        cost: nats per sample, at least 0.

    Raises:
        SofteqValueError: a value out of its range.
    """
    if not 0 <= observed <= 1 or not cost >= 0:
        raise SofteqValueError(f"observed, cost: expected a rate in [0, 1] and at least 0 nats, got {observed}, {cost}")
    low, high = observed, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if coin_divergence(observed, middle) <= cost else (low, middle)
    return high


def occam_bound(errors: int, samples: int, bits: float, delta: float = 0.05) -> float:
    """The error rate that a network of so many bits does not exceed, with probability ``1 - delta``.

    Args:
        errors: among the samples.
        samples: n, at least 1.
        bits: of its message, K.
        delta: in (0, 1).

    Raises:
        SofteqValueError: a value out of its range.
    """
    if not 0 <= errors <= samples or samples < 1 or not 0 < delta < 1 or bits < 0:
        raise SofteqValueError(
            "errors, samples, bits, delta: expected 0 <= errors <= samples, samples >= 1, bits >= 0 and delta in"
            f" (0, 1), got {errors}, {samples}, {bits}, {delta}"
        )
    return largest_rate(errors / samples, (bits * math.log(2) + math.log(1 / delta)) / samples)


def counts_bits(counts: Sequence[int]) -> float:
    """Bits of a sequence of symbols with these counts: which counts, then which of the sequences that have them.

    ``log2 C(d + L - 1, L - 1) + log2 d! / prod c!``: an enumerative code, exact; its excess over d times the entropy is
    at most (L - 1) log2(d + 1) bits.
    """
    d, levels = sum(counts), len(counts)
    which = _log2_factorial(d + levels - 1) - _log2_factorial(levels - 1) - _log2_factorial(d)
    return which + _log2_factorial(d) - math.fsum(map(_log2_factorial, counts))


def _log2_factorial(n: int) -> float:
    return math.lgamma(n + 1) / math.log(2)


def message_bits(symbols: Tensor, levels: int) -> float:
    """Bits of a part of a message: the codebook's levels, then the symbols ``(d,)``, 0 .. levels - 1."""
    return BITS_PER_LEVEL * levels + counts_bits(torch.bincount(symbols, minlength=levels).tolist())


def clustered(values: Tensor, levels: int, rounds: int = 30) -> Tensor:
    """A codebook for values ``(d,)``: the centres of k-means in one dimension from quantiles, rising, ``(levels,)``."""
    centres = values.quantile(torch.linspace(0, 1, 2 * levels + 1, dtype=values.dtype)[1::2])
    for _ in range(rounds):
        nearest = (values[:, None] - centres).abs().argmin(1)
        for k in range(levels):
            if bool((nearest == k).any()):
                centres[k] = values[nearest == k].mean()
    return centres.sort().values
