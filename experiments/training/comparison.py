"""A comparison: the arms on one task or several, as data, from which the runner's `Experiment` follows.

A domain says what its data and networks are (`Domain`); a comparison says which arms, how large, and over which lists
of learning rates and precisions. A new comparison of a known kind is a declaration; a new arm is a line of
`training.arms`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import counter, device_for
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.training.arms import ARMS, Arm, Variant, parse
from softeq.experiments.training.chosen import chosen_trial
from softeq.experiments.training.loop import LoopSettings
from softeq.experiments.training.task import Task
from softeq.experiments.training.trials import Trial, crossed, run_trials

PROTOCOL = 1
"""The version of docs/protocol.md that a run followed, 0 for none; records without it are older than the protocol."""

Point = Mapping[str, Any]
"""One place of a dial, one table, one field: what a run goes over. ``name`` is what metrics carry behind an ``@``."""


@dataclass(frozen=True)
class Lists:
    """What is tried: learning rates, each with each precision, in nats for the whole data set.

    Each list is in rising order; tuning extends it where the best value stands at its edge. ``start`` is what a preset
    that is not tuned begins with.
    """

    lr: tuple[float, ...]
    residual: tuple[float, ...] = ()
    equivariant: tuple[float, ...] = ()
    plain: tuple[float, ...] = ()
    start: Mapping[str, float] = field(default_factory=dict)

    def axes(self, arm: Arm) -> dict[str, tuple[float, ...]]:
        """The lists that concern an arm: those of the pathways that it has, unless its rule finds the precision."""
        axes = {"lr": self.lr}
        if arm.constraint == "none":
            return axes | ({"residual": self.plain} if self.plain else {})
        if arm.rule_name not in ("fixed", "published"):
            return axes
        if arm.constraint == "hard":
            return axes | ({"equivariant": self.equivariant} if self.equivariant else {})
        # As many trials as of the other arms: the equivariant pathway's precision, which matters little, is no choice.
        middle = self.equivariant[len(self.equivariant) // 2 :][:1]
        pathways = {"equivariant": (self.start["equivariant"],) if "equivariant" in self.start else middle}
        pathways["residual"] = self.residual
        return axes | {name: values for name, values in pathways.items() if values}

    def trials(self, arm: Arm) -> tuple[Trial, ...]:
        """All of them."""
        return crossed(**self.axes(arm))

    def first(self, arm: Arm) -> Trial:
        """The one at ``start``, or in the middle of the lists where it says nothing."""
        axes = self.axes(arm)
        middle = {name: (self.start.get(name, values[len(values) // 2]),) for name, values in axes.items()}
        if arm.constraint == "none" and "plain" in self.start and "residual" in middle:
            middle["residual"] = (self.start["plain"],)
        return crossed(**middle)[0]


@dataclass(frozen=True)
class Size:
    """How large a preset is.

    Args:
        seeds: of each variant.
        network: what the domain's builder wants to know.
        data: what its tasks want to know.
        training: fields of `LoopSettings` but the rate; ``steps`` is what an arm of cost 1 may have, see ``costs``.
        trials: ``"one"``, the first; ``"all"``, each run choosing on its own validation data where nothing has been
            chosen by tuning.
        measured: samples of which Lie derivatives are taken.
        costs: seconds of a step of an arm over those of the cheapest, measured; where they are given, every arm has
            the same compute instead of the same number of steps, and between two validations too (``validate_every``
            is the dearest arm's). An arm that is not listed costs as the dearest.
        whole_looks: arms look at their validation data after whole multiples of the dearest's interval, so that they
            have 3/4 to 3/2 of its patience and not all of it. It is how records were made that are to stay resumable;
            a new declaration leaves it out.
        tuned_at: another preset, whose choices count where nothing has been tuned at this one.
    """

    seeds: int
    network: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    trials: str = "all"
    measured: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)
    whole_looks: bool = False
    tuned_at: str = ""


@dataclass(frozen=True)
class Domain:
    """How the data and networks of a kind of comparison come about.

    Args:
        task: the data of a configuration at one of its points.
        build: the untrained network of a configuration for a task, the same each time.
        network: the network's configuration for an arm, from the preset's.
        points: the points of a run of an arm at a preset; one without a name where there is no dial.
        compiles: whether torch can compile the training steps whole, so that a run may ask for it.
    """

    task: Callable[[Config, Point], Task]
    build: Callable[[Config, Any], nn.Module]
    network: Callable[[Size, Variant], Mapping[str, Any]]
    points: Callable[[Size, Variant], list[dict[str, Any]]] = lambda size, variant: [{"name": ""}]
    compiles: bool = False


@dataclass(frozen=True)
class Comparison:
    """Some arms on some data; see `Experiment` for the fields that are passed on.

    Args:
        arms: names of `training.arms.ARMS`, or variants with a precision; see `all_arms`.
        domain: of its kind.
        sizes: by preset.
        lists: of learning rates and precisions.
        samples: numbers of training samples that variants carry in their names; empty for none.
        fixed: the trials of arms that do not choose, such as published ones, by preset.
        options: more keys of the configuration by preset and variant.
        tuned_as: another comparison of the same data and networks, whose choices count here.
        grown: keys that its configurations gained, of tables and of tuning; see `Experiment`.
    """

    name: str
    summary: str
    arms: tuple[str, ...]
    domain: Domain
    sizes: Mapping[str, Size]
    lists: Lists
    columns: tuple[Column, ...]
    samples: tuple[int, ...] = ()
    fixed: Mapping[str, Callable[[Size], Trial]] = field(default_factory=dict)
    options: Callable[[Size, Variant], Mapping[str, Any]] = lambda size, variant: {}
    published: Mapping[str, str] = field(default_factory=dict)
    published_source: str = ""
    notes: tuple[str, ...] = ()
    levels: tuple[Column, ...] = ()
    plot: Callable[[list[dict[str, Any]], Any], None] | None = None
    tuned_as: str = ""
    reference: str = "soft"
    grown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_arms(self) -> tuple[str, ...]:
        """Those that it names, and those that stand in every comparison with soft layers."""
        everywhere = [arm.name for arm in ARMS.values() if arm.everywhere and "soft" in self.arms]
        return tuple(dict.fromkeys((*self.arms, *everywhere)))

    @property
    def variants(self) -> tuple[str, ...]:
        """Every arm, at every number of training samples where there are several."""
        arms = self.all_arms
        return tuple(f"{arm}-{n}" for n in self.samples for arm in arms) if self.samples else arms

    def configure(self, preset: str, variant: str, seed: int, trials: tuple[Trial, ...] | None = None) -> Config:
        """The complete configuration of one run.

        It names the protocol where that holds by construction: a training that ends on its plateau, within compute by
        measured costs, with settings that no run chooses for itself.

        Args:
            preset: a key of ``sizes``.
            variant: one of ``variants``.
            seed: of everything random, 0 or more.
            trials: instead of the arm's own.

        Raises:
            SofteqValueError: an unknown variant.
        """
        parsed = parse(variant)
        if parsed.precision is None and variant not in self.variants and trials is None:
            raise SofteqValueError(f"variant: expected one of {', '.join(self.variants)}, got {variant!r}")
        size, arm = self.sizes[preset], parsed.arm
        training = self._training(size, arm)
        settled = trials is not None or self._settled(preset, arm) is not None
        holds = settled and bool(size.costs) and training.get("schedule") == "plateau"
        return {
            "protocol": PROTOCOL if holds else 0,
            "arm": arm.name,
            "rule": arm.rule_name,
            "points": self.domain.points(size, parsed),
            "data": {**size.data, **({} if parsed.samples is None else {"samples": parsed.samples})},
            "network": dict(self.domain.network(size, parsed)),
            "augment": arm.augment,
            "training": training,
            "trials": [dict(trial) for trial in (trials or self._trials(preset, parsed))],
            "measured": size.measured,
            "seed": seed,
            "device": device_for(preset),
            "dtype": "float32",
            **({"compiled": False} if self.domain.compiles else {}),
            **self.options(size, parsed),
        }

    def _training(self, size: Size, arm: Arm) -> dict[str, Any]:
        training = dict(size.training)
        if size.costs and training.get("schedule") == "plateau":
            dearest = max(size.costs.values())
            cost = size.costs.get(arm.name, dearest)
            training["steps"] = max(1, math.floor(training["steps"] / cost))
            # Patience in compute too: an MLP would be stopped on a slope that it crosses in as many cheap steps.
            looks = _whole(dearest / cost) if size.whole_looks else dearest / cost
            training["validate_every"] = round(training["validate_every"] * looks)
        LoopSettings(**training, lr=1.0)  # raises where a declaration is wrong
        return training

    def _settled(self, preset: str, arm: Arm) -> Trial | None:
        """The trial of an arm whose runs do not choose, as the declaration or tuning has it; None where neither has."""
        size = self.sizes[preset]
        if arm.name in self.fixed:
            return self.fixed[arm.name](size)
        name = self.tuned_as or self.name
        places = [(p, a) for a in (arm.name, arm.settings_of) for p in (preset, size.tuned_at) if p and a]
        return next((found for place in places if (found := chosen_trial(name, *place))), None)

    def _trials(self, preset: str, variant: Variant) -> tuple[Trial, ...]:
        settled = self._settled(preset, variant.arm)
        if settled is None and self.sizes[preset].trials == "all" and variant.precision is None:
            return self.lists.trials(variant.arm)
        trial = settled or self.lists.first(variant.arm)
        if variant.precision is not None:
            trial = {**trial, "prior": {**(trial["prior"] or {}), "residual": variant.precision}}
        return (trial,)

    def run(self, config: Config, progress: Progress) -> Metrics:
        """Train and measure at every point; a training that diverged gives NaN, no exception."""
        steps = config["training"]["steps"] * len(config["trials"]) * len(config["points"])
        on_step = counter(progress, steps)
        found = {}
        for point in config["points"]:
            task = self.domain.task(config, point)
            found[point["name"]] = run_trials(task, functools.partial(self.domain.build, config, task), config, on_step)
        progress(steps, steps)
        return found[""] if set(found) == {""} else flattened(found)

    def experiment(self) -> Experiment:
        """What the runner, the tables and the command line know."""
        return Experiment(
            name=self.name,
            summary=self.summary,
            variants=self.variants,
            presets={name: size.seeds for name, size in self.sizes.items()},
            configure=self.configure,
            run=self.run,
            columns=self.columns,
            published=self.published,
            published_source=self.published_source,
            notes=self.notes,
            levels=self.levels,
            plot=self.plot,
            grown=self.grown,
            protocol=PROTOCOL,
            reference=self.reference,
        )


def _whole(cheaper: float) -> int:
    """The nearest whole multiple, and the next where that leaves less than three quarters of the dearest's patience."""
    nearest = round(cheaper)
    return nearest if nearest >= 0.75 * cheaper else math.ceil(cheaper)


def flattened(found: Mapping[str, Metrics]) -> Metrics:
    """The metrics of several points in one: ``points`` by name, and every number again as ``key@point``."""
    numbers = {
        f"{key}@{name}": value
        for name, metrics in found.items()
        for key, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return {"points": dict(found), **numbers, "parameters": next(iter(found.values()))["parameters"]}
