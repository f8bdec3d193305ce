"""``rates``: exponentially growing learning rates on normalised layers, with one weight decay and with two.

A network whose layers are followed by a normalisation does not see the size of their weights. Li and Arora ("An
exponential learning rate schedule for deep learning", ICLR 2020): gradient descent at a rate eta with weight decay
lambda gives the same functions as no decay at the rates ``eta a^(-2t-1)``, ``a = 1 - eta lambda``, step by step.

A soft layer ``P(W_e) + W_r`` may have a decay for each pathway. Put ``W_e = a_e^t V_e`` and ``W_r = a_r^t V_r``: the
layer sees ``V_e`` and ``(a_r / a_e)^t V_r``, and each of them moves at the rate of its own decay. So two decays are two
growing rates *and a gate on the residual pathway that closes exponentially*; without the gate they are not equivalent.
The experiment follows the decayed network and its twins and asks where two decays leave the residual.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, layer_norm

from softeq import Scalar, SoftLinear, Vector
from softeq.experiments.data.quarters import BROKEN, DIGITS, ROTATED, load_quarters, quarter_points
from softeq.experiments.engine.bookkeeping import ORDER, counter, dtype_of, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.quarters import Orbits
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.plots import BAND, draw_figure
from softeq.experiments.show.tables import choose_preset
from softeq.experiments.training.arms import BLUE, VERMILION
from softeq.experiments.training.regression import defects
from softeq.groups import Z
from softeq.pathways import RESIDUAL

TEMPERATURE = 4.0
"""Normalised logits are multiplied by it: the confidence that a network can have."""
_SIDE, _COMPARED_EVERY, _EARLY = 8, 10, 50

Parameters = dict[str, Tensor]


class NormalisedNetwork(nn.Module):
    """Images ``(B, 1, 8, 8)`` to logits ``(B, classes)``, the same when any layer's weight is multiplied by c > 0.

    Every layer is without bias and followed by a normalisation over its outputs without parameters.

    Args:
        width: of the hidden layer, in vectors of `Z(4)`.
        constraint: see `SoftLinear`.
        classes: of the output.
    """

    def __init__(self, width: int, constraint: str, classes: int = 10) -> None:
        super().__init__()
        group = Z(4)
        reps = (_SIDE * _SIDE // 4 * Vector)(group), (width * Vector)(group), (classes * Scalar)(group)
        self.orbits = Orbits(_SIDE)
        self.hidden = SoftLinear(reps[0], reps[1], constraint=constraint, bias=False)
        self.last = SoftLinear(reps[1], reps[2], constraint=constraint, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        h = layer_norm(self.hidden(self.orbits(x)), (self.hidden.out_features,), eps=0).relu()
        return TEMPERATURE * layer_norm(self.last(h), (self.last.out_features,), eps=0)


def is_residual(name: str) -> bool:
    """Whether a parameter's name is that of a residual pathway."""
    return f".{RESIDUAL}." in name


def decayed(model: nn.Module, rate: float, decays: Mapping[str, float], batches: Sequence[Any]) -> Iterator[Parameters]:
    """Gradient descent at one rate, ``w <- (1 - rate decay) w - rate g``: the parameters after each step.

    Args:
        model: where it starts; it is not changed.
        rate: above 0.
        decays: of each parameter, by name.
        batches: images and labels of each step.
    """
    now = {name: p.detach().clone() for name, p in model.named_parameters()}
    for x, y in batches:
        gradients = _gradients(model, now, x, y)
        now = {name: (1 - rate * decays[name]) * w - rate * gradients[name] for name, w in now.items()}
        yield now


def grown(
    model: nn.Module, rate: float, decays: Mapping[str, float], batches: Sequence[Any], *, gated: bool = True
) -> Iterator[Parameters]:
    """No decay and the rates ``rate a^(-2t-1)`` of each parameter's own ``a = 1 - rate decay``: see the module's text.

    Args:
        model, rate, decays, batches: as `decayed`.
        gated: whether a residual pathway whose decay is another than that of the equivariant one beside it is
            multiplied by ``(a_r / a_e)^t``.

    Yields:
        the parameters that the layers see, gates included.
    """
    now = {name: p.detach().clone() for name, p in model.named_parameters()}
    shrink = {name: 1 - rate * decays[name] for name in now}
    beside = {name: _beside(name, shrink) / shrink[name] if gated else 1.0 for name in now}
    for t, (x, y) in enumerate(batches):
        seen = {name: w * beside[name] ** -t for name, w in now.items()}
        gradients = _gradients(model, seen, x, y)
        for name, w in now.items():
            own = gradients[name] * beside[name] ** -t  # the chain rule through the gate
            now[name] = w - rate * shrink[name] ** (-2 * t - 1) * own
        yield {name: w * beside[name] ** -(t + 1) for name, w in now.items()}


def _beside(name: str, shrink: Mapping[str, float]) -> float:
    """What the equivariant pathway of the same layer shrinks by; the parameter's own where there is none."""
    return shrink.get(name.replace(f".{RESIDUAL}.", ".equivariant."), shrink[name])


def _gradients(model: nn.Module, parameters: Parameters, x: Tensor, y: Tensor) -> Parameters:
    leaves = {name: w.requires_grad_() for name, w in parameters.items()}
    loss = cross_entropy(functional_call(model, leaves, (x,)), y)
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    for w in leaves.values():
        w.requires_grad_(False)
    return found


SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "sizes": [60, 20, 100], "width": 2, "steps": 20, "points": [ROTATED]},
    "default": {"seeds": 5, "sizes": [300, 100, 597], "width": 8, "steps": 200, "points": [ROTATED, BROKEN]},
    "paper": {"seeds": 10, "sizes": [900, 300, 597], "width": 16, "steps": 1000, "points": [ROTATED, BROKEN]},
}
RATIOS = (1, 10, 30)
"""Decay of the residual pathway over that of the equivariant one."""
VARIANTS = ("hard", *(f"soft-{ratio}" for ratio in RATIOS), "none")


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    constraint, _, ratio = variant.partition("-")
    return {
        "data": {"source": DIGITS, "sizes": size["sizes"]},
        "points": [asdict(point) for point in size["points"]],
        "network": {"width": size["width"], "constraint": constraint},
        "training": {"steps": size["steps"], "batch_size": 50, "rate": 0.05, "decay": 0.02, "ratio": int(ratio or 1)},
        "seed": seed,
        "device": "cpu",
        "dtype": "float64",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """By point: accuracies, the residual's weight defect, and how far the twins' logits come from the decayed ones."""
    step = counter(progress, len(config["points"]) * config["training"]["steps"])
    metrics: Metrics = {}
    for point in quarter_points(config["points"]):
        data = load_quarters(
            config["data"]["source"], config["data"]["sizes"], point, config["seed"], dtype=dtype_of(config)
        )
        found = _followed(config, data, step)
        metrics |= {f"{key}@{point.name}": value for key, value in found.items()}
    return metrics


def _followed(config: Config, data: Any, step: Any) -> Metrics:
    how = config["training"]
    model = seeded(config, lambda: NormalisedNetwork(**config["network"]))
    order = generator_for(config["seed"], ORDER)
    rows = [torch.randperm(len(data.x_train), generator=order)[: how["batch_size"]] for _ in range(how["steps"])]
    batches = [(data.x_train[r], data.y_train[r]) for r in rows]
    both = any(is_residual(name) for name, _ in model.named_parameters()) and config["network"]["constraint"] == "soft"
    decays = {
        name: how["decay"] * (how["ratio"] if both and is_residual(name) else 1) for name, _ in model.named_parameters()
    }
    zero = dict.fromkeys(decays, 0.0)
    twins = {"grown": grown(model, how["rate"], decays, batches), "plain": decayed(model, how["rate"], zero, batches)}
    if len(set(decays.values())) > 1:
        twins["ungated"] = grown(model, how["rate"], decays, batches, gated=False)
    gaps: dict[str, list[float]] = {name: [0.0] for name in twins}
    for t, reference in enumerate(decayed(model, how["rate"], decays, batches)):
        last = {"decayed": reference, **{name: next(twin) for name, twin in twins.items()}}
        for name in gaps if t % _COMPARED_EVERY == 0 or t == how["steps"] - 1 else ():
            gaps[name].append(gap(model, reference, last[name], data.x_test[:50]))
        step()
    model.load_state_dict(last["decayed"])
    early = 1 + _EARLY // _COMPARED_EVERY
    return {
        "test_accuracy": accuracy(model, last["decayed"], data),
        "test_accuracy_plain": accuracy(model, last["plain"], data),
        **{f"gap_{name}": rounded(max(values)) for name, values in gaps.items() if name != "plain"},
        **{f"gap_{name}_early": rounded(max(values[:early])) for name, values in gaps.items() if name != "plain"},
        **defects(model),
    }


@torch.no_grad()
def gap(model: nn.Module, a: Parameters, b: Parameters, x: Tensor) -> float:
    """The norm of the difference of the logits under two sets of parameters over that of the logits under the first."""
    one, other = functional_call(model, a, (x,)), functional_call(model, b, (x,))
    return float((one - other).norm() / one.norm())


@torch.no_grad()
def accuracy(model: nn.Module, parameters: Parameters, data: Any) -> float:
    """On test images."""
    return float((functional_call(model, parameters, (data.x_test,)).argmax(1) == data.y_test).double().mean())


_POINTS = {"rotated": BLUE, "broken": VERMILION}
"""The points of the dial that the figure shows, with their colours."""


def plot(records: list[dict[str, Any]], path: Any) -> None:
    """Accuracy and weight defect over the ratio of the decays."""
    preset = choose_preset(records)
    mine = [r for r in records if r["preset"] == preset]
    draw_figure(path, (7.2, 4.0), lambda axes: _draw(axes, mine))


def _draw(axes: Any, records: Sequence[Mapping[str, Any]]) -> None:
    figure = axes.figure
    figure.clear()
    panels = figure.subplots(1, 2)
    for panel, (key, label) in zip(
        panels, (("test_accuracy", "test accuracy"), ("weight_defect_mean", "weight defect")), strict=True
    ):
        for point, colour in _POINTS.items():
            groups = [_values(records, f"soft-{ratio}", f"{key}@{point}") for ratio in RATIOS]
            drawn = [(r, g) for r, g in zip(RATIOS, groups, strict=True) if g]
            for variant, style in (("hard", "--"), ("none", ":")) if key == "test_accuracy" else ():
                if level := _values(records, variant, f"{key}@{point}"):
                    panel.axhline(sum(level) / len(level), color=colour, ls=style, lw=1, label=f"{variant}, {point}")
            if drawn:
                x, values = zip(*drawn, strict=True)
                panel.fill_between(
                    x, [min(g) for g in values], [max(g) for g in values], color=colour, alpha=0.15, lw=0
                )
                panel.plot(x, [sum(g) / len(g) for g in values], "o-", color=colour, ms=4, label=f"soft, {point}")
        panel.set_xscale("log")
        panel.set_xticks(RATIOS, [str(r) for r in RATIOS])
        panel.set_xlabel("decay, residual / equivariant")
        panel.set_ylabel(label)
        panel.grid(which="major")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    panels[1].set_title(BAND, loc="right", fontsize=8)


def _values(records: Sequence[Mapping[str, Any]], variant: str, key: str) -> list[float]:
    found = [scalar(r["metrics"], key) for r in records if r["variant"] == variant]
    return [v for v in found if v is not None]


EXPERIMENTS: dict[str, Experiment] = {
    "rates": Experiment(
        name="rates",
        summary="growing learning rates instead of weight decay on normalised soft layers, with one decay and two",
        variants=VARIANTS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            *(Column(f"test_accuracy@{p}", f"accuracy, {p}", ".3f") for p in _POINTS),
            *(Column(f"weight_defect_mean@{p}", f"weight defect, {p}", ".3f") for p in _POINTS),
            Column("gap_grown_early@broken", "gap of growing rates, 50 steps", ".1e"),
            Column("gap_grown@broken", "200 steps", ".1e"),
            Column("gap_ungated_early@broken", "gap without the gate, 50 steps", ".1e"),
            Column("test_accuracy_plain@broken", "accuracy, broken, no decay", ".3f"),
        ),
        notes=(
            "soft-k: the residual pathway's decay is k times the equivariant one's. Gap: the largest relative"
            " difference over all steps between the logits of the decayed network and those of its twin without decay,"
            " float64.",
        ),
        plot=plot,
        group=GROUP,
    )
}
