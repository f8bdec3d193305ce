"""airline: which months are held out, and what a run records."""

import math

import pytest
import torch

from softeq.experiments.engine import record
from softeq.experiments.phenomena import airline

SERIES = [100 + 3 * m + 60 * math.sin(math.pi * m / 6) for m in range(144)]


@pytest.fixture
def passengers(monkeypatch):
    monkeypatch.setattr(airline, "airline_passengers", lambda: torch.tensor(SERIES, dtype=torch.float64))


@pytest.mark.parametrize("task", airline.TASKS)
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_months_are_fitted_or_asked_for_and_inside_means_between(task, seed):
    fitted, asked = airline.held_out(task, 144, seed)
    assert not set(fitted.tolist()) & set(asked.tolist())
    if task == "outside":
        assert len(asked) == 24
        assert asked[0] == fitted[-1] + 1 == 120 - 12 * seed
    else:
        assert len(fitted) + len(asked) == 144
        assert len(asked) == {"half": 72, "quarter": 36}[task]
        assert fitted[0] == 0
        assert asked[-1] < 143 or seed == 0


def test_every_seed_holds_out_other_months():
    assert airline.held_out("half", 144, 0)[1].tolist() == list(range(1, 144, 2))
    drawn = {tuple(airline.held_out("half", 144, seed)[1].tolist()) for seed in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("variant", ["line", "flat", "soft"])
def test_a_run_records_errors_and_what_was_chosen(passengers, variant):
    steps = []
    config = airline.configure("smoke", variant, 0)
    found = airline.run(config, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert record.decode(record.encode(found)) == found
    assert len(found["curve_half"]) == 144
    assert ("growth_half" in found) == (variant != "line")


def test_a_line_is_right_about_a_line_and_the_soft_prior_finds_the_summers(monkeypatch, passengers):
    run = lambda variant, **changes: airline.run(airline.configure("smoke", variant, 0) | changes, lambda *_: None)
    soft = airline.VARIANTS["soft"] | {"growths": [1.1, 10.0]}
    assert run("soft", model=soft)["rmse_half"] < 0.8 * run("cubic")["rmse_half"]
    monkeypatch.setattr(airline, "airline_passengers", lambda: torch.arange(144, dtype=torch.float64))
    assert run("line")["rmse_outside"] < 1e-8


def test_the_figure_is_drawn(passengers, tmp_path):
    pytest.importorskip("matplotlib")
    records = [
        record.make(
            "airline",
            "smoke",
            variant,
            0,
            config={},
            metrics=airline.run(airline.configure("smoke", variant, 0), lambda *_: None),
            provenance={},
        )
        for variant in ("cubic", "soft")
    ]
    airline.plot(records, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
