import importlib.util
import os
import re
import signal
import sys

import pytest
from typer.testing import CliRunner

from softeq.experiments import cli
from softeq.experiments.engine import provenance, record

ALIVE = {"TOY_DELAY": "0.3"}


@pytest.fixture
def call(toys, tmp_path, monkeypatch):
    """Call the application in an empty folder; the result has ``exit_code``, ``stdout`` and ``stderr``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return lambda *arguments: CliRunner().invoke(cli.build_app(), list(arguments), catch_exceptions=False)


def _one_line(text):
    assert text.count("\n") == 1, text
    assert text.startswith("softeq: ")
    return text


def test_run_table_plot(call, tmp_path):
    done = call("run", "toy", "--preset", "smoke", "--variants", "soft, hard")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\[1/2\] soft, seed 0: test MSE 0\.25, \d+\.\d s", lines[0])
    assert lines[2:] == [
        f"2 runs recorded in {os.path.join('runs', 'toy.jsonl')}, 2 of them now; the table:",
        "softeq table toy --preset smoke --out runs",
    ]
    table = call(*lines[3].split()[1:])
    assert table.exit_code == 0
    assert "| hard " in table.stdout
    assert "records from runs" in table.stdout
    plot = call("plot", "toy")
    assert plot.exit_code == 0
    assert (tmp_path / "runs" / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert str(os.path.join("runs", "toy.png")) in plot.stdout
    again = call("run", "toy", "--preset", "smoke", "--variants", "soft,hard")
    assert "2 runs recorded in runs/toy.jsonl, 0 of them now" in again.stdout


def test_seeds_and_out(call, tmp_path):
    done = call("run", "toy", "--seeds", "2", "--variants", "hard", "--out", "a folder/b")
    assert done.exit_code == 0, done.stderr
    assert "softeq table toy --preset default --out 'a folder/b'" in done.stdout
    assert len(record.read(tmp_path / "a folder" / "b" / "toy.jsonl")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "toyy"], "unknown experiment 'toyy': expected one of toy, .*did you mean 'toy'"),
        (["run", "toy", "--preset", "large"], "unknown preset 'large': expected one of smoke, default, paper"),
        (["run", "toy", "--variants", "hard,sofd"], "unknown variant 'sofd'.* did you mean 'soft'"),
        (["run", "toy", "--variants", ","], "variants: expected some of hard, soft, diverges, got none"),
        (["run", "toy", "--seeds", "0"], "seeds: expected 1 or more, got 0"),
        (["run", "toy", "--jobs", "0"], "jobs, --workers: expected 1 or more, got 0"),
        (["run", "toy", "--out", "file/runs"], "cannot write to the output folder file/runs: Not a directory"),
        (["run", "toy-fails"], "the toy's data are gone"),
        (["table", "toyy"], "unknown experiment"),
        (["table", "toy"], "no records of toy in runs or results: make some with `softeq run toy`"),
        (["table", "toy", "--out", "nowhere"], "no records of toy in nowhere"),
        (["table", "toy", "--format", "xml"], "unknown format 'xml': expected one of md, csv, latex"),
        (["table", "toy", "--preset", "larg"], "unknown preset 'larg'"),
        (["plot", "toyy"], "unknown experiment"),
        (["plot", "toy"], "no records of toy in runs or results"),
    ],
    ids=" ".join,
)
def test_a_mistake_gives_one_line_and_exit_code_2(call, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    result = call(*arguments)
    assert result.exit_code == 2
    assert re.search(message, _one_line(result.stderr))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument .*got `softeq run`, see `softeq run --help`"),
        (["tabel", "toy"], "No such command 'tabel'.*see `softeq --help`"),
        (["run", "toy", "--seeds", "three"], "--seeds.*got `softeq run toy --seeds three`, see `softeq run --help`"),
        (["table", "toy", "--fromat", "md"], "No such option.*--fromat"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_does_not_parse_gives_one_line_too(toys, capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert re.search(message, _one_line(capsys.readouterr().err))


def test_another_configuration_asks_for_another_out(call, monkeypatch):
    assert call("run", "toy", "--preset", "smoke").exit_code == 0
    monkeypatch.setenv("TOY_STEPS", "8")
    result = call("run", "toy", "--preset", "smoke")
    assert result.exit_code == 2
    assert "steps: 3 there, 8 now" in _one_line(result.stderr)


def test_a_defect_is_not_hidden(call):
    with pytest.raises(ZeroDivisionError):
        call("run", "toy-breaks")
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "toy-breaks", "--out", "other"])


def test_a_cut_off_line_is_a_warning_of_one_line(call, tmp_path):
    call("run", "toy", "--preset", "smoke")
    path = tmp_path / "runs" / "toy.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    result = call("table", "toy")
    assert result.exit_code == 0
    assert "warning: runs/toy.jsonl, line 3: skipped" in _one_line(result.stderr)


def test_table_reads_runs_else_results_and_says_which(call, make_record):
    record.append("results/toy.jsonl", make_record(preset="paper", test_mse=1.0))
    assert "preset paper; 1 seed; records from results" in call("table", "toy").stdout
    record.append("runs/toy.jsonl", make_record(preset="smoke", test_mse=1.0))
    assert "preset smoke; 1 seed; records from runs" in call("table", "toy").stdout
    assert "preset paper; 1 seed; records from results" in call("table", "toy", "--preset", "paper").stdout
    assert "records from results" in call("table", "toy", "--out", "results").stdout
    missing = call("table", "toy", "--preset", "default")
    assert missing.exit_code == 2
    assert "(there are records of smoke in runs, paper in results)" in _one_line(missing.stderr)


def test_table_without_preset_takes_the_largest_and_says_so(call, make_record):
    for preset in ("smoke", "paper", "default"):
        record.append("runs/toy.jsonl", make_record(preset=preset, test_mse=1.0))
    shown = call("table", "toy").stdout
    assert "preset paper; 1 seed; records from runs" in shown
    assert "the largest preset there, beside default, smoke" in shown
    assert "largest" not in call("table", "toy", "--preset", "smoke").stdout
    assert "preset paper, 1 records from runs; the largest" in call("plot", "toy").stdout


def test_table_and_plot_without_preset_take_what_is_under_the_protocol_before_a_larger_pilot(call, make_record):
    for preset, config in (("paper", {}), ("default", {"protocol": 1})):
        record.append("results/toy.jsonl", make_record(preset=preset, config=config, test_mse=1.0))
    shown = call("table", "toy").stdout
    assert "preset default; 1 seed; records from results" in shown
    assert "the largest preset under the latest protocol, beside paper" in shown
    assert "preset default, 1 records from results; the largest preset under" in call("plot", "toy").stdout
    assert "preset paper" in call("table", "toy", "--preset", "paper").stdout


@pytest.mark.parametrize(("format", "start"), [("md", "**toy;"), ("csv", "experiment,"), ("latex", r"\begin{table}")])
def test_table_formats(call, make_record, format, start):
    record.append("runs/toy.jsonl", make_record(test_mse=1.0))
    assert call("table", "toy", "--format", format).stdout.startswith(start)


def test_plot_never_writes_into_results_by_itself(call, tmp_path, make_record):
    record.append("results/toy.jsonl", make_record(test_mse=1.0))
    assert call("plot", "toy").exit_code == 0
    assert os.listdir(tmp_path / "results") == ["toy.jsonl"]
    assert (tmp_path / "runs" / "toy.png").exists()
    assert call("plot", "toy", "--file", "a/b.svg").exit_code == 0
    assert (tmp_path / "a" / "b.svg").exists()
    result = call("plot", "toy", "--file", "a.bmp")
    assert result.exit_code == 2
    assert "ends in .png, .pdf, .svg" in _one_line(result.stderr)


def test_plot_uses_the_figure_that_an_experiment_brings(call, toys, make_record, monkeypatch):
    import dataclasses

    drawn = []
    own = dataclasses.replace(toys["toy"], plot=lambda records, path: drawn.append((len(records), str(path))))
    monkeypatch.setitem(sys.modules["toy_experiment"].EXPERIMENTS, "toy", own)
    for preset in ("smoke", "paper"):
        record.append("runs/toy.jsonl", make_record(preset=preset, test_mse=1.0))
    assert call("plot", "toy", "--file", "mine.pdf").exit_code == 0
    assert drawn == [(1, "mine.pdf")]


@pytest.mark.parametrize("command", [[], ["run"], ["table"], ["plot"], ["list"]], ids=lambda c: c[0] if c else "softeq")
def test_help_shows_an_example(call, command):
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Example:\s+softeq {command[0] if command else 'run'}", result.stdout)


def test_version_list_and_nothing(call):
    assert call("--version").stdout == f"softeq {provenance.softeq_version()}\n"
    shown = call("list").stdout
    assert "toy\n    a toy\n    variants: hard, soft, diverges\n    presets: smoke (1 seed), default (2 seeds)" in shown
    nothing = call()
    assert nothing.exit_code == 0
    assert "Usage" in nothing.stdout


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_without_the_extra_one_line_names_it(monkeypatch, capsys, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    spec = importlib.util.spec_from_file_location("cli_alone", cli.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.main(["list"]) == 2
    assert "softeq[experiments]" in _one_line(capsys.readouterr().err)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_resume(tmp_path, softeq, wait_for):
    path = tmp_path / "runs" / "toy.jsonl"
    process = softeq("run", "toy", "--preset", "paper", "--variants", "hard,soft", cwd=tmp_path, **ALIVE)
    wait_for(lambda: len(record.read(path)) >= 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    done = len(record.read(path))
    assert 1 <= done < 8
    assert out.count("test MSE") in (done - 1, done)  # the signal may fall between the record and its line
    resume = "softeq run toy --preset paper --variants hard,soft --out runs"
    assert _one_line(err) == (
        f"softeq: interrupted; {done} of 8 runs are in {os.path.join('runs', 'toy.jsonl')}; resume with: {resume}\n"
    )


def test_ctrl_c_in_a_terminal_stops_the_workers_too(tmp_path, softeq, wait_for):
    path = tmp_path / "runs" / "toy.jsonl"
    arguments = ("run", "toy", "--preset", "paper", "--seeds", "9", "--jobs", "2")
    process = softeq(*arguments, cwd=tmp_path, anew=True, **ALIVE)  # its workers are in its group then
    wait_for(lambda: len(record.read(path)) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume with: softeq run toy --preset paper --seeds 9 --jobs 2 --out runs" in _one_line(err)
    assert 2 <= len(record.read(path)) < 27


def test_a_mistake_as_a_process_of_its_own(tmp_path, softeq):
    process = softeq("table", "toy", "--format", "xml", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "unknown format 'xml'" in _one_line(err)
