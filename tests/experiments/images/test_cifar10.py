"""cifar10 and fashion-mnist: complete and fair configurations, runs on files as published, and what a record holds."""

import math

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data.cifar10 import FOLDER_VARIABLE
from softeq.experiments.data.images import FOLDER_VARIABLE as FASHION_VARIABLE
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.bookkeeping import generator_for
from softeq.experiments.images.cifar10 import COMPARISONS, EXPERIMENTS, build_network, task_of
from softeq.experiments.images.shifts import shifted
from softeq.experiments.training.loop import LoopSettings, train
from softeq.experiments.training.published import PublishedPenalty
from softeq.experiments.training.trials import rule_of

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


def configure(name, preset, variant, seed=0):
    return COMPARISONS[name].configure(preset, variant, seed)


def tiny(name, variant, seed=0, **changes):
    config = configure(name, "smoke", variant, seed)
    config["data"]["sizes"] = [24, 12, 8]
    config["training"] |= {"steps": 4, "batch_size": 12, "validate_every": 2}
    config["network"]["width"] = 1
    config["measurement"] |= {"images": 2}
    return config | changes


def run(config, progress=ignore):
    return COMPARISONS[config["data"]["name"]].run(config, progress)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_they_are_known_by_name_and_have_what_the_command_line_needs(name):
    experiment = registry.get(name)
    assert experiment is EXPERIMENTS[name]
    assert set(experiment.presets) == {"smoke", "default", "paper"}
    for variant in experiment.variants:
        augmented = configure(name, "smoke", variant)["augment"] is not None
        assert augmented == (name == "cifar10" or variant == "none-augmented")
    assert {"hard", "soft", "soft-published", "none"} <= set(experiment.variants)
    assert ("none-augmented" in experiment.variants) == (name == "fashion-mnist")


def test_five_seeds_at_least_where_the_data_are_packaged():
    assert EXPERIMENTS["fashion-mnist"].presets["default"] >= 5


def test_the_published_arm_has_the_published_decays():
    (trial,) = configure("fashion-mnist", "default", "soft-published")["trials"]
    assert trial == {"lr": 0.1, "prior": {"equivariant": 2 * 2560 * 1e-4, "residual": 2 * 2560 * 1e-3}}


def test_every_arm_has_the_same_compute():
    """A preset keeps its costs when the data set's name is added to it."""
    steps = {arm: configure("fashion-mnist", "default", arm)["training"]["steps"] for arm in ("hard", "none", "soft")}
    assert steps == {"hard": int(12_000 / 1.12), "none": 12_000, "soft": int(12_000 / 3.1)}


def test_the_networks_are_the_published_ones():
    """The dense twins' numbers of parameters are held in tests/models/test_soft_images.py."""
    configs = [configure("cifar10", "paper", variant) for variant in ("hard", "soft", "none")]
    networks = [config["network"] for config in configs]
    assert [network.pop("constraint") for network in networks] == ["hard", "soft", "none"]
    assert networks[0] == networks[1] == networks[2]
    assert (networks[0]["width"], networks[0]["residual"]) == (2, "dense")
    model = build_network(configure("cifar10", "smoke", "hard"))
    assert sum(p.numel() for p in model.parameters()) == 27_270


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
    # At the preset's rates so narrow a network may die and answer the same to every image, which has no ratio to noise.
    config["trials"] = [{**trial, "lr": 1e-4} for trial in config["trials"]]
    metrics = run(config, lambda done, total: steps.append((done, total)))
    record.encode(metrics)
    assert steps[-1] == (4, 4)
    shown = {column.key for column in EXPERIMENTS[name].columns} - {"test_accuracy_equal_steps"}
    assert {key: metrics[key] for key in shown if not math.isfinite(metrics[key])} == {}
    assert len(metrics["weight_defect"]) == 8
    assert (metrics["weight_defect_mean"] == 0) == (variant == "hard")
    assert 0 <= metrics["test_accuracy"] <= 1


def test_a_run_repeats_itself_and_another_seed_is_another_run(files):
    def losses(seed, variant="none"):
        return [trial["train_losses"] for trial in run(tiny("fashion-mnist", variant, seed))["trials"]]

    before = torch.get_rng_state()
    first = losses(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == losses(0)
    assert first != losses(1)
    assert first != losses(0, "none-augmented")


@pytest.mark.parametrize(("name", "mirrors"), [("fashion-mnist", False), ("cifar10", True)])
def test_training_images_are_shifted_and_mirrored_only_as_published(files, name, mirrors):
    config = tiny(name, "none-augmented" if name == "fashion-mnist" else "none")
    task = task_of(config, {"name": ""})
    x, fill = task.data.x_train, -task.data.mean / task.data.std
    moved = task.motion(torch.arange(len(x)), generator_for(0, 0))
    reach = torch.arange(-config["crop"], config["crop"] + 1)
    every = torch.cartesian_prod(reach, reach)

    def reached(image, target):
        return (shifted(image.expand(len(every), *image.shape), every, fill) == target).flatten(1).all(dim=1).any()

    upright = torch.tensor([reached(a, b) for a, b in zip(x, moved, strict=True)])
    mirrored = torch.tensor([reached(a.flip(-1), b) for a, b in zip(x, moved, strict=True)])
    assert (upright | mirrored).all()
    assert bool((mirrored & ~upright).any()) == mirrors
    assert not torch.equal(moved, x)


def test_the_published_penalty_is_the_published_one(files):
    config = tiny("fashion-mnist", "soft-published")
    task, model = task_of(config, {"name": ""}), build_network(config)
    rule = rule_of(model, task, config["rule"], config["trials"][0]["prior"])
    assert isinstance(rule, PublishedPenalty)
    squares = {"equivariant": 0.0, "residual": 0.0}
    for name, parameter in model.named_parameters():
        for pathway in squares:
            if f"pathways.{pathway}." in name and not name.endswith(".bias"):
                squares[pathway] += float(parameter.detach().square().sum())
    n, published = 24, {"equivariant": 2 * 640 * 1e-4, "residual": 2 * 640 * 1e-3}
    assert min(squares.values()) > 0
    wanted = sum(0.5 * published[name] * square / n for name, square in squares.items())
    assert float(rule.penalty()) == pytest.approx(wanted)


def test_a_step_is_the_published_one(files):
    """SGD with momentum: the second step adds .9 of the first one's gradient."""
    config = tiny("fashion-mnist", "none", dtype="float64")
    task, model = task_of(config, {"name": ""}), build_network(config)
    last = model.get_parameter(next(n for n, p in reversed(list(model.named_parameters())) if p.ndim == 2))
    gradients, values = [], [last.detach().clone()]
    loss = task.loss

    def watched(network, rows, motion):
        found, output = loss(network, rows, motion)
        gradients.append(torch.autograd.grad(found, last, retain_graph=True)[0])
        values.append(last.detach().clone())
        return found, output

    task.loss = watched
    settings = LoopSettings(**{**config["training"], "steps": 2, "schedule": "constant"}, lr=0.01)
    train(model, task, settings, torch.Generator().manual_seed(0))
    torch.testing.assert_close(values[2], values[0] - 0.01 * gradients[0])
    torch.testing.assert_close(last.detach(), values[2] - 0.01 * (gradients[1] + 0.9 * gradients[0]))


def test_divergence_is_a_result(files):
    metrics = run(tiny("fashion-mnist", "hard", trials=[{"lr": 1e30, "prior": None}]))
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


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "variant"), [("cifar10", "soft-grid"), ("fashion-mnist", "none-augmented")])
def test_a_gpu_gives_what_a_cpu_gives(files, name, variant):
    there, here = (run(tiny(name, variant, dtype="float64", device=device)) for device in ("cuda", "cpu"))
    assert there["trials"][0]["train_losses"] == pytest.approx(here["trials"][0]["train_losses"], rel=1e-6)
    assert there["lee"] == pytest.approx(here["lee"], rel=1e-4)
    record.encode(there)
