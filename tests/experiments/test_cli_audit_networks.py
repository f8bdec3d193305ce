"""``softeq audit`` of networks of every kind: their inputs, weights and outputs."""

import re
import sys

import pytest
import torch

from softeq.experiments.engine import record

from .test_cli_audit import MODEL, _record, caller


@pytest.fixture
def call(toys, tmp_path, monkeypatch):
    return caller(tmp_path, monkeypatch)


def test_a_module_in_the_current_folder_is_found(call, tmp_path, monkeypatch):
    (tmp_path / "my_own_model.py").write_text(
        "from torch import nn\n\ndef make():\n    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))\n"
        "    model.image_size = 4\n    return model\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = call("my_own_model:make")
    assert done.exit_code == 0, done.stderr


def test_the_preparation_of_the_images_is_the_users(call, tmp_path):
    given = ["--mean", ".1,.2,.3", "--std", ".4", "--size", "10x14", "--crop", ".8"]
    assert call(MODEL, *given).exit_code == 0
    config = _record(tmp_path)["config"]
    assert (config["mean"], config["std"]) == ([0.1, 0.2, 0.3], [0.4] * 3)
    assert (config["image_size"], config["crop"]) == ([10, 14], 0.8)
    assert _record(tmp_path)["metrics"]["choices"] == []
    assert call(MODEL).exit_code == 0
    (told,) = _record(tmp_path)["metrics"]["choices"]
    assert told.startswith("mean and std of the images: 0.5, as the network says nothing of it")
    assert told in (tmp_path / "runs" / "audit.html").read_text()


@pytest.mark.parametrize(
    ("options", "zero"),
    [
        (["--pick", "logits"], False),
        (["--pick", "aux.0", "--output", "map"], False),
        (["--pick", "aux.1", "--output", "tokens"], False),
    ],
    ids=["probabilities", "map", "tokens"],
)
def test_one_of_several_outputs_is_picked(call, tmp_path, options, zero):
    done = call("toy_models:parts", *options, "--layerwise")
    assert done.exit_code == 0, done.stderr
    found = _record(tmp_path)
    assert found["config"]["pick"] == options[1]
    assert found["metrics"]["lee_mean"] > 0
    assert "conv" in dict(found["metrics"]["layerwise"]["shares"])


def test_a_network_that_says_nothing_of_its_classes_has_as_many_as_outputs(call, tmp_path):
    assert call("toy_models:silent").exit_code == 0
    found = _record(tmp_path)
    assert found["config"]["classes"] == 4
    assert (
        "classes: 4, as it has so many outputs (--output vector, if they are no classes)" in found["metrics"]["choices"]
    )
    assert found["metrics"]["curve"]["rows"][0]["kept"] == 2
    assert call("toy_models:silent", "--output", "vector").exit_code == 0
    assert _record(tmp_path)["config"]["classes"] is None
    assert call("toy_models:features", "--output", "logits").exit_code == 0  # 0 classes: no head
    assert _record(tmp_path)["config"]["classes"] is None


@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_networks_that_are_no_longer_python(call, tmp_path, kind):
    done = call(f"toy_models:{kind}", MODEL, "--size", "12x16", "--layerwise")
    assert done.exit_code == 0, done.stderr
    first, _, plain, _ = record.read(tmp_path / "runs" / "audit.jsonl")
    assert first["metrics"]["lee_mean"] == pytest.approx(plain["metrics"]["lee_mean"], rel=1e-4)
    split = first["metrics"]["layerwise"]
    assert sum(share for _, share in split["shares"]) == pytest.approx(1)
    if kind == "scripted":
        assert split["not_attributable"] == [["the model", "scripted, so that its modules run where no hook sees them"]]


def test_a_map_that_moves_along_has_no_error(call, tmp_path):
    flags = ("--images", "noise", "--limit", "2", "--flows", "translation_x,rotation", "--dtype", "float64")
    options = ("--output", "map", "--norm", "relative", "--stencil", "fourier", "--boundary", "periodic")
    assert call("toy_models:dense", *options, flags=flags).exit_code == 0
    first, second = record.read(tmp_path / "runs" / "audit.jsonl")
    assert first["metrics"]["lee_mean"] < 1e-20
    assert second["metrics"]["lee_mean"] > 1e-3
    assert first["config"]["mean"] == [0.5]
    assert (first["config"]["decibel_draws"], set(first["metrics"]["decibels"])) == (8, {"EQ-T", "EQ-T_frac"})
    assert first["metrics"]["decibels"]["EQ-T"]["error"] < 1e-20
    assert "no pixel of the map is left" in second["metrics"]["decibels"]["EQ-R"]["not_measurable"]
    page = (tmp_path / "runs" / "audit.html").read_text()
    assert "No EQ-R: output: no pixel of the map is left" in page


def test_several_outputs_and_none_picked(call, tmp_path):
    for options, words in (
        ([], r"expected a tensor, got a dict with the keys logits, aux; choose one with --pick"),
        (["--pick", "logit"], r"pick: no 'logit' in a dict with the keys logits, aux"),
        (["--pick", "aux.7"], r"pick: no '7' in a list of 2"),
        (["--pick", "aux.0"], r"got shape \(1, 4, 12, 16\): measure it with --output map"),
        (["--pick", "aux.1"], r"got shape \(1, 192, 4\): measure it with --output tokens"),
    ):
        done = call("toy_models:parts", *options)
        assert done.exit_code == 2
        assert re.search(words, done.stderr), done.stderr
        assert done.stderr.count("softeq:") == 1
    assert record.read(tmp_path / "runs" / "audit.jsonl") == []
    assert call(MODEL, "toy_models:parts").exit_code == 1  # nothing of the other model is lost
    assert len(record.read(tmp_path / "runs" / "audit.jsonl")) == 2


def test_what_ends_the_program_in_forward_ends_one_model(call, tmp_path):
    done = call("toy_models:leaves_in_forward", MODEL)
    assert done.exit_code == 1
    assert "toy_models:leaves_in_forward: the network ends the program (sys.exit(3))" in done.stderr
    assert len(record.read(tmp_path / "runs" / "audit.jsonl")) == 2


def test_a_weights_file_is_used(call, tmp_path):
    import toy_models

    weights = {name: 2 * value for name, value in toy_models.cnn().state_dict().items()}
    torch.save(weights, tmp_path / "twice.pt")
    assert call(MODEL, "--weights", "twice.pt").exit_code == 0
    assert call(MODEL).exit_code == 0
    records = record.read(tmp_path / "runs" / "audit.jsonl")
    assert len(records) == 4
    assert len({r["config"]["weights_hash"] for r in records}) == 2
    assert "weights file twice.pt" in (tmp_path / "runs" / "audit.html").read_text()
