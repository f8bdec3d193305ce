"""Ray's workers make the same records, and a killed one loses its run alone."""

import os
import sys
from pathlib import Path

import pytest

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.engine import record, runner

SOURCES = ("toy_experiment",)
PAIRS = [(v, s) for s in range(2) for v in ("hard", "soft", "diverges")]


def _pairs(folder, name):
    return [(r["variant"], r["seed"]) for r in record.read(folder / f"{name}.jsonl")]


def test_without_ray_one_line_says_so(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"softeq\[ray\]"):
        runner.run_experiment(toy, "default", out=tmp_path, engine="ray", sources=SOURCES)
    with pytest.raises(SofteqValueError, match="unknown engine 'rey': expected one of local, ray; did you mean 'ray'"):
        runner.run_experiment(toy, "default", out=tmp_path, engine="rey", sources=SOURCES)


def test_users_are_told_of_every_engine_and_of_what_it_needs():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "experiment.md").read_text()
    for engine in set(runner.ENGINES) - {"local"}:
        assert f"--engine {engine}" in page
        assert f"softeq[{engine}]" in page


@pytest.fixture
def two_workers(monkeypatch, tmp_path):
    """Ray with two workers here, which find the toy experiments."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "TOY_LOG": str(tmp_path / "log"), "OMP_NUM_THREADS": "1"}
    runtime = {"env_vars": environment}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=runtime)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_two_workers_make_the_records_and_one_that_is_killed_loses_its_run_alone(toys, tmp_path, two_workers):
    runs, events = tmp_path / "runs", []
    runner.run_experiment(
        toys["toy"], "default", out=runs, jobs=2, engine="ray", sources=SOURCES, on_event=events.append
    )
    assert sorted(_pairs(runs, "toy")) == sorted(PAIRS)
    assert [e.kind for e in events].count("done") == 6
    here = tmp_path / "here"
    runner.run_experiment(toys["toy"], "default", out=here)

    def comparable(folder):
        found = {(r["variant"], r["seed"]): (r["config"], record.encode(r["metrics"])) for r in _read(folder)}
        return found

    def _read(folder):
        return record.read(folder / "toy.jsonl")

    assert comparable(runs) == comparable(here)
    assert os.listdir(runs) == ["toy.jsonl"]

    mortal = toys["toy-dies-once"]
    with pytest.raises(SofteqError, match="workers died during soft seed 1; every other run is recorded"):
        runner.run_experiment(mortal, "default", out=runs, jobs=2, engine="ray", sources=SOURCES)
    assert sorted(_pairs(runs, mortal.name)) == sorted(pair for pair in PAIRS if pair != ("soft", 1))
    runner.run_experiment(mortal, "default", out=runs, jobs=2, engine="ray", sources=SOURCES)
    assert sorted(_pairs(runs, mortal.name)) == sorted(PAIRS)
