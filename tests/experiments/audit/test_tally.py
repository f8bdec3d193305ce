import pytest

from softeq.experiments.audit import tally as audit_tally
from softeq.experiments.audit.run import AuditEvent
from softeq.experiments.audit.tally import AuditTally
from softeq.experiments.show.display import display

GOOD = {"lee_mean": 0.012345, "ratio_to_control": 0.25}
MAPS = {"EQ-T": {"value": None, "error": 0.0}, "EQ-T_frac": {"value": 31.25}, "EQ-R": {"not_measurable": "why"}}
RUN = [
    AuditEvent("start", "a"),
    AuditEvent("step", "a", done=1, total=4),
    AuditEvent("record", "a", "rotation", seconds=1.25, metrics=GOOD),
    AuditEvent("record", "a", "scale", metrics={"not_measurable": "it is constant"}),
    AuditEvent("record", "a", "shear_x", metrics={"lee_mean": None, "ratio_to_control": None}),
    AuditEvent("record", "a", "translation_x", metrics=GOOD | {"decibels": MAPS}),
    AuditEvent("done", "a"),
    AuditEvent("start", "b"),
    AuditEvent("skip", "b", "rotation", metrics=GOOD),
    AuditEvent("done", "b", reason="no such model"),
]
LINES = [
    "a/rotation: LEE (relative) 0.0123, 0.25 of the control, 1.2 s",
    "a/scale: not measurable: it is constant, 0.0 s",
    "a/shear_x: LEE (relative) nothing measured, nothing measured of the control, 0.0 s",
    "a/translation_x: LEE (relative) 0.0123, 0.25 of the control, EQ-T exact, EQ-T_frac 31.2 dB, 0.0 s",
]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_for_each_flow_and_bars_on_a_terminal(capsys, monkeypatch, terminal):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
    tally = AuditTally(2, "relative", bars=terminal)
    with display(tally) as on_event:
        for event in RUN:
            on_event(event)
        assert tally.recorded == 2
        on_event(AuditEvent("start", "[red]another[/b]"))
    out, err = capsys.readouterr()
    assert out.splitlines() == LINES
    assert ("all models" in err and "[red]another[/b]" in err) is terminal  # no markup


def test_without_a_terminal_silence_is_broken_by_an_estimate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(audit_tally.time, "monotonic", lambda: now[0])
    tally = AuditTally(2, "relative", bars=False)
    step = AuditEvent("step", "a", done=1, total=4)
    assert tally.take(step) is None
    now[0] = 25.0
    assert tally.take(step) == "a: 25%, about 3 min left for all models"  # 1/8 in 25 s: 175 s
    assert tally.take(step) is None
    tally.take(AuditEvent("done", "a"))
    now[0] = 50.0
    assert tally.take(AuditEvent("step", "b", done=1, total=2)) == "b: 50%, about 17 s left"
    bars = AuditTally(1, "relative", bars=True)
    now[0] = 500.0
    assert bars.take(step) is None
