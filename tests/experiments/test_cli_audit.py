import csv
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from softeq.experiments import cli, cli_audit
from softeq.experiments.audit.settings import Settings
from softeq.experiments.engine import record

MODEL = "toy_models:cnn"
FLAGS = ("--images", "noise", "--limit", "2", "--flows", "rotation, scale")


def caller(folder, monkeypatch):
    """Calls ``softeq audit`` in an empty folder."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def go(*arguments, flags=FLAGS):
        return CliRunner().invoke(cli.build_app(), ["audit", *arguments, *flags], catch_exceptions=False)

    return go


@pytest.fixture
def call(toys, tmp_path, monkeypatch):
    return caller(tmp_path, monkeypatch)


def _one_line(text):
    assert text.count("\n") == 1, text
    assert text.startswith("softeq: ")
    return text


def test_an_audit_leaves_records_a_table_and_a_page(call, tmp_path):
    done = call(MODEL)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if "left for all models" not in line]  # on a busy machine
    assert lines[0].startswith("toy_models:cnn: weights: as the factory made it; mean and std of the images: 0.5, as")
    assert re.fullmatch(r"toy_models:cnn/rotation: LEE \(mean_square\) \S+, \S+ of the control, \d+\.\d s", lines[1])
    assert lines[-1] == "2 records in runs/audit.jsonl, 2 of them now; runs/audit.csv; open runs/audit.html"
    assert sorted(os.listdir(tmp_path / "runs")) == ["audit.csv", "audit.html", "audit.jsonl"]
    with open(tmp_path / "runs" / "audit.csv", newline="") as file:
        assert [row["flow"] for row in csv.DictReader(file)] == ["rotation", "scale"]
    again = call(MODEL)
    assert again.stdout.endswith(
        "\n2 records in runs/audit.jsonl, 0 of them now; runs/audit.csv; open runs/audit.html\n"
    )


def test_every_option_reaches_the_configuration(call, tmp_path):
    given = ["--norm", "relative", "--output", "logits", "--device", "cpu", "--dtype", "float64", "--seed", "3"]
    given += ["--stencil", "central", "--boundary", "periodic", "--margin", "1", "--layerwise", "--batch-size", "1"]
    given += ["--control", "phase"]
    assert call(MODEL, *given, "--out", "a folder").exit_code == 0
    config = record.read(tmp_path / "a folder" / "audit.jsonl")[0]["config"]
    expected = {"norm": "relative", "output": "logits", "dtype": "float64", "seed": 3, "stencil": "central"}
    expected |= {"boundary": "periodic", "margin": 1, "layerwise": 2, "limit": 2, "images": "noise", "control": "phase"}
    assert {key: config[key] for key in expected} == expected


def test_every_option_reaches_the_settings(call, monkeypatch):
    told = {"images": "noise", "limit": 3, "mean": ".1,.2", "std": ".3,.4", "size": "5x6", "crop": 0.7}
    told |= {"weights": "random", "weights_key": "ema", "image_size": 8, "num_classes": 9, "pick": "1.a", "seed": 10}
    told |= {"output": "map", "flows": "scale,hue", "norm": "relative", "control": "phase", "stencil": "fourier"}
    told |= {"boundary": "periodic", "margin": 11, "device": "cpu", "dtype": "float64", "batch_size": 12}
    seen = []
    monkeypatch.setattr(cli_audit, "_audited", lambda *given: seen.append(given))
    words = [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    call(MODEL, "b:c", MODEL, *words, "--layerwise", "--out", "here", flags=())
    expected = told | {"mean": (0.1, 0.2), "std": (0.3, 0.4), "size": (5, 6), "flows": ("scale", "hue")}
    assert seen == [([MODEL, "b:c"], Settings(**expected, layerwise=True), Path("here"))]


def test_one_model_fails_and_the_others_go_on(call, tmp_path):
    done = call("toy_models:broken", "toy_models:constant", MODEL)
    assert done.exit_code == 1
    first, last = done.stderr.splitlines()
    assert first == "softeq: toy_models:broken: RuntimeError: this model has <b>no</b> forward pass"
    assert last == (
        "softeq: 2 of 3 models failed or could not be measured: toy_models:broken, toy_models:constant;"
        " see runs/audit.html"
    )
    assert "toy_models:constant/rotation: not measurable: " in done.stdout
    page = (tmp_path / "runs" / "audit.html").read_text()
    assert "answers to no change of its input" in page
    assert "&lt;b&gt;no&lt;/b&gt; forward pass" in page
    assert "Each network in numbers" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([MODEL, "--flows", "rotatoin"], "unknown flow 'rotatoin'.*did you mean 'rotation'"),
        ([MODEL, "--flows", ","], "flows: expected some of translation_x"),
        ([MODEL, "--norm", "l2"], "unknown norm 'l2': expected one of mean_square, mean_abs, relative"),
        ([MODEL, "--output", "softmax"], "unknown output 'softmax': expected one of probabilities, logits"),
        ([MODEL, "--stencil", "sobel"], "unknown stencil 'sobel'"),
        ([MODEL, "--control", "white"], "unknown control 'white': expected one of auto, samples, phase, noise"),
        ([MODEL, "--boundary", "zero"], "unknown boundary 'zero'"),
        ([MODEL, "--dtype", "float16"], "unknown dtype 'float16'.*bfloat16"),
        ([MODEL, "--device", "tpu"], "unknown device 'tpu': expected one of auto, cpu, cuda"),
        ([MODEL, "--batch-size", "many"], "batch-size: expected a number or auto, got 'many'"),
        ([MODEL, "--batch-size", "0"], "batch-size: expected 1 or more, got 0"),
        ([MODEL, "--limit", "0"], "limit: expected 1 or more, got 0"),
        ([MODEL, "--images", "nowhere"], "expected demo, noise, a folder, an image or a list of images, got 'nowhere'"),
        ([MODEL, "--images", "empty"], "empty holds no image"),
        ([MODEL, "--images", "torn"], "none of the 1 files in torn can be used: a.png: not a readable image"),
        ([MODEL, "--out", "file/runs"], "cannot write to the output folder file/runs"),
        ([MODEL, "--weights", "nowhere.pt"], "nowhere.pt"),
        ([MODEL, "--weights", "packaged"], "has no packaged weights"),
        ([MODEL, "toy_models:wide", "--weights", "w.pt"], "weights: expected one model for the file w.pt, got 2"),
        (["toy_models:cnm"], "'toy_models' has no 'cnm'"),
        (["toy_models:leaves"], r"toy_models:leaves\(\) ends the program \(sys.exit\(3\)\)"),
        (["toy_models:" + 5000 * "x"], "has no 'xxx"),
        ([5000 * "x"], r"timm has no 'x+\.\.\. \(5000 characters\)'"),
        ([MODEL, "--images", 5000 * "x"], r"cannot read x+\.\.\. \(5000 characters\): File name too long"),
        ([MODEL, "--out", 5000 * "x"], "cannot write to the output folder"),
        ([MODEL, "--weights", 5000 * "x"], "expected pretrained, random, packaged or a file"),
        ([MODEL, "--seed", str(2**70)], "seed: expected at most 9,223,372,036,854,775,807"),
        ([MODEL, "--limit", "1000000000"], "limit: expected at most 100,000"),
        ([MODEL, "--margin", "1000000000"], "margin: expected at most 100,000"),
        ([MODEL, "--batch-size", 30 * "9"], "batch-size: expected a number or auto"),
        ([MODEL, "--mean", ".5,.5"], "mean: expected 1 value or 3, one per channel of the network, got 2"),
        ([MODEL, "--mean", "a"], "mean: expected numbers, as .485,.456,.406, got 'a'"),
        ([MODEL, "--std", "0"], "std: expected numbers above 0"),
        ([MODEL, "--size", "0"], "image_size: expected .* at least 1"),
        ([MODEL, "--size", "224x224x3"], "size: expected pixels"),
        ([MODEL, "--crop", "2"], "crop: expected a share"),
        ([MODEL, "--weights-key", "ema"], "weights-key: expected --weights FILE beside it"),
        ([MODEL, "--num-classes", "5"], "num-classes: expected a timm model"),
        (["nowhere:cnn"], "cannot import 'nowhere'"),
        (["toy_models:no_module"], "to return an nn.Module, got str"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gives_one_line_and_exit_code_2(call, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    flags = () if "--images" in arguments else FLAGS[:2]
    result = call(*arguments, flags=flags)
    assert result.exit_code == 2
    assert re.search(message, _one_line(result.stderr))
    assert not (tmp_path / "runs" / "audit.html").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(call):
    result = call(MODEL, "--device", "cuda")
    assert result.exit_code == 2
    assert "cuda was asked for and torch finds none; choose cpu or auto" in _one_line(result.stderr)


def test_several_mistaken_models_get_a_line_each_and_a_summary(call):
    result = call("toy_models:x", "toy_models:y")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 3
    assert result.stderr.endswith("softeq: none of the 2 models could be loaded\n")


def test_no_model_and_help(call, capsys):
    assert cli.main(["audit"]) == 2
    assert "models: expected MODEL..., or --calculator with --atoms, got none" in _one_line(capsys.readouterr().err)
    shown = call("--help").stdout
    assert re.search(r"Example:\s+softeq audit tf_efficientnet_lite0", shown)


def _record(tmp_path):
    return record.read(tmp_path / "runs" / "audit.jsonl")[-1]


def test_a_file_name_that_is_no_text(call, tmp_path):
    from PIL import Image

    (tmp_path / "photographs").mkdir()
    Image.effect_noise((20, 20), 50).save(tmp_path / "photographs" / "good.png")
    with open(os.path.join(os.fsencode(tmp_path), b"photographs", b"caf\xe9.png"), "wb") as file:
        file.write(b"no image")
    done = call(MODEL, flags=("--images", "photographs", "--flows", "rotation"))
    assert _record(tmp_path)["metrics"]["skipped"][0][0] == "caf\\udce9.png"
    assert "caf\\udce9.png" in (tmp_path / "runs" / "audit.html").read_text("utf-8")
    assert done.exit_code == 0, done.stderr


def test_one_image_and_a_list(call, tmp_path):
    from PIL import Image

    for name, side in (("a.png", 20), ("b.avif", 24)):
        Image.effect_noise((side, side), 50).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("# two images\na.png\n\nb.avif\t3\n")
    assert call(MODEL, flags=("--images", "a.png", "--flows", "rotation")).exit_code == 0
    assert _record(tmp_path)["config"]["count"] == 1
    assert call(MODEL, flags=("--images", "list.txt", "--flows", "rotation")).exit_code == 0
    found = _record(tmp_path)
    assert (found["config"]["count"], found["metrics"]["labelled"]) == (2, 1)


def test_two_audits_in_one_folder_measure_nothing_twice(call, tmp_path, softeq, wait_for):
    other = softeq("audit", "toy_models:slow", *FLAGS, cwd=tmp_path, TOY_DELAY="0.05")
    wait_for(lambda: list((tmp_path / "runs" / ".claims").glob("*.lock")))
    done = call("toy_models:slow", MODEL)
    assert done.exit_code == 0, done.stderr
    assert "toy_models:slow: another audit in this folder is at it" in done.stdout
    assert other.wait(60) == 0
    records = record.read(tmp_path / "runs" / "audit.jsonl")
    assert sorted(r["variant"] for r in records) == sorted(
        f"{m}/{f}" for m in (MODEL, "toy_models:slow") for f in ("rotation", "scale")
    )
    assert not (tmp_path / "runs" / ".claims").exists()


def test_the_models_are_listed(call):
    shown = CliRunner().invoke(cli.build_app(), ["list", "--models"]).stdout
    assert "tf_efficientnet_lite0\n    ImageNet EfficientNet-Lite 0" in shown
    assert "module:factory" in shown


def test_ctrl_c_keeps_what_is_done_and_the_same_command_resumes(call, tmp_path, softeq, wait_for):
    path = tmp_path / "runs" / "audit.jsonl"
    arguments = ["audit", MODEL, "toy_models:slow", *FLAGS]
    process = softeq(*arguments, cwd=tmp_path, TOY_DELAY="30")
    wait_for(path.parent.exists)  # a minute for the imports alone
    wait_for(lambda: len(record.read(path)) >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    resume = f"softeq audit {MODEL} toy_models:slow --images noise --flows rotation,scale --limit 2 --out runs"
    assert _one_line(err) == f"softeq: interrupted; runs/audit.jsonl holds 2 records; resume with: {resume}\n"
    assert (tmp_path / "runs" / "audit.html").exists()
    done = call(*resume.split()[2:], flags=())
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith("4 records in runs/audit.jsonl, 2 of them now; runs/audit.csv; open runs/audit.html\n")
    assert len(record.read(path)) == 4


@pytest.mark.slow
def test_a_killed_audit_resumes(call, tmp_path, softeq, wait_for):
    path = tmp_path / "runs" / "audit.jsonl"
    process = softeq("audit", MODEL, "toy_models:slow", *FLAGS, cwd=tmp_path, TOY_DELAY="30")
    wait_for(path.parent.exists)  # a minute for the imports alone
    wait_for(lambda: len(record.read(path)) >= 2)
    process.kill()
    process.communicate(timeout=60)
    done = call(MODEL, "toy_models:slow")
    assert done.exit_code == 0, done.stderr
    assert "4 records in runs/audit.jsonl, 2 of them now" in done.stdout
    assert "toy_models:cnn/" not in done.stdout
