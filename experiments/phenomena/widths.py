"""``double-descent``: the test error over the width, and the effective dimension of the Hessian in two subspaces.

Digits of 8 x 8 pixels at random quarter turns, a fifth of the training labels drawn at random. The error of a network
with one hidden layer falls, rises towards the width at which it can fit every label, and falls again (Belkin et al.
2019); Maddox, Benton and Wilson (2020) found that the effective dimension falls with it. Here it is split: that of the
Hessian on the equivariant maps, and on the rest, ``sum lambda / (lambda + alpha)`` of the summed loss, ``alpha = 1``.
No prior holds the networks but the soft one's, which is weak (`PRIOR`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from softeq.experiments.data.quarters import ROTATED, QuarterPoint, load_quarters
from softeq.experiments.engine.bookkeeping import MEASURE, counter, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.benign import noisy_labels
from softeq.experiments.phenomena.curvature import effective_dimension, equivariant_part, flat, hessian_product, plain
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.panels import Panel, panels
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, free_parameters, quarter_network

ARMS = ("hard", "soft", "none")
WIDTHS = (1, 2, 4, 8, 16, 32)
SIDE = 8
PRIOR = {"equivariant": 0.001, "residual": 0.01}
"""In nats for the whole data set, of soft alone: a residual weight is ten times as dear, and neither dear."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "seeds": 1,
        "widths": [1, 8],
        "sizes": (40, 10, 100),
        "training": {"steps": 10, "batch_size": 40, "lr": 2e-2, "validate_every": 10},
        "curvature": {"alpha": 1.0, "probes": 1, "steps": 5},
    },
    "default": {
        "seeds": 5,
        "widths": list(WIDTHS),
        "sizes": (150, 20, 597),
        "training": {"steps": 400, "batch_size": 75, "lr": 2e-2, "validate_every": 400},
        "curvature": {"alpha": 1.0, "probes": 2, "steps": 25},
    },
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    return {
        "arm": variant,
        "widths": size["widths"],
        "data": {"source": "digits", "sizes": list(size["sizes"]), "point": asdict(ROTATED), "noise": 0.2},
        "network": {"side": SIDE, "constraint": variant},
        "training": dict(size["training"]),
        "prior": dict(PRIOR) if variant == "soft" else None,
        "curvature": dict(size["curvature"]),
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """At every width ``@w`` (vectors of Z(4) in the hidden layer): ``test_error``, ``train_error``, ``parameters``
    (free ones), ``dimension_equivariant``, ``dimension_rest``, ``defect``; and ``final_error``, the last test error."""
    step = counter(progress, len(config["widths"]) * config["training"]["steps"])
    data = load_quarters(
        "digits", tuple(config["data"]["sizes"]), QuarterPoint(**config["data"]["point"]), config["seed"]
    )
    generator = generator_for(config["seed"], MEASURE)
    labels = noisy_labels(data.y_train, config["data"]["noise"], data.classes, generator)
    task = QuarterTask(replace(data, y_train=labels))
    metrics: Metrics = {}
    for width in config["widths"]:
        found = _at(config, task, width, step)
        metrics |= {f"{key}@{width}": rounded(value) for key, value in found.items()}
    return metrics | {"final_error": metrics[f"test_error@{config['widths'][-1]}"]}


def _at(config: Config, task: QuarterTask, width: int, step: Any) -> dict[str, float]:
    model = seeded(config, lambda: quarter_network(**config["network"], width=width))
    fitted(model, task, config["training"], config["seed"], prior=config["prior"], on_step=step)
    found, folded = task.measure(model), plain(model)
    parameters, how = flat(folded), config["curvature"]
    product = hessian_product(folded, task.data.x_train, task.data.y_train)
    common: Any = {"probes": how["probes"], "steps": how["steps"], "seed": config["seed"]}
    alpha = how["alpha"] / task.samples  # the product is of the mean loss
    inside = effective_dimension(
        product, len(parameters), alpha, within=lambda v: equivariant_part(folded, v), **common
    )
    rest = effective_dimension(
        product, len(parameters), alpha, within=lambda v: v - equivariant_part(folded, v), **common
    )
    return {
        "test_error": 1 - found["test_accuracy"],
        "train_error": 1 - found["train_accuracy"],
        "parameters": free_parameters(model),
        "dimension_equivariant": inside,
        "dimension_rest": rest if config["arm"] != "hard" else 0.0,
        "defect": found["weight_defect_mean"],
    }


def _panel(key: str, label: str, **how: Any) -> Panel:
    return Panel(label, tuple(f"{key}@{w}" for w in WIDTHS), tuple(map(float, WIDTHS)), "width", logx=True, **how)


EXPERIMENTS: dict[str, Experiment] = {
    "double-descent": Experiment(
        name="double-descent",
        summary="test error over the width under noisy labels, and the effective dimension in and off the symmetry",
        variants=ARMS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            Column("final_error", "test error, widest", ".3f"),
            *(Column(f"test_error@{w}", f"test error, width {w}", ".3f") for w in WIDTHS[:-1]),
            *(Column(f"train_error@{w}", f"training error, width {w}", ".3f") for w in WIDTHS),
            *(Column(f"dimension_equivariant@{w}", f"dimension, equivariant, width {w}", ".0f") for w in WIDTHS),
            *(Column(f"dimension_rest@{w}", f"the rest, width {w}", ".0f") for w in WIDTHS),
        ),
        notes=(
            "Width: vectors of Z(4) in the hidden layer, four units each. hard has a quarter of the free parameters.",
            "Published, another set-up (Maddox, Benton, Wilson 2020): ResNet-18 on CIFAR-100, alpha = 1: the effective"
            " dimension falls where the test error falls again; values stored as plots.",
        ),
        plot=panels(
            [_panel("test_error", "test error"), _panel("train_error", "training error, noisy labels")],
            [
                _panel("dimension_equivariant", "effective dimension, equivariant"),
                _panel("dimension_rest", "effective dimension, rest"),
            ],
        ),
        group=GROUP,
    )
}
