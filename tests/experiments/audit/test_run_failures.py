"""An audit when something goes wrong: what fails is recorded or refused, and the rest goes on."""

import re

import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.audit import run as audit
from softeq.experiments.audit.run import report

from .test_run import runner


@pytest.fixture
def run(toys, tmp_path):
    return runner(tmp_path)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("constant", "it answers to no change of its input"),
        ("not_a_number", "the output has NaN"),
        ("features", "no class head.*measure --output logits"),
    ],
)
def test_what_cannot_be_measured_is_recorded_as_that(run, model, words):
    name = f"toy_models:{model}"
    outcome, records, _ = run(name, "toy_models:cnn")
    lost = [r for r in records if r["config"]["model"] == name]
    assert [set(r["metrics"]) for r in lost] == [{"not_measurable"}] * 2
    assert re.search(words, lost[0]["metrics"]["not_measurable"])
    assert outcome.not_measurable == [f"{name}/rotation", f"{name}/translation_x"]
    assert (outcome.exit_code, outcome.failed_models) == (1, [name])
    again, records, _ = run(name, "toy_models:cnn")
    assert (again.exit_code, again.recorded, len(records)) == (1, [], 4)


def test_a_model_that_fails_does_not_stop_the_others(run, tmp_path):
    outcome, records, _ = run("toy_models:broken", "toy_models:nowhere", "toy_models:cnn")
    assert {r["config"]["model"] for r in records} == {"toy_models:cnn"}
    (broken, reason), (nowhere, absent) = outcome.failures
    assert (broken, nowhere) == ("toy_models:broken", "toy_models:nowhere")
    assert reason == "RuntimeError: this model has <b>no</b> forward pass"
    assert "has no 'nowhere'" in absent
    assert outcome.exit_code == 1
    page = report(tmp_path, outcome.failures)[1].read_text()
    assert "&lt;b&gt;no&lt;/b&gt; forward pass" in page


def test_only_mistakes_are_exit_code_2_and_a_failing_model_is_1(run):
    assert run("toy_models:nowhere", "toy_models:no_module")[0].exit_code == 2
    assert run("toy_models:broken")[0].exit_code == 1


def test_a_full_disk_ends_the_audit(run, monkeypatch):
    def full(path, line):
        raise SofteqError("no space left")

    monkeypatch.setattr(audit.record, "append", full)
    with pytest.raises(SofteqError, match="no space left"):
        run("toy_models:cnn", "toy_models:wide")


def test_auto_halves_the_batch_until_it_fits(run):
    import toy_models

    toy_models._Hungry.sizes.clear()
    outcome, records, _ = run("toy_models:hungry", limit=4)
    assert outcome.exit_code == 0
    assert toy_models._Hungry.sizes[:5] == [1, 1, 4, 2, 1]
    plain = [r["metrics"]["lee_mean"] for r in run("toy_models:cnn", limit=4)[1][2:]]
    assert [r["metrics"]["lee_mean"] for r in records] == pytest.approx(plain)
    fixed, _, _ = run("toy_models:hungry", limit=4, batch_size=2, seed=1)
    assert fixed.failures == [("toy_models:hungry", "out of memory with --batch-size 2: choose a smaller one, or auto")]


def test_mistakes_are_found_before_any_model_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    for changes, words in (
        ({"norm": "l2"}, "unknown norm 'l2': expected one of mean_square"),
        ({"flows": ("rotatoin",)}, "did you mean 'rotation'"),
        ({"flows": ()}, "flows: expected some of"),
        ({"flows": ("hue",), "control": "phase"}, "control: phase has no meaning for hue"),
        ({"limit": 0}, "limit: expected 1 or more, got 0"),
        ({"margin": -1}, "margin: expected 0 or more"),
        ({"batch_size": 0}, "batch-size: expected 1 or more"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"weights": "w.pt"}, "expected one model for the file w.pt, got 2"),
    ):
        with pytest.raises(SofteqValueError, match=words):
            run("toy_models:cnn", "toy_models:wide", **changes)
    with pytest.raises(SofteqError, match="expected demo, noise, a folder, an image or a list"):
        run("toy_models:cnn", images=str(tmp_path / "nowhere"))
    if not torch.cuda.is_available():
        with pytest.raises(SofteqError, match="cuda was asked for"):
            run("toy_models:cnn", device="cuda")


def test_settings_that_do_not_go_with_the_images(run):
    outcome, records, _ = run("toy_models:cnn", norm="centred", limit=1)
    assert outcome.failures[0][1].startswith("norm: centred is over the spread of the outputs over the images")
    outcome, records, _ = run("toy_models:cnn", margin=6)
    assert outcome.failures[0][1] == "margin: expected less than half of 12 pixels, got 6: nothing moves"
    assert (outcome.exit_code, records) == (2, [])
