import math
import multiprocessing
import os
import signal
import types

import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record, registry, runner, work
from softeq.experiments.physics import comparisons

INERTIA = comparisons.EXPERIMENTS["inertia"]
PAPER = {(variant, seed) for variant in ("hard", "soft", "diverges") for seed in range(4)}


def _pairs(folder, name="toy"):
    return [(r["variant"], r["seed"]) for r in record.read(record.record_path(folder, name))]


def test_seeds_are_outer_and_variants_inner(toy):
    jobs = runner.plan(toy, "default", variants=["soft", "hard", "soft"])
    assert [job.key for job in jobs] == [("soft", 0), ("hard", 0), ("soft", 1), ("hard", 1)]
    assert jobs[2].config == toy.configure("default", "soft", 1)
    assert len(runner.plan(toy, "paper")) == 12
    assert len(runner.plan(toy, "paper", seeds=5)) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "papers"}, r"unknown preset 'papers': expected one of smoke, default, paper; did you mean 'paper'"),
        ({"seeds": 0}, "seeds: expected 1 or more, got 0"),
        ({"variants": ["hard", "sofd"]}, "unknown variant 'sofd': .* did you mean 'soft'"),
        ({"variants": []}, "variants: expected some of hard, soft, diverges, got none"),
        ({"jobs": 0}, "jobs, --workers: expected 1 or more, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_bad_argument_is_refused_before_anything_is_written(toy, tmp_path, arguments, message):
    with pytest.raises(SofteqValueError, match=message):
        runner.run_experiment(toy, **{"preset": "smoke", "out": tmp_path / "runs", **arguments})
    assert not (tmp_path / "runs").exists()


def test_runs_what_is_missing_and_records_runs_that_diverged(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    out = tmp_path / "runs"
    runner.run_experiment(toy, "default", out=out, seeds=1, variants=["hard"])
    events = []
    runner.run_experiment(toy, "default", out=out, on_event=events.append)
    expected = [("hard", 0), ("soft", 0), ("diverges", 0), ("hard", 1), ("soft", 1), ("diverges", 1)]
    assert _pairs(out) == expected
    assert (tmp_path / "log").read_text().splitlines() == [f"{v} {s}" for v, s in expected]
    assert [(e.variant, e.seed) for e in events if e.kind == "skip"] == [("hard", 0)]
    done = [e for e in events if e.kind == "done"]
    assert len(done) == 5
    assert done[0].metrics["test_mse"] == 0.25
    assert [(e.done, e.total) for e in events if e.kind == "step"][-1] == (3, 3)
    diverged = [r for r in record.read(out / "toy.jsonl") if r["variant"] == "diverges"]
    assert [math.isnan(r["metrics"]["test_mse"]) for r in diverged] == [True, True]
    assert os.listdir(out) == ["toy.jsonl"]


def test_runs_go_where_they_are_told_to_and_not_where_nothing_is(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SofteqValueError, match="takes none"):
        runner.plan(toy, "smoke", device="cpu")
    for device, message in (("cuda", "cuda was asked for and torch finds none"), ("tpu", "unknown device 'tpu'")):
        with pytest.raises(SofteqValueError, match=message):
            runner.plan(INERTIA, "smoke", device=device)
    (job,) = runner.plan(INERTIA, "smoke", variants=["none"], device="cpu")
    assert job.config["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (job,) = runner.plan(INERTIA, "smoke", variants=["none"], device="cuda")
    assert job.config["device"] == "cuda"
    # Records made there may be gone on with here: provenance names the device, digits repeat on one machine alone.
    work.check_configs(INERTIA, "smoke", {"none"}, {job.key: job.config})


def test_steps_are_compiled_where_that_is_asked_for_and_can_be(toy, monkeypatch):
    with pytest.raises(SofteqValueError, match="cannot be compiled"):
        runner.plan(toy, "smoke", compiled=True)
    (job,) = runner.plan(INERTIA, "smoke", variants=["none"])
    assert job.config["compiled"] is False
    monkeypatch.setattr(runner.shutil, "which", lambda name: None)
    with pytest.raises(SofteqValueError, match=r"needs a C\+\+ compiler"):
        runner.plan(INERTIA, "smoke", compiled=True)
    monkeypatch.setattr(runner.shutil, "which", lambda name: name)
    (job,) = runner.plan(INERTIA, "smoke", variants=["none"], compiled=True)
    assert job.config["compiled"] is True
    work.check_configs(INERTIA, "smoke", {"none"}, {job.key: job.config})


def test_presets_do_not_count_for_each_other(toy, tmp_path):
    for preset in ("smoke", "default"):
        runner.run_experiment(toy, preset, out=tmp_path, seeds=1)
    assert len(_pairs(tmp_path)) == 6


def test_a_folder_with_another_configuration_is_refused(toy, tmp_path, monkeypatch):
    runner.run_experiment(toy, "smoke", out=tmp_path)
    before = (tmp_path / "toy.jsonl").read_bytes()
    monkeypatch.setenv("TOY_STEPS", "5")
    with pytest.raises(SofteqValueError, match=r"steps: 3 there, 5 now\): choose another --out"):
        runner.run_experiment(toy, "smoke", out=tmp_path, seeds=2)
    assert (tmp_path / "toy.jsonl").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_found_before_the_first_run(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SofteqError, match=str(tmp_path / "file")):
        runner.run_experiment(toy, "smoke", out=tmp_path / "file" / "runs")
    assert not (tmp_path / "log").exists()


def test_a_run_that_fails_leaves_what_was_recorded(toys, tmp_path):
    with pytest.raises(SofteqError, match="the toy's data are gone"):
        runner.run_experiment(toys["toy-fails"], "default", out=tmp_path)
    assert _pairs(tmp_path, "toy-fails") == [("hard", 0), ("soft", 0), ("diverges", 0)]


def test_workers_share_the_runs(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    events = []
    runner.run_experiment(toy, "paper", out=tmp_path / "runs", jobs=2, on_event=events.append)
    assert sorted(_pairs(tmp_path / "runs")) == sorted(PAPER)
    assert len((tmp_path / "log").read_text().splitlines()) == 12
    assert sorted((e.variant, e.seed) for e in events if e.kind == "done") == sorted(PAPER)
    assert not [e for e in events if e.kind == "skip"]
    assert all(math.isnan(e.metrics["test_mse"]) for e in events if e.kind == "done" and e.variant == "diverges")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("toy-fails", SofteqError, "^the toy's data are gone$"),
        ("toy-breaks", RuntimeError, "ZeroDivisionError: a defect"),
    ],
)
def test_what_a_worker_raises_is_raised_here(toys, tmp_path, name, error, message):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    todo = runner.plan(toys[name], "default")
    threads = torch.get_num_threads()
    try:
        runner._worker(name, registry.SOURCES, "default", todo, tmp_path, 1, sender)
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(error, match=message):
        runner._relay({receiver: types.SimpleNamespace(exitcode=0)}, lambda event: None)


def test_where_every_worker_is_killed_nothing_goes_on(toys, tmp_path):
    before = signal.getsignal(signal.SIGINT)  # it is ignored already where the tests run in the background of a shell
    with pytest.raises(SofteqError, match=r"exit code -9 .* run again to resume"):
        runner.run_experiment(toys["toy-dies"], "default", out=tmp_path, jobs=2)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_worker_that_is_killed_loses_its_run_alone_and_another_takes_it_up(toys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    runner.run_experiment(toys["toy-dies-once"], "default", out=tmp_path / "runs", jobs=2)
    assert (tmp_path / "log.died").exists()
    held = [(r["variant"], r["seed"]) for r in record.read(tmp_path / "runs" / "toy-dies-once.jsonl")]
    assert sorted(held) == [(v, s) for v in ("diverges", "hard", "soft") for s in range(2)]


def test_two_runners_in_one_folder_do_every_run_once(toy, tmp_path, softeq, wait_for, monkeypatch):
    arguments, log = ("run", "toy", "--preset", "paper", "--out", "runs"), tmp_path / "log"
    other = softeq(*arguments, cwd=tmp_path, TOY_LOG=str(log), TOY_DELAY="0.05")
    monkeypatch.setenv("TOY_LOG", str(log))
    monkeypatch.setenv("TOY_DELAY", "0.05")
    wait_for(log.exists)
    runner.run_experiment(toy, "paper", out=tmp_path / "runs")
    assert other.wait(120) == 0, other.communicate()
    assert sorted(_pairs(tmp_path / "runs")) == sorted(PAPER)
    assert len(log.read_text().splitlines()) == 12
    assert os.listdir(tmp_path / "runs") == ["toy.jsonl"]


def test_a_killed_runner_is_resumed(toy, tmp_path, softeq, wait_for):
    log, path = tmp_path / "log", tmp_path / "runs" / "toy.jsonl"
    process = softeq("run", "toy", "--preset", "paper", cwd=tmp_path, TOY_LOG=str(log), TOY_DELAY="0.3")
    wait_for(lambda: len(_pairs(tmp_path / "runs")) >= 2)
    wait_for(lambda: len(log.read_text().splitlines()) > len(_pairs(tmp_path / "runs")))
    process.kill()
    process.wait(30)
    before = path.read_bytes()
    done = len(_pairs(tmp_path / "runs"))
    assert 2 <= done < 12
    runner.run_experiment(toy, "paper", out=tmp_path / "runs")
    assert path.read_bytes().startswith(before)
    assert sorted(_pairs(tmp_path / "runs")) == sorted(PAPER)
    assert len(_pairs(tmp_path / "runs")) == 12
    assert os.listdir(tmp_path / "runs") == ["toy.jsonl"]
