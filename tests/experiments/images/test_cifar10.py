"""cifar10 and fashion-mnist: complete and fair configurations, runs on files as published, and what a record holds."""

import json
import math

import pytest
import torch

from softeq import Prior, prior_penalty
from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data.cifar10 import FOLDER_VARIABLE
from softeq.experiments.data.images import FOLDER_VARIABLE as FASHION_VARIABLE
from softeq.experiments.engine import record, registry
from softeq.experiments.images.cifar10 import CONSTRAINTS, DATASET, EXPERIMENTS, PUBLISHED_TRIAL, configure
from softeq.experiments.images.dconv_run import load, penalty, run, train_trial
from softeq.experiments.images.run import build_model
from softeq.experiments.training.fit import precision

from ..cifar10_files import write_folder
from ..data.test_images import write_folder as write_fashion


def ignore(done, total):
    pass


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Both data sets with few images, in the formats of their publishers."""
    for name, variable in (("cifar", FOLDER_VARIABLE), ("fashion", FASHION_VARIABLE)):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    write_folder(tmp_path / "cifar", per_batch=8, n_test=10)
    write_fashion(tmp_path / "fashion", n_train=40, n_test=10)
    return tmp_path


def tiny(name, variant, seed=0, **changes):
    config = configure(DATASET[name], "smoke", variant, seed)
    config["data"]["sizes"] = [24, 12, 8]
    config["training"] |= {"epochs": 2, "batch_size": 12}
    config["network"]["width"] = 1
    config["measurement"] |= {"images": 2}
    return config | changes


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_they_are_known_by_name_and_have_what_the_command_line_needs(name):
    experiment = registry.get(name)
    assert experiment is EXPERIMENTS[name]
    assert set(experiment.presets) == {"smoke", "default", "paper"}
    assert {"hard", "soft", "soft-published", "none"} <= set(experiment.variants)
    assert ("none-augmented" in experiment.variants) == (name == "fashion-mnist")


def test_five_seeds_at_least_where_the_data_are_packaged():
    assert EXPERIMENTS["fashion-mnist"].presets["default"] >= 5


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("preset", ["smoke", "default", "paper"])
def test_configurations_are_complete_survive_json_and_differ_where_they_should(name, preset):
    configs = {variant: configure(DATASET[name], preset, variant, 3) for variant in EXPERIMENTS[name].variants}
    tuned = {len(config["trials"]) for variant, config in configs.items() if variant != "soft-published"}
    assert len(tuned) == 1  # as many trials for everyone
    assert configs["soft-published"]["trials"] == [PUBLISHED_TRIAL]
    for variant, config in configs.items():
        encoded = record.encode(config)
        assert json.loads(json.dumps(encoded)) == encoded
        assert config["network"]["constraint"] == CONSTRAINTS[variant]
        assert config["augment"] == (name == "cifar10" or variant == "none-augmented")
        rest = {k: v for k, v in config.items() if k not in ("trials", "augment", "network")}
        other = {k: v for k, v in configs["hard"].items() if k not in ("trials", "augment", "network")}
        assert rest == other


def test_the_networks_are_the_published_ones():
    """The dense twins' numbers of parameters are held in tests/models/test_soft_images.py."""
    configs = [configure(DATASET["cifar10"], "paper", variant, 0) for variant in ("hard", "soft", "none")]
    networks = [config["network"] for config in configs]
    assert [network.pop("constraint") for network in networks] == ["hard", "soft", "none"]
    assert networks[0] == networks[1] == networks[2]
    assert (networks[0]["width"], networks[0]["residual"]) == (2, "dense")
    model = build_model(configure(DATASET["cifar10"], "smoke", "hard", 0))
    assert sum(p.numel() for p in model.parameters()) == 27_270


def test_configuring_does_not_share_what_a_run_may_change():
    dataset = DATASET["fashion-mnist"]
    configure(dataset, "smoke", "soft", 0)["trials"][0]["lr"] = 7.0
    assert configure(dataset, "smoke", "soft", 0)["trials"][0]["lr"] < 1


def test_unknown_variants_are_refused():
    with pytest.raises(
        SofteqValueError, match="expected one of hard, soft, soft-published, none, got 'none-augmented'"
    ):
        configure(DATASET["cifar10"], "smoke", "none-augmented", 0)


@pytest.mark.parametrize(
    ("name", "variant", "dtype"),
    [
        ("cifar10", "hard", "float32"),
        ("fashion-mnist", "soft", "float64"),
        ("fashion-mnist", "none-augmented", "float32"),
    ],
)
def test_a_run_measures_what_the_table_shows(files, name, variant, dtype):
    steps = []
    config = tiny(name, variant, dtype=dtype)
    metrics = run(config, lambda done, total: steps.append((done, total)))
    record.encode(metrics)
    total = 4 * len(config["trials"])
    assert steps == [(k, total) for k in range(1, total + 1)]
    assert all(math.isfinite(metrics[column.key]) for column in EXPERIMENTS[name].columns)
    assert len(metrics["trials"]) == len(config["trials"])
    assert len(metrics["weight_defect"]) == 8
    assert (metrics["weight_defect_mean"] == 0) == (variant == "hard")
    assert 0 <= metrics["test_accuracy"] <= 1


def test_a_run_repeats_itself_and_another_seed_is_another_run(files):
    def losses(seed, variant="none"):
        return [trial["train_losses"] for trial in run(tiny("fashion-mnist", variant, seed), ignore)["trials"]]

    before = torch.get_rng_state()
    first = losses(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == losses(0)
    assert first != losses(1)
    assert first != losses(0, "none-augmented")


def test_the_loss_has_the_published_decays(files):
    config = tiny("fashion-mnist", "soft")
    model = build_model(config)
    trial = {"equivariant_decay": 0.3, "residual_decay": 0.02}
    squares = {"equivariant": 0.0, "residual": 0.0}
    for name, parameter in model.named_parameters():
        for pathway in squares:
            if f"pathways.{pathway}" in name:
                squares[pathway] += float(parameter.detach().double().square().sum())
    expected = 0.3 * squares["equivariant"] + 0.02 * squares["residual"]
    assert penalty(model, trial, 24)().item() == pytest.approx(expected, rel=1e-5)
    prior = Prior(precision(0.3, 24), precision(0.02, 24))
    assert prior_penalty(model, prior).item() / 24 == pytest.approx(expected, rel=1e-5)


def test_a_step_is_the_published_one(files):
    """Momentum .9 on the gradient of loss and decay, a cosine from lr, no clipping: two steps by hand."""
    config = tiny("fashion-mnist", "hard", dtype="float64")
    config["training"] |= {"epochs": 1}
    data = load(config)
    trial = {"lr": 0.1, "equivariant_decay": 1e-3, "residual_decay": 0.0}
    found = train_trial(data, trial, config, lambda: None).model
    model = build_model(config).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1_000_003 + 2)).split(12)
    for step, rows in enumerate(order, start=1):
        loss = torch.nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows])
        squares = [p.square().sum() for name, p in model.named_parameters() if "pathways" in name]
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * step / 3)) / 2
        optimizer.zero_grad()
        (loss + 1e-3 * sum(squares)).backward()
        optimizer.step()
    for a, b in zip(found.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_divergence_is_a_result(files):
    trial = {"lr": 1e30, "equivariant_decay": 0.0, "residual_decay": 0.0}
    metrics = run(tiny("fashion-mnist", "hard", trials=[trial]), ignore)
    assert math.isnan(metrics["test_accuracy"])
    assert metrics["trials"][0]["diverged_at_step"] >= 1
    record.encode(metrics)


def test_absent_and_damaged_files_are_told_of(files, monkeypatch):
    batch = files / "cifar" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:1000])
    with pytest.raises(SofteqError, match="data_batch_2: cut off, corrupt"):
        run(tiny("cifar10", "hard"), ignore)
    monkeypatch.delenv(FOLDER_VARIABLE)
    with pytest.raises(MissingExtraError, match="CIFAR-10 is not here"):
        run(tiny("cifar10", "hard"), ignore)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_of():
    with pytest.raises(SofteqValueError, match="expected a GPU"):
        run(tiny("cifar10", "hard", device="cuda"), ignore)
