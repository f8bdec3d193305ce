import pytest
import torch

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.experiments.data.regression import Regression, split


def regression(**changes):
    fields = {
        f"{axis}_{part}": torch.ones(4, n)
        for part in ("train", "validation", "test")
        for axis, n in (("x", 3), ("y", 2))
    }
    return Regression(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x_test": torch.full((4, 3), torch.nan)}, SofteqValueError, "x_test.*NaN"),
        ({"y_train": torch.full((4, 2), torch.inf)}, SofteqValueError, "y_train.*inf"),
        ({"y_validation": torch.ones(5, 2)}, SofteqValueError, "x_validation and y_validation.*4, 5"),
        ({"x_test": torch.ones(4, 7)}, SofteqValueError, r"x_test: expected shape \(N, 3\)"),
        ({"x_test": torch.ones(0, 3)}, SofteqValueError, "x_test.*N >= 1"),
        ({"y_test": torch.ones(4, 2, dtype=torch.float64)}, SofteqTypeError, "y_test.*float32.*float64"),
        ({"x_train": torch.ones(4, 3, dtype=torch.int64)}, SofteqTypeError, "x_train.*int64"),
    ],
)
def test_regression_refuses(changes, error, message):
    assert regression().x_train.shape == (4, 3)
    with pytest.raises(error, match=message):
        regression(**changes)


@pytest.mark.parametrize("sizes", [(3, 3, 3), (0, 2, 2), (-1, 2, 2)])
def test_split_refuses_sizes_that_do_not_fit(sizes):
    with pytest.raises(SofteqValueError, match="sizes"):
        split(torch.ones(8, 3), torch.ones(8, 2), sizes)


def test_rows_go_to_one_split_each_in_their_order_with_their_targets():
    x = torch.arange(10.0)[:, None]
    made = split(x, torch.cat([x, -x], 1), (4, 3, 2))
    parts = [getattr(made, f"x_{part}").flatten().tolist() for part in ("train", "validation", "test")]
    assert parts == [[0, 1, 2, 3], [4, 5, 6], [7, 8]]
    for part in ("train", "validation", "test"):
        x, y = getattr(made, f"x_{part}"), getattr(made, f"y_{part}")
        assert torch.equal(y, torch.cat([x, -x], 1))


def test_another_dtype_is_every_splits():
    made = regression().to(dtype=torch.float64)
    assert {value.dtype for value in vars(made).values()} == {torch.float64}
