"""``kernel``: the neural tangent kernel of a soft network, from hard to none, and where training leaves it.

At infinite width a soft network with a prior is kernel regression with ``K_hard / p_e + K_none / p_r``
(`experiments.phenomena.tangent`). The ratio of the precisions and the ridge are chosen by validation images or by the
evidence. Beside it finite networks are trained, and the kernels of their pathways compared before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.data.quarters import (
    BROKEN,
    DIGITS,
    DIGITS_SIDE,
    ROTATED,
    load_quarters,
    quarter_points,
)
from softeq.experiments.engine.bookkeeping import counter, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.panels import Panel, panels
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, quarter_network
from softeq.experiments.phenomena.tangent import Ridge, alignment, free_kernel, hard_kernel, pathway_kernels
from softeq.experiments.training.arms import arm
from softeq.pathways import RESIDUAL

RATIOS = tuple(10.0**k for k in (-3, -2, -1, -0.5, 0, 0.5, 1, 2))
"""Precision of the equivariant pathway over that of the residual: a large one is nearly no symmetry."""
RIDGES = tuple(10.0**k for k in range(-6, 1))
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "sizes": [40, 20, 50], "width": 4, "steps": 10, "measured": 10, "points": [ROTATED]},
    "default": {
        "seeds": 5,
        "sizes": [200, 200, 597],
        "width": 8,
        "steps": 600,
        "measured": 40,
        "points": [ROTATED, BROKEN],
    },
    "paper": {
        "seeds": 10,
        "sizes": [900, 300, 597],
        "width": 64,
        "steps": 1000,
        "measured": 100,
        "points": [ROTATED, BROKEN],
    },
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    one = arm(variant)
    return {
        "data": {"source": DIGITS, "sizes": size["sizes"]},
        "points": [asdict(point) for point in size["points"]],
        "network": {"side": DIGITS_SIDE, "width": size["width"], "constraint": one.constraint},
        "rule": one.rule_name,
        "ratios": list(RATIOS),
        "ridges": list(RIDGES),
        "training": {"steps": size["steps"], "batch_size": 50, "lr": 1e-2, "validate_every": size["steps"]},
        "measured": size["measured"],
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """By point: accuracies of the kernels and of the network, and how the network's kernels changed."""
    step = counter(progress, len(config["points"]) * (config["training"]["steps"] + 1))
    metrics: Metrics = {}
    for point in quarter_points(config["points"]):
        data = load_quarters(config["data"]["source"], config["data"]["sizes"], point, config["seed"])
        found = regression(config, data)
        step()
        found |= trained(config, data, step)
        metrics |= {f"{key}@{point.name}": value for key, value in found.items()}
    return metrics


def regression(config: Config, data: LabelledImages) -> Metrics:
    """``kernel_accuracy``, ratio and ridge chosen by validation, ``_evidence`` by that; soft: at every ratio."""
    constraint = config["network"]["constraint"]
    ratios = config["ratios"] if constraint == "soft" else [1.0]
    candidates = []
    parts = [_kernels(data, part, constraint) for part in ("train", "validation", "test")]
    for ratio in ratios:
        kernels = [hard + ratio * free for hard, free in parts]
        solved = Ridge(kernels[0], _targets(data))
        for ridge in config["ridges"]:
            errors = [_accuracy(solved.predict(k, ridge), y) for k, y in _asked(data, kernels)]
            candidates.append((ratio, *errors, solved.evidence(ridge)))
    best = max(candidates, key=lambda c: c[1])
    likely = max(candidates, key=lambda c: c[3])
    metrics: Metrics = {
        "kernel_accuracy": best[2],
        "kernel_accuracy_evidence": likely[2],
        "evidence": rounded(likely[3]),
    }
    if constraint == "soft":
        metrics |= {"ratio": best[0], "ratio_evidence": likely[0]}
        for k, ratio in enumerate(ratios):
            own = [c for c in candidates if c[0] == ratio]
            metrics[f"kernel_accuracy_{k}"] = max(own, key=lambda c: c[1])[2]
    return metrics


def _kernels(data: LabelledImages, part: str, constraint: str) -> tuple[Tensor, Tensor]:
    """The hard and the free kernel of a split's images with the training ones, zero where the network has none."""
    images: Tensor = getattr(data, f"x_{part}").double()
    x, train = images.flatten(1), data.x_train.double()
    zero = torch.zeros(len(x), len(train), dtype=torch.float64)
    moved = [train.rot90(k, (-2, -1)).flatten(1) for k in range(4)]
    hard = zero if constraint == "none" else hard_kernel(x, moved)
    return hard, zero if constraint == "hard" else free_kernel(x, moved[0])


def _targets(data: LabelledImages) -> Tensor:
    return one_hot(data.y_train, data.classes).double() - 1 / data.classes


def _asked(data: LabelledImages, kernels: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(kernels[1], data.y_validation), (kernels[2], data.y_test)]


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.argmax(1) == y).double().mean())


def trained(config: Config, data: LabelledImages, step: Any) -> Metrics:
    """``network_accuracy``; ``kernel_kept``, the alignment of the whole kernel before and after training;
    ``residual_share`` of its trace before and after; ``alignment`` with the labels before and after."""
    model = seeded(config, lambda: quarter_network(**config["network"]))
    x, y = data.x_train[: config["measured"]], _targets(data)[: config["measured"]].float()
    before = pathway_kernels(model, x)
    task = QuarterTask(data)
    soft = config["network"]["constraint"] == "soft"
    fitted(model, task, config["training"], config["seed"], rule=config["rule"] if soft else "fixed", on_step=step)
    after = pathway_kernels(model, x)
    whole = [sum(kernels.values(), torch.zeros(len(x), len(x))) for kernels in (before, after)]
    metrics: Metrics = {"network_accuracy": task.test(model), "kernel_kept": rounded(alignment(*whole))}
    for when, kernels, total in zip(("before", "after"), (before, after), whole, strict=True):
        metrics[f"label_alignment_{when}"] = rounded(alignment(total, y @ y.T))
        if RESIDUAL in kernels:
            metrics[f"residual_share_{when}"] = rounded(float(kernels[RESIDUAL].trace() / total.trace()))
    return metrics


_POINTS = ("rotated", "broken")
_SWEEP = tuple(range(len(RATIOS)))
EXPERIMENTS: dict[str, Experiment] = {
    "kernel": Experiment(
        name="kernel",
        summary="tangent kernels of hard, soft and free networks: regression with them, and where training leaves them",
        variants=("hard", "soft", "none"),
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            *(Column(f"kernel_accuracy@{p}", f"kernel, {p}", ".3f") for p in _POINTS),
            *(Column(f"network_accuracy@{p}", f"network, {p}", ".3f") for p in _POINTS),
            *(Column(f"ratio@{p}", f"precision ratio, {p}", ".3g") for p in _POINTS),
            *(Column(f"kernel_kept@{p}", f"kernel kept, {p}", ".2f") for p in _POINTS),
            Column("residual_share_before@rotated", "residual's share before, rotated", ".2f"),
            *(Column(f"residual_share_after@{p}", f"after, {p}", ".2f") for p in _POINTS),
        ),
        notes=(
            "Accuracies on test images. Precision ratio: the equivariant pathway's over the residual's, chosen with the"
            " ridge on validation images. Kernel kept: centred alignment of the network's kernel before and after"
            " training. Residual's share: of the trace of the network's kernel.",
        ),
        plot=panels(
            [
                Panel(
                    "accuracy of kernel regression",
                    tuple(f"kernel_accuracy_{k}@{p}" for k in _SWEEP),
                    RATIOS,
                    "precision, equivariant / residual",
                    p,
                    logx=True,
                )
                for p in _POINTS
            ],
            [
                Panel("accuracy", (f"kernel_accuracy@{p}", f"network_accuracy@{p}"), ("kernel", "network"), "", p)
                for p in _POINTS
            ],
        ),
        group=GROUP,
    )
}
