import base64
import importlib
import math
from dataclasses import replace

import numpy
import pytest
import torch

from softeq.experiments.audit import metrics as audit_metrics
from softeq.experiments.audit.model import measure_model
from softeq.experiments.audit.run import report, run_audit
from softeq.experiments.audit.settings import Settings
from softeq.experiments.engine import record
from softeq.measure import FLOWS, STENCILS, colour_flows, local_equivariance_error
from softeq.measure.loading.images import load_images
from softeq.measure.loading.sources import load_model

QUICK = Settings(images="noise", flows=("rotation", "translation_x"), limit=3, dtype="float64", stencil_images=2)


@pytest.fixture(autouse=True)
def _toys(toys):
    """The folder of the toy models is on the path."""


def runner(folder):
    """Runs an audit in an empty folder: its outcome, the records, the events."""

    def go(*models, settings=QUICK, **changes):
        events = []
        outcome = run_audit(models, replace(settings, **changes), folder, events.append)
        return outcome, record.read(folder / "audit.jsonl"), events

    return go


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


def test_the_numbers_are_those_of_the_measurement(run):
    outcome, records, _ = run("toy_models:cnn")
    assert outcome.exit_code == 0
    assert [r["variant"] for r in records] == ["toy_models:cnn/rotation", "toy_models:cnn/translation_x"]
    model = load_model("toy_models:cnn", dtype=torch.float64)
    x = load_images("noise", model=model, limit=3).x.double()
    result = local_equivariance_error(model.module, x, ["rotation", "translation_x"])
    for k, flow in enumerate(result.flows):
        metrics = records[k]["metrics"]
        assert metrics["lee_mean"] == pytest.approx(result.mean()[flow])
        assert metrics["lee_median"] == pytest.approx(result.median()[flow])
        assert metrics["lee_interval"] == pytest.approx(result.interval(flow))
        assert metrics["per_sample"] == pytest.approx(result.per_sample()[:, k].tolist())
        assert metrics["control_per_sample"] == pytest.approx(result.control["mean_square"][:, k].tolist())
        assert metrics["ratio_to_control"] == pytest.approx(result.ratio_to_control()[:, k].median().item())
        assert metrics["other_norms"]["relative"]["lee_mean"] == pytest.approx(result.mean("relative")[flow])
        assert metrics["unit"] == FLOWS[flow].unit
        assert metrics["directions"]["most"]["text"] == result.directions().most.text
        assert (metrics["missing"], metrics["accuracy"], metrics["labelled"]) == (0, None, 0)
        assert metrics["parameters"] == sum(p.numel() for p in model.module.parameters())
        assert metrics["layerwise"] is None


def test_the_other_stencils_are_tried_on_the_first_images(run):
    _, records, _ = run("toy_models:cnn", stencil="central")
    found = records[0]["metrics"]["stencils"]
    assert tuple(found) == STENCILS
    assert [name for name, entry in found.items() if entry.get("declared")] == ["central"]
    model = load_model("toy_models:cnn", dtype=torch.float64)
    x = load_images("noise", model=model, limit=3).x.double()[:2]
    for stencil, entry in found.items():
        expected = local_equivariance_error(model.module, x, "rotation", stencil=stencil).mean()["rotation"]
        assert entry["lee_mean"] == pytest.approx(expected)


def test_the_map_is_the_tangent_times_the_gradient_of_the_largest_output(run, monkeypatch):
    monkeypatch.setattr(audit_metrics, "CELLS", 16)
    _, records, _ = run("toy_models:cnn", limit=1, output="logits")
    model = load_model("toy_models:cnn", dtype=torch.float64)
    x = load_images("noise", model=model, limit=1).x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(model.module(x).amax(), x)
    expected = (FLOWS["rotation"].tangent(x.detach()) * gradient).sum(1)[0].abs()
    entry = records[0]["metrics"]["map"]
    assert (entry["height"], entry["width"]) == (12, 16)
    levels = numpy.frombuffer(base64.b64decode(entry["mean"]), numpy.uint8).reshape(12, 16) / 255 * entry["mean_peak"]
    assert entry["mean_peak"] == pytest.approx(expected.max().item())
    assert numpy.abs(levels - expected.numpy()).max() < entry["mean_peak"] / 400
    assert entry["first"] == entry["mean"]
    assert base64.b64decode(records[0]["metrics"]["image"]).startswith(b"\xff\xd8")


def test_layerwise_shares_sum_to_one(run):
    _, records, _ = run("toy_models:cnn", layerwise=True)
    split = records[0]["metrics"]["layerwise"]
    assert math.fsum(share for _, share in split["shares"]) == pytest.approx(1)
    assert split["gap"] < 1e-9
    assert {"conv", "act", "head"} <= {name for name, _ in split["shares"]}
    assert records[0]["config"]["layerwise"] == 3


def test_the_configuration_is_complete_and_follows_what_it_depends_on(run):
    _, (first, *_), _ = run("toy_models:cnn", limit=2)
    config = first["config"]
    assert config["model"] == "toy_models:cnn"
    assert (config["flow"], config["norm"], config["output"]) == ("rotation", "mean_square", "probabilities")
    assert (config["stencil"], config["boundary"], config["margin"]) == ("bspline", "mirror", 0)
    assert (config["images"], config["count"], config["limit"]) == ("noise", 2, 2)
    assert (config["dtype"], config["seed"], config["image_size"]) == ("float64", 0, [12, 16])
    _, records, _ = run("toy_models:cnn", "toy_models:wide", limit=2, seed=1)
    seeded, wide = records[2]["config"], records[4]["config"]
    assert seeded["weights_hash"] == config["weights_hash"] != wide["weights_hash"]
    assert seeded["images_hash"] != config["images_hash"]
    assert seeded["source_hash"] == wide["source_hash"] != config["source_hash"]
    assert first["provenance"]["device"] == "cpu"
    assert first["provenance"]["dtype"] == "float64"


def test_the_control_is_the_one_that_was_asked_for(run):
    _, (first, *_), _ = run("toy_models:cnn", flows=("rotation",), control="noise")
    assert first["config"]["control"] == "noise"
    model = load_model("toy_models:cnn", dtype=torch.float64)
    x = load_images("noise", model=model, limit=3).x.double()
    expected = local_equivariance_error(model.module, x, ["rotation"], control="noise").ratio_to_control().median()
    assert first["metrics"]["ratio_to_control"] == pytest.approx(expected.item())
    _, records, _ = run("toy_models:cnn", flows=("rotation",))
    assert records[-1]["config"]["control"] == "samples"
    assert records[-1]["metrics"]["other_norms"]["centred"]["lee_mean"] > 0
    _, records, _ = run("toy_models:cnn", flows=("rotation",), limit=1)
    assert records[-1]["config"]["control"] == "phase"


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_a_network_that_ends_in_its_probabilities(run, output):
    _, records, events = run("toy_models:cnn", "toy_models:certain", flows=("rotation",), layerwise=True, output=output)
    plain, certain = (r["metrics"] for r in records)
    assert any("outputs: taken as probabilities" in event.reason for event in events)
    if output == "probabilities":
        assert certain["per_sample"] == pytest.approx(plain["per_sample"])
    assert certain["curve"]["rows"][-1]["change"] == pytest.approx(plain["curve"]["rows"][-1]["change"])
    shares = dict(certain["layerwise"]["shares"])
    assert {"conv", "act", "head", "the logarithm of its output: between its modules"} <= set(shares)


def test_colours_beside_motions(run, tmp_path):
    _, records, _ = run("toy_models:cnn", flows=("brightness", "rotation"), layerwise=True)
    model = load_model("toy_models:cnn", dtype=torch.float64)
    x = load_images("noise", model=model, limit=3).x.double()
    bright = next(flow for flow in colour_flows(model.mean, model.std) if flow.name == "brightness")
    result = local_equivariance_error(model.module, x, [bright, "rotation"])
    found = {r["config"]["flow"]: r["metrics"] for r in records}
    for k, flow in enumerate(("brightness", "rotation")):
        assert found[flow]["per_sample"] == pytest.approx(result.per_sample()[:, k].tolist())
        assert found[flow]["ratio_to_control"] == pytest.approx(result.ratio_to_control()[:, k].median().item())
        assert math.fsum(share for _, share in found[flow]["layerwise"]["shares"]) == pytest.approx(1)
    assert (found["brightness"]["control"], found["rotation"]["control"]) == ("noise", "samples")
    assert found["brightness"]["stencils"] == {}  # nothing is interpolated
    assert tuple(found["rotation"]["stencils"]) == STENCILS
    page = report(tmp_path)[1].read_text()
    assert "intensity added, of 1" in page
    assert "over white noise" in page
    assert "Colours are held against white noise" in page
    outcome, _, _ = run("toy_models:dense", flows=("hue",), output="map")
    assert outcome.failures[0][1] == (
        "flows: hue needs images of red, green and blue, and toy_models:dense takes 1 channel"
    )


def test_the_slope_of_the_class_is_the_derivative(run):
    _, (first, *_), _ = run("toy_models:cnn", flows=("translation_x",))
    model = load_model("toy_models:cnn", dtype=torch.float64)
    x = load_images("noise", model=model, limit=3).x.double()
    step = 1e-5
    moved = [model.module(FLOWS["translation_x"](x, t)).softmax(1) for t in (step, -step)]
    top = model.module(x).argmax(1, keepdim=True)
    slope = ((moved[0] - moved[1]) / (2 * step)).gather(1, top).abs()[:, 0]
    assert first["metrics"]["top_slope_per_sample"] == pytest.approx(slope.tolist(), rel=1e-4)
    assert first["metrics"]["curve"]["rows"][0]["kept"] == 3


def test_what_is_recorded_is_not_measured_again(run):
    run("toy_models:cnn", flows=("rotation",))
    outcome, records, events = run("toy_models:cnn")
    assert outcome.held == ["toy_models:cnn/rotation"]
    assert outcome.recorded == ["toy_models:cnn/translation_x"]
    assert [e.kind for e in events if e.kind != "step"] == ["start", "loaded", "skip", "record", "done"]
    assert len(records) == 2
    outcome, records, _ = run("toy_models:cnn", stencil="central")
    assert (len(outcome.held), len(outcome.recorded), len(records)) == (0, 2, 4)


def test_layerwise_serves_one_who_asks_for_less_and_not_one_who_asks_for_more(run):
    run("toy_models:cnn", flows=("rotation",))
    assert run("toy_models:cnn", flows=("rotation",), layerwise=True)[0].recorded
    assert not run("toy_models:cnn", flows=("rotation",), layerwise=True)[0].recorded
    assert not run("toy_models:cnn", flows=("rotation",))[0].recorded


def test_the_batch_size_changes_nothing(run):
    whole = [r["metrics"] for r in run("toy_models:cnn", batch_size=3)[1]]
    model = load_model("toy_models:cnn", dtype=torch.float64)
    images = load_images("noise", model=model, limit=3)
    images = replace(images, x=images.x.double())
    single = [m for _, m in measure_model(model, images, replace(QUICK, batch_size=1), QUICK.flows, lambda *_: None)]
    for a, b in zip(whole, single, strict=True):
        assert a["per_sample"] == pytest.approx(b["per_sample"])
        assert a["control_per_sample"] == pytest.approx(b["control_per_sample"])
        assert a["map"]["mean_peak"] == pytest.approx(b["map"]["mean_peak"])


def test_the_model_is_left_as_it_was(run):
    model = load_model("toy_models:cnn")
    images = load_images("noise", model=model, limit=2)
    model.module.train()
    list(measure_model(model, images, replace(QUICK, dtype="float32", layerwise=True), QUICK.flows, lambda *_: None))
    assert model.module.training
    assert all(p.requires_grad for p in model.module.parameters())
    assert not model.module._forward_hooks


def test_progress_ends_at_the_whole(run):
    _, _, events = run("toy_models:cnn", layerwise=True)
    steps = [e for e in events if e.kind == "step"]
    assert steps[-1].done == steps[-1].total > 0
    assert [e.done for e in steps] == sorted(e.done for e in steps)


@pytest.mark.filterwarnings("ignore:measured in torch.bfloat16")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lower_precision_agrees_roughly(run, dtype):
    exact = [r["metrics"]["lee_mean"] for r in run("toy_models:cnn", output="logits")[1]]
    rough = [r["metrics"]["lee_mean"] for r in run("toy_models:cnn", output="logits", dtype=dtype)[1][2:]]
    assert rough == pytest.approx(exact, rel=1e-4 if dtype == "float32" else 0.3)


def test_accuracy_stands_beside_lee_where_there_are_labels(run, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    rng = numpy.random.default_rng(0)
    images = [image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=numpy.uint8)) for _ in range(4)]
    for k, image in enumerate(images):
        (tmp_path / "images" / str(k)).mkdir(parents=True)
        image.save(tmp_path / "images" / str(k) / "a.png")
    _, records, _ = run("toy_models:cnn", images=str(tmp_path / "images"))
    model = load_model("toy_models:cnn")
    images = load_images(tmp_path / "images", model=model, limit=3)
    expected = (model.module(images.x).argmax(1) == images.labels).double().mean().item()
    assert records[0]["metrics"]["accuracy"] == pytest.approx(expected)
    assert records[0]["metrics"]["labelled"] == 3


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(run):
    slow = [r["metrics"]["lee_mean"] for r in run("toy_models:cnn", device="cpu")[1]]
    other, records, _ = run("toy_models:wide", device="cuda")
    assert other.exit_code == 0
    assert records[2]["provenance"]["device"].startswith("cuda")
    model = load_model("toy_models:cnn", dtype=torch.float64, device="cuda")
    images = load_images("noise", model=model, limit=3)
    images = replace(images, x=images.x.double().cuda())
    fast = [m["lee_mean"] for _, m in measure_model(model, images, QUICK, QUICK.flows, lambda *_: None)]
    assert fast == pytest.approx(slow, rel=1e-9)


def test_retrained_weights_under_the_old_name_are_measured_again(run, tmp_path):
    run("toy_models:cnn", flows=("rotation",))
    first = importlib.import_module("toy_models").cnn().state_dict()
    retrained = tmp_path / "retrained.pt"
    torch.save({name: value + 0.1 for name, value in first.items()}, retrained)
    run("toy_models:cnn", flows=("rotation",), weights=str(retrained))
    torch.save({name: value - 0.1 for name, value in first.items()}, retrained)
    outcome, records, _ = run("toy_models:cnn", flows=("rotation",), weights=str(retrained))
    assert outcome.recorded == ["toy_models:cnn/rotation"]
    assert len({r["config"]["weights_hash"] for r in records}) == 3
    assert not run("toy_models:cnn", flows=("rotation",), weights=str(retrained))[0].recorded
