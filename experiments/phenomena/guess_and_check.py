"""``guess-and-check``: networks drawn at random until they fit N labels, against gradient descent to the same loss.

Chiang et al. ("Loss landscapes are all you need", ICLR 2023): most networks that fit a few labels generalise, whoever
found them. Here the draws come from a prior that is hard, soft or free under quarter turns, on two classes of digits
that are rotated at random, and whose labels may depend on the turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from softeq.experiments.data.quarters import (
    DIGITS,
    DIGITS_SIDE,
    UPRIGHT,
    labels_after,
    load_quarters,
    orbits,
    quarter_turned,
)
from softeq.experiments.engine.bookkeeping import DATA, MOTION, ORDER, counter, generator_for, rounded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.guesses import BATCH, Draws, RandomNetworks, chosen, descend, hits, largest_rate
from softeq.experiments.phenomena.panels import Panel, panels

CLASSES = (0, 1)
SAMPLES = (2, 4, 8, 16, 32)
VARIANTS: Mapping[str, tuple[str, float]] = {
    "hard": ("hard", 1.0),
    "soft": ("soft", 0.2),
    "none": ("none", 1.0),
}
"""Constraint, and the size of the residual's entries over that of the equivariant coordinates."""
POINTS = {"rotated": 0.0, "broken": 1.0}
"""The share of the classes whose label becomes the other one under two or three quarter turns."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "draws": 2000, "samples": [2, 8], "networks": 8, "steps": 50},
    "default": {"seeds": 5, "draws": 2_000_000, "samples": list(SAMPLES), "networks": 16, "steps": 100},
    "paper": {"seeds": 10, "draws": 20_000_000, "samples": list(SAMPLES), "networks": 100, "steps": 1000},
}
Samples = tuple[Tensor, Tensor]
"""Inputs and labels of -1 and 1."""
_KEPT = 200  # hits of which the test error is taken
_TEST = 200


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size, (constraint, residual) = SIZES[preset], VARIANTS[variant]
    return {
        "data": {"source": DIGITS, "classes": list(CLASSES), "test": _TEST},
        "points": dict(POINTS),
        "samples": size["samples"],
        "network": {"constraint": constraint, "residual": residual, "width": 2},
        "threshold": 0.5,
        "draws": size["draws"],
        "descent": {"networks": size["networks"], "steps": size["steps"], "rate": 0.05, "batch": 2},
        "seed": seed,
        "device": "cpu",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """By point and N: ``hits``, their share of the draws and its upper bound, ``test_error`` of hits and of full-batch
    and minibatch descent where there are networks that fit, and how many do."""
    batches = math.ceil(config["draws"] / BATCH)
    step = counter(progress, len(config["points"]) * (batches + len(config["samples"])))
    family = RandomNetworks(DIGITS_SIDE**2 // 4, **config["network"])
    metrics: Metrics = {}
    for point, breaking in config["points"].items():
        x, signs = two_classes(config, breaking)
        train, test = (x[: max(SAMPLES)], signs[: max(SAMPLES)]), (x[max(SAMPLES) :], signs[max(SAMPLES) :])
        by_count = _guessed(config, family, train, test, step)
        for n in config["samples"]:
            found = by_count[n] | _descended(config, family, (train[0][:n], train[1][:n]), test)
            metrics |= {f"{key}@{point}-{n}": value for key, value in found.items()}
            step()
    return metrics


def two_classes(config: Config, breaking: float) -> tuple[Tensor, Tensor]:
    """Images ``(32 + test, 64)`` by orbit and labels of -1 and 1, as many of both among the first N for every N.

    Args:
        config: ``data`` and ``seed`` are read.
        breaking: see `POINTS`.
    """
    how, seed = config["data"], config["seed"]
    held = load_quarters(how["source"], (1000, 200, 597), UPRIGHT, seed)
    x = torch.cat([held.x_train, held.x_validation, held.x_test])
    labels = torch.cat([held.y_train, held.y_validation, held.y_test])
    generator = generator_for(seed, MOTION)
    turns = torch.randint(0, 4, (len(x),), generator=generator)
    x = quarter_turned(x, turns)
    y = torch.full_like(labels, -1)
    for k, label in enumerate(how["classes"]):
        y[labels == label] = k
    y = torch.where(y >= 0, labels_after(y, turns, breaking, 2), y)
    total = max(SAMPLES) + how["test"]
    rows = torch.stack([(y == k).nonzero()[: total // 2, 0] for k in range(2)], dim=1).flatten()
    return x[rows].flatten(1)[:, orbits(DIGITS_SIDE)], 2.0 * y[rows] - 1


def _guessed(
    config: Config, family: RandomNetworks, train: Samples, test: Samples, step: Callable[[], None]
) -> dict[int, Metrics]:
    counts, draws = config["samples"], config["draws"]
    found: dict[int, int] = dict.fromkeys(counts, 0)
    errors: dict[int, list[Tensor]] = {n: [] for n in counts}
    for batch in hits(family, *train, counts, config["threshold"], draws, generator_for(config["seed"], DATA)):
        for n, fitting in batch.items():
            found[n] += fitting.count
            if sum(map(len, errors[n])) < _KEPT and fitting.count:
                errors[n].append(test_errors(family, fitting, *test))
        step()
    return {
        n: {"hits": found[n], "hit_rate": found[n] / draws, "hit_rate_bound": rounded(largest_rate(found[n], draws))}
        | _mean_of("test_error", errors[n])
        for n in counts
    }


def _mean_of(key: str, errors: list[Tensor]) -> Metrics:
    """Nothing where no network fits: there is no error then, and the counts say so."""
    values = torch.cat(errors) if errors else torch.empty(0)
    return {key: rounded(float(values.mean()))} if len(values) else {}


def _descended(config: Config, family: RandomNetworks, train: Samples, test: Samples) -> Metrics:
    how = config["descent"]
    metrics: Metrics = {}
    for name, batch in (("full", None), ("minibatch", how["batch"])):
        generator = generator_for(config["seed"], ORDER)
        start = family.draw(how["networks"], generator)
        options: dict[str, Any] = {"rate": how["rate"], "steps": how["steps"], "batch": batch, "generator": generator}
        end, there = descend(family, start, *train, config["threshold"], **options)
        metrics |= _mean_of(f"test_error_{name}", [test_errors(family, chosen(end, there), *test)])
        metrics[f"fitted_{name}"] = float(there.double().mean())
    return metrics


@torch.no_grad()
def test_errors(family: RandomNetworks, draws: Draws, x: Tensor, signs: Tensor) -> Tensor:
    """``(K,)``: the share of test images whose sign is wrong."""
    return (family(draws, x).sign() != signs).double().mean(1)


def _panel(point: str) -> list[Panel]:
    at: Callable[[str], tuple[str, ...]] = lambda key: tuple(f"{key}@{point}-{n}" for n in SAMPLES)
    places = tuple(map(str, SAMPLES))
    return [
        Panel("share of draws that fit, at most", at("hit_rate_bound"), places, "N", point, logy=True),
        Panel("test error of draws that fit", at("test_error"), places, "N"),
        Panel("test error after descent", at("test_error_full"), places, "N"),
    ]


_DESCENTS = ("test_error_full", "test_error_minibatch")
_HEADERS = {
    "test_error": ("test error of hits", ".3f"),
    "hits": ("hits", ",.1f"),
    "hit_rate": ("hit rate", ".2g"),
    "hit_rate_bound": ("hit rate, at most", ".1g"),
    "test_error_full": ("test error of descent", ".3f"),
    "test_error_minibatch": ("test error, batches of 2", ".3f"),
    "fitted_full": ("descents that fit", ".2f"),
    "fitted_minibatch": ("descents that fit, batches of 2", ".2f"),
}

EXPERIMENTS: dict[str, Experiment] = {
    "guess-and-check": Experiment(
        name="guess-and-check",
        summary="networks drawn at random until they fit a few labels, against gradient descent",
        variants=tuple(VARIANTS),
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=tuple(
            Column(f"{key}@{point}-{n}", f"{header}, {point}, N = {n}", form)
            for point in POINTS
            for n, keys in ((8, ("test_error", "hit_rate", *_DESCENTS)), (32, tuple(_HEADERS)))
            for key, (header, form) in _HEADERS.items()
            if key in keys
        ),
        notes=(
            "Two classes of digits, every image rotated by random quarter turns; broken: two or three of them swap the"
            " labels. Hits: draws whose normalised loss is below .5 nats (log 2 for a guess, .31 at the least), of two"
            " million for each seed; at most: the upper end of the one-sided 95% interval of their share.",
            "Errors are means over the hits (200 at most) and over the networks whose descent reached that loss.",
        ),
        plot=panels(_panel("rotated"), _panel("broken")),
        group=GROUP,
    )
}
