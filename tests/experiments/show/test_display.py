import math

import pytest

from softeq.experiments.engine.work import Event
from softeq.experiments.show.display import Tally, display

RUN = [
    Event("skip", "hard", 0),
    Event("start", "soft", 0),
    Event("step", "soft", 0, done=1, total=2),
    Event("step", "soft", 0, done=2, total=2),
    Event("done", "soft", 0, seconds=1.25, metrics={"test_mse": 0.28123}),
    Event("wait", "hard", 1),
    Event("start", "diverges", 0),
    Event("done", "diverges", 0, seconds=2.0, metrics={"test_mse": math.nan}),
    Event("start", "soft", 1),
    Event("done", "soft", 1, seconds=3.0, metrics={}),
    Event("skip", "hard", 1),
]
LINES = [
    "[2/5] soft, seed 0: test MSE 0.281, 1.2 s",
    "hard, seed 1: another softeq process is at it, waiting for its record",
    "[3/5] diverges, seed 0: test MSE diverged (nan), 2.0 s",
    "[4/5] soft, seed 1: test MSE missing, 3.0 s",
]


def test_plain_lines_where_there_is_no_terminal(toy, capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    tally = Tally(toy, 5)
    with display(tally) as on_event:
        for event in RUN:
            on_event(event)
    out, err = capsys.readouterr()
    assert out.splitlines() == LINES
    assert err == ""
    assert (tally.recorded, tally.fresh) == (5, 3)


@pytest.mark.parametrize("steps", [0, 2])
def test_bars_on_stderr_of_a_terminal_and_the_same_lines_on_stdout(toy, capsys, monkeypatch, steps):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with display(Tally(toy, 5)) as on_event:
        for event in RUN:
            on_event(event)
        on_event(Event("start", "soft", 9))
        on_event(Event("step", "soft", 9, done=steps, total=steps))
    out, err = capsys.readouterr()
    assert out.splitlines() == LINES
    assert "all runs" in err
    assert "soft, seed 9" in err
    assert "%" in err
