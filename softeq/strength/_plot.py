"""A figure of a rule's history: precisions, effective parameters and defects over training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.pathways import EQUIVARIANT
from softeq.strength._rule import Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = (
    ("precision", "precision (units of the loss)", "log"),
    ("effective", "effective parameters", "linear"),
    ("defect", "weight defect", "log"),
)


def plot(rule: Rule, path: str | Path | None = None) -> Figure:
    """Draws ``rule.history``: one line per layer and pathway, a panel for each quantity that was recorded.

    Args:
        rule: after some training; with ``record=0`` it has no history.
        path: where to save the figure; its ending says the format. ``None`` saves nothing.

    Returns:
        matplotlib's figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SofteqValueError: no history yet. SofteqTypeError: no rule.
    """
    if not isinstance(rule, Rule):
        raise SofteqTypeError(f"rule: expected what softeq.strength.rule returned, got {type(rule).__name__}")
    if not rule.history:
        raise SofteqValueError(
            f"rule: expected a history, got none after {rule.steps} steps; it is written every {rule.record} steps "
            "(record=0: never)"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plot needs matplotlib: pip install 'softeq[experiments]'") from error
    panels = [panel for panel in _PANELS if any(panel[0] in row for row in rule.history)]
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (key, label, scale) in zip(axes, panels, strict=True):
        for name, rows in _lines(rule, key).items():
            axis.plot([row["step"] for row in rows], [row[key] for row in rows], label=name)
        axis.set(xlabel="step", ylabel=label, yscale=scale if key != "precision" else "log")
    axes[0].legend(fontsize="x-small", title=rule.name)
    if path is not None:
        figure.savefig(path)
    return figure


def _lines(rule: Rule, key: str) -> dict[str, list[dict[str, Any]]]:
    """The rows that have this key, by layer and pathway, and by candidate where several were trained side by side.

    Equivariant pathways alone where their precision moves.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rule.history:
        if key in row:
            side = f"candidate {row['candidate']}: " if "candidate" in row else ""
            found.setdefault(side + f"{row['layer']} {row['pathway']}".strip(), []).append(row)
    still = {
        name
        for name, rows in found.items()
        if rows[0]["pathway"] == EQUIVARIANT and len({row[key] for row in rows}) == 1
    }
    return {name: rows for name, rows in found.items() if name not in still} or found
