"""The command: what it lists, refuses, prints and keeps."""

import functools
import json

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import networks


@pytest.fixture
def tiny(monkeypatch):
    """A benchmark in the place of the real one: the network's, small."""

    def run(*, quick, threads, say, device):
        assert device == "cpu"
        say("under way")
        return networks.run(quick=True, threads=threads, channels=30, rows=6, blocks=2, block_seconds=0.0, say=say)

    monkeypatch.setitem(command.BENCHMARKS, "networks", ("small", run))


def test_list(capsys):
    assert command.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        "solver",
        "solver-suite",
        "layers",
        "networks",
        "convolutions",
        "irreps",
        "prior-step",
        "derivative",
    ]


def test_prints_where_it_ran_and_the_table_with_ranges(tiny, capsys):
    assert command.main(["networks", "--quick"]) == 0
    out = capsys.readouterr().out
    for part in ("torch", "cores", "MLP, L2", "soft, published", "378", "[min, max]", "measured elsewhere"):
        assert part in out


def test_out_keeps_a_json_line_per_row_and_appends(tiny, tmp_path, capsys):
    for _ in range(2):
        assert command.main(["networks", "--threads", "1", "--out", str(tmp_path / "new")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "new" / "benchmarks.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert lines[0]["benchmark"] == "networks"
    assert lines[1]["twin"] == networks.TWIN
    assert set(lines[1]["ratio"]) == {"median", "min", "max", "n"}
    assert lines[1]["provenance"]["threads"] == 1
    assert {"torch", "device", "commit", "utc"} <= set(lines[1]["provenance"])


def test_unknown_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["layer"])
    assert stopped.value.code == 2
    names = "solver, solver-suite, layers, networks, convolutions, irreps, prior-step, derivative"
    assert f"expected names among {names}, got layer" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["layers", "--device", "cuda"])
    assert stopped.value.code == 2
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err


def test_a_benchmark_that_computes_on_the_cpu_alone(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["layers", "solver", "--device", "cuda"])
    assert stopped.value.code == 2
    assert "got solver: CPU alone" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["layers", "networks", "prior-step"])
def test_on_a_gpu_rows_name_it(name, tmp_path, monkeypatch):
    what, run = command.BENCHMARKS[name]
    small = functools.partial(run, channels=30, rows=6, blocks=2, block_seconds=0.0)
    monkeypatch.setitem(command.BENCHMARKS, name, (what, small))
    assert command.main([name, "--quick", "--device", "cuda", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "benchmarks.jsonl").read_text().splitlines()]
    assert {row["provenance"]["device"] for row in rows} == {f"cuda ({torch.cuda.get_device_name()})"}
    assert all(row["seconds"]["min"] > 0 for row in rows)


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_threads_that_are_no_count(threads, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([f"--threads={threads}"])
    assert stopped.value.code == 2
    assert f"expected a whole number of at least 1, got '{threads}'" in capsys.readouterr().err


def test_out_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main(["networks", "--out", str(tmp_path / "file")]) == 2
    assert "expected a folder" in capsys.readouterr().err


def test_a_benchmark_that_fails_is_named_and_the_others_go_on(tiny, monkeypatch, capsys):
    def broken(*, quick, threads, say):
        raise RuntimeError("the ranks differ [3]")

    monkeypatch.setitem(command.BENCHMARKS, "solver", ("broken", broken))
    assert command.main(["solver", "networks"]) == 1
    captured = capsys.readouterr()
    assert "solver: the ranks differ [3]" in captured.err
    assert "MLP, L2" in captured.out
