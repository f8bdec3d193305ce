"""soften: complete and fair configurations, the same start for all variants, and what a record holds."""

import math
import types

import pytest
import torch
from torch import nn

from softeq import SoftConv2d
from softeq.errors import MissingExtraError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine import record, registry
from softeq.experiments.images import finetune
from softeq.experiments.images.finetune import COMPARISONS, EXPERIMENTS, build, enlarged, task_of
from softeq.experiments.training.trials import train_trial

EXPERIMENT, COMPARISON = EXPERIMENTS["soften"], COMPARISONS["soften"]
configure, run = COMPARISON.configure, COMPARISON.run
VARIANTS = ("soft", "soft-grid", "plain", "frozen")


def ignore(done, total):
    pass


class Pretrained(nn.Module):
    """What the experiment needs of a timm network."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))
        self.classifier = nn.Linear(8, 1000)

    def reset_classifier(self, classes):
        self.classifier = nn.Linear(8, classes)

    def get_classifier(self):
        return self.classifier

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x, pre_logits=False):
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def toy_images(name, sizes, generator, dtype):
    splits = []
    for n in sizes:
        y = torch.randint(10, (n,), generator=generator)
        x = 0.2 * torch.rand(n, 1, 28, 28, generator=generator, dtype=dtype)
        for image, label in zip(x, y.tolist(), strict=True):
            image[0, 2 * label : 2 * label + 6] += 0.8
        splits += [(x - 0.25) / 0.5, y]
    return LabelledImages(name, *splits, mean=0.25, std=0.5)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    def load_model(name, *, weights, image_size, dtype):
        assert (name, weights, image_size) == ("tf_efficientnet_lite0", "packaged", 16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            return types.SimpleNamespace(module=Pretrained().to(dtype).eval())

    monkeypatch.setattr(finetune, "default_dataset", lambda: "fashion-mnist")
    monkeypatch.setattr(finetune, "load_images", toy_images)
    monkeypatch.setattr(finetune, "load_model", load_model)


def tiny(variant, seed=0, **changes):
    config = configure("smoke", variant, seed)
    config["data"] |= {"sizes": [40, 20, 20], "pixels": 16}
    config["training"] |= {"steps": 8, "batch_size": 10, "validate_every": 4}
    config["measurement"] |= {"shifts": [1]}
    return config | changes


def test_it_is_known_by_name_and_has_what_the_command_line_needs():
    assert registry.get("soften") is EXPERIMENT
    assert EXPERIMENT.variants == VARIANTS
    assert EXPERIMENT.presets["default"] >= 5


def test_every_variant_starts_from_the_same_outputs():
    before = torch.get_rng_state()
    models = [build(tiny(variant, dtype="float64")).eval() for variant in ("soft", "plain", "frozen")]
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    soft, plain, frozen = (model(x) for model in models)
    assert soft.shape == (2, 10)
    torch.testing.assert_close(soft, plain)
    assert torch.equal(plain, frozen)
    assert sum(isinstance(m, SoftConv2d) for m in models[0].modules()) == 2
    assert not any(isinstance(m, SoftConv2d) for m in models[1].modules())
    assert not torch.equal(build(tiny("plain", seed=1)).classifier.weight, models[1].classifier.weight.float())


def test_images_are_enlarged_to_three_equal_channels_on_the_scale_of_the_weights():
    data = enlarged(tiny("plain", dtype="float64"))
    assert data.x_train.shape == (40, 3, 16, 16)
    assert data.x_train.dtype == torch.float64
    assert torch.equal(data.x_test[:, 0], data.x_test[:, 2])
    assert -1 <= float(data.x_train.min()) < -0.5
    assert 0.5 < float(data.x_train.max()) <= 1
    assert (data.mean, data.std) == (0.5, 0.5)  # black is -mean / std


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_measures_what_the_table_shows(variant):
    steps = []
    metrics = run(tiny(variant), lambda done, total: steps.append((done, total)))
    record.encode(metrics)
    assert steps[-1] == (8, 8)
    shown = {c.key for c in EXPERIMENT.columns} - {
        "shifted_accuracy_4",
        "shifted_accuracy_8",
        "test_accuracy_equal_steps",
    }
    shown -= set() if variant.startswith("soft") else {"weight_defect_mean"}
    assert all(math.isfinite(metrics[key]) for key in shown)
    assert ("weight_defect_mean" in metrics) == variant.startswith("soft")
    trained = {"frozen": 90}.get(variant)  # the head: eight features and a bias to ten classes
    assert trained in (None, metrics["parameters"])


def trained(config, **trial):
    task = task_of(config, {"name": ""})
    start = {"lr": 1e-2, "prior": None}
    return task, train_trial(task, lambda: build(config, task), start | trial, config)


def test_frozen_trains_the_head_alone():
    config = tiny("frozen")
    start = build(config)
    task, one = trained(config)
    for (name, a), b in zip(start.state_dict().items(), one.model.state_dict().values(), strict=True):
        assert torch.equal(a, b) == (not name.startswith("classifier")), name
    model, x = one.model.eval(), enlarged(config).x_validation
    torch.testing.assert_close(model(x), model.classifier(finetune.pooled(model, x)))
    right = (model(x).argmax(1) == task.data.y_validation).float().mean()
    assert task.validation_error(model) == pytest.approx(1 - float(right))


def test_the_prior_prices_the_residual_pathways_alone_and_costs_nothing_at_the_start():
    config, changed = tiny("soft-grid"), {}
    start = build(config).body[0]
    for precision in (0.0, 1e8):
        layer = trained(config, prior={"residual": precision})[1].model.body[0]
        changed[precision] = {
            name: sum(
                float((p - q).detach().square().sum())
                for p, q in zip(pathway.parameters(), start.pathways[name].parameters(), strict=True)
            )
            for name, pathway in layer.pathways.items()
        }
    assert changed[1e8]["residual"] < 0.01 * changed[0.0]["residual"]
    assert changed[1e8]["equivariant"] > 0.5 * changed[0.0]["equivariant"]


def test_a_run_repeats_itself_and_another_seed_is_another_run():
    def losses(seed):
        return [trial["train_losses"] for trial in run(tiny("soft", seed), ignore)["trials"]]

    assert losses(0) == losses(0) != losses(1)


def test_divergence_is_a_result():
    metrics = run(tiny("plain", trials=[{"lr": 1e30, "prior": None}]), ignore)
    assert math.isnan(metrics["test_accuracy"])
    record.encode(metrics)


def test_missing_weights_and_data_are_told_of(monkeypatch):
    def absent(*args, **kwargs):
        raise MissingExtraError("the weights come in a package")

    monkeypatch.setattr(finetune, "load_model", absent)
    with pytest.raises(MissingExtraError, match="the weights come in a package"):
        run(tiny("plain"), ignore)
    monkeypatch.setattr(finetune, "default_dataset", absent)
    with pytest.raises(MissingExtraError):
        configure("smoke", "plain", 0)


@pytest.mark.slow
def test_the_packaged_network_is_softened_without_a_change_of_its_outputs(monkeypatch):
    from softeq.measure.loading.sources import load_model

    monkeypatch.setattr(finetune, "load_model", load_model)
    configs = [configure("default", variant, 0) for variant in ("soft", "plain")]
    soft, plain = (build(config).eval() for config in configs)
    x = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(soft(x), plain(x), atol=1e-4, rtol=1e-4)
    assert sum(isinstance(m, SoftConv2d) for m in soft.modules()) == 49  # all of its convolutions


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["soft-grid", "frozen"])
def test_a_gpu_gives_what_a_cpu_gives(variant):
    there, here = (run(tiny(variant, dtype="float64", device=device), ignore) for device in ("cuda", "cpu"))
    assert there["trials"][0]["train_losses"] == pytest.approx(here["trials"][0]["train_losses"], rel=1e-6)
    assert there["lee"] == pytest.approx(here["lee"], rel=1e-4)
    record.encode(there)
