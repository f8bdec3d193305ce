"""The report's chapter on ase calculators: the verdict, the numbers beside their levels, and where the error sits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from softeq.errors import SofteqWarning
from softeq.experiments.audit.report.drawing import draw_text, heat_colour, number
from softeq.measure.calculators.words import SYMMETRIES, ratio_to_level, verdict

_WIDTH, _RADIUS = 340, 13


def potentials(records: Sequence[Mapping[str, Any]]) -> str:
    """A section for the last record of each calculator and file; records that cannot be read are told and left out."""
    last = {(str(r.get("variant")), str((r.get("config") or {}).get("atoms_hash"))): r for r in records}
    parts = []
    for (variant, _), record in last.items():
        try:
            parts.append(_section(variant, record))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            warnings.warn(f"{variant}: its record cannot be shown: {error!r}", SofteqWarning, stacklevel=2)
    if not parts:
        return ""
    return (
        "<h2>Interatomic potentials</h2><p>Does a potential give the same energy, and forces that move along, when"
        " atoms are rotated, mirrored, shifted or exchanged? Each deviation stands beside a level that it is held"
        " against.</p>" + "".join(parts)
    )


def _section(variant: str, record: Mapping[str, Any]) -> str:
    found, config = record["metrics"], record["config"]
    items = "".join(f"<li>{escape(text)}</li>" for text in verdict(found))
    told = (
        f"{config['class']}; structures of {config['atoms']}: {found['structures']}, hash {config['atoms_hash']}; "
        f"computed in {found['precision']}; {found['calls']} calls; levels: {number(found['levels']['energy'])} eV, "
        f"{number(found['levels']['forces'])} eV/Å, {found['levels']['about']}"
    )
    shown = _angles(found) + _elements(found) + _atoms(found)
    return (
        f'<section><h3>{escape(variant)}</h3><div class="card"><ul>{items}</ul></div>'
        f'{_symmetries(found)}<div class="cards">{shown}</div><p class="quiet">{escape(told)}.</p></section>'
    )


def _symmetries(found: Mapping[str, Any]) -> str:
    rows = [
        (
            SYMMETRIES[name],
            *(number(check.get(key)) for key in ("energy_mean_ev", "energy_max_ev", "force_max_ev_per_a")),
            number(ratio_to_level(found, name)),
        )
        for name, check in found["checks"].items()
        if name in SYMMETRIES
    ]
    head = ("under", "energy, mean, eV", "energy, max, eV", "force, max, eV/Å", "of its level")
    return _table("What each symmetry changes", head, rows)


def _angles(found: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{row['from_degrees']:g}° to {row['to_degrees']:g}°",
            number(row["energy_mean_ev"]),
            number(row.get("force_mean_ev_per_a")),
        )
        for row in (found["checks"].get("rotation") or {}).get("by_angle", [])
    ]
    return _table("By the angle of the rotation", ("angle", "energy, mean, eV", "force, mean, eV/Å"), rows)


def _elements(found: Mapping[str, Any]) -> str:
    by_element = (found["checks"].get("rotation") or {}).get("force_by_element_ev_per_a", {})
    rows = [(symbol, number(value)) for symbol, value in by_element.items()]
    return _table("Forces under rotations, by element", ("element", "root mean square, eV/Å"), rows)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _atoms(found: Mapping[str, Any]) -> str:
    """The first structure along its shortest principal axis, each atom in the colour of its force's deviation."""
    values = (found["checks"].get("rotation") or {}).get("force_by_atom_ev_per_a")
    if not values:
        return ""
    places, symbols = np.array(found["structure"]["positions"], dtype=float), found["structure"]["symbols"]
    largest = max(values)
    flat = (places - places.mean(0)) @ _axes(places)[:2].T
    scale = (_WIDTH - 4 * _RADIUS) / max(float(np.ptp(flat, axis=0).max()), 1e-9)
    height = round(float(np.ptp(flat[:, 1])) * scale) + 4 * _RADIUS
    spots = (flat - (flat.max(0) + flat.min(0)) / 2) * scale + [_WIDTH / 2, height / 2]
    order = np.argsort(places @ _axes(places)[2], kind="stable")
    shown = "".join(
        f'<circle cx="{spots[k][0]:.1f}" cy="{spots[k][1]:.1f}" r="{_RADIUS - 3 * (symbols[k] == "H")}" stroke="#555" '
        f'fill="{heat_colour(values[k] / largest if largest else 0.0)}">'
        f"<title>{escape(symbols[k])} {k}: {number(values[k])} eV/Å</title></circle>"
        + draw_text(spots[k][0], spots[k][1] + 4, str(symbols[k]), anchor="middle", colour=_ink(values[k], largest))
        for k in order
    )
    words = f"Forces under rotations, by atom: from white, 0, to dark red, {number(largest)} eV/Å (root mean square)."
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(words)}">{shown}</svg><figcaption>{escape(words)}</figcaption></figure>'
    )


def _axes(places: np.ndarray) -> np.ndarray:
    """Principal axes as rows, the longest first."""
    return np.linalg.svd(places - places.mean(0), full_matrices=True)[2]


def _ink(value: float, largest: float) -> str:
    return "#fff" if largest and value / largest > 0.6 else "#222"
