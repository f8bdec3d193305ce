"""An audit of a calculator in sentences that are computed from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYMMETRIES = {
    "rotation": "rotations",
    "inversion": "the inversion",
    "translation": "translations",
    "permutation": "exchanging like atoms",
    "images": "moving atoms to their images",
    "repeated cell": "repeating the cell",
    "another cell": "describing the crystal by another cell",
}
"""The checks that are symmetries, in words."""


def verdict(found: Mapping[str, Any]) -> list[str]:
    """The findings, the most important first.

    Args:
        found: `CalculatorResult.as_dict()`, also as a record has it.
    """
    return [
        _overall(found),
        *(f"Cause: {cause['name']}. {_capital(cause['evidence'])}." for cause in found["causes"]),
        *_broken(found),
        *_kept(found),
        *_mechanics(found),
        *([_missing(found)] if found["not_measurable"] else []),
    ]


def ratio_to_level(found: Mapping[str, Any], name: str) -> float:
    """The larger of a symmetry's largest deviations in energy and forces, each in units of its level."""
    check, levels = found["checks"][name], found["levels"]
    energy = check["energy_max_ev"] / levels["energy"]
    return max(energy, check.get("force_max_ev_per_a", 0.0) / levels["forces"])


def is_broken(found: Mapping[str, Any], name: str) -> bool:
    """Whether a symmetry's deviations are more than noise."""
    check, scales = found["checks"][name], found["scales"]
    forces = check.get("force_max_ev_per_a", 0.0)
    return check["energy_max_ev"] > scales["energy_noise_ev"] or forces > scales["force_noise_ev_per_a"]


def _measured(found: Mapping[str, Any]) -> list[str]:
    return [name for name in SYMMETRIES if name in found["checks"]]


def _overall(found: Mapping[str, Any]) -> str:
    several = found["structures"] > 1
    what = f"{found['formula']}{' and others' if several else ''} ({found['atoms']} atom{'s' * (found['atoms'] != 1)})"
    broken = [name for name in _measured(found) if is_broken(found, name)]
    if not _measured(found):
        return f"{what}: no symmetry could be measured."
    if any(cause["name"] == "constant" for cause in found["causes"]):
        return f"{what}: its answers do not depend on the atoms."
    if not broken:
        return f"{what}: it follows every symmetry that was measured, within rounding."
    ratio, about = max(ratio_to_level(found, name) for name in broken), found["levels"]["about"]
    change = "change" if len(broken) > 1 or broken[0] in ("rotation", "translation") else "changes"
    names = f"{what}: {_listed(broken)} {change} its answers"
    if ratio < 0.1:
        return f"{names} by less than a tenth of what they are held against ({about}): it hardly matters."
    if ratio < 1:
        return (
            f"{names} by up to {amount(ratio)} of what they are held against ({about}): below it, but it can be seen."
        )
    return f"{names} by up to {amount(ratio)} times what they are held against ({about}): it matters."


def _listed(names: Sequence[str]) -> str:
    *most, last = (SYMMETRIES[name] for name in names)
    return f"{', '.join(most)} and {last}" if most else last


def _broken(found: Mapping[str, Any]) -> list[str]:
    said = []
    for name in _measured(found):
        if not is_broken(found, name):
            continue
        check, level = found["checks"][name], found["levels"]["energy"]
        words = (
            f"{_capital(SYMMETRIES[name])}: the energy changes by {amount(check['energy_max_ev'])} eV at most and "
            f"{amount(check['energy_mean_ev'])} eV on average ({amount(check['energy_max_ev'] / level)} and "
            f"{amount(check['energy_mean_ev'] / level)} of its level)"
        )
        if "force_relative" in check:
            words += f", the forces by {amount(100 * check['force_relative'])}% of their size"
        by_element = check.get("force_by_element_ev_per_a", {})
        if len(by_element) > 1:
            most = max(by_element, key=lambda symbol: by_element[symbol])
            words += f", most on {most} ({amount(by_element[most])} eV/Å)"
        said.append(f"{words}.")
    return said


def _kept(found: Mapping[str, Any]) -> list[str]:
    kept = [name for name in _measured(found) if not is_broken(found, name)]
    if not kept:
        return []
    energy = max(found["checks"][name]["energy_max_ev"] for name in kept)
    forces = [checked["force_max_ev_per_a"] for n in kept if "force_max_ev_per_a" in (checked := found["checks"][n])]
    sizes = [f"{amount(energy)} eV", *([f"{amount(max(forces))} eV/Å"] if forces else [])]
    return [f"Nothing changes under {_listed(kept)} (at most {', '.join(sizes)})."]


def _mechanics(found: Mapping[str, Any]) -> list[str]:
    checks, said = found["checks"], []
    if "slopes" in checks:
        worst = amount(checks["slopes"]["force_max_ev_per_a"])
        said.append(f"Forces and the energy's slope differ by at most {worst} eV/Å ({_coordinates(checks['slopes'])}).")
    if "stress" in checks:
        worst = amount(checks["stress"]["stress_max_ev_per_a3"])
        said.append(f"Stress and the energy's slope under strain differ by at most {worst} eV/Å³.")
    if "jumps" in checks:
        jump = checks["jumps"]
        forces = (
            f" and {amount(jump['force_max_ev_per_a'])} eV/Å" if "net force" in checks else ""
        )  # else there are none
        energy = amount(jump["energy_max_ev"])
        said.append(f"Where atoms move apart ({jump['path']}), the largest jumps are {energy} eV{forces}.")
    if "constant energy" in checks:
        run = checks["constant energy"]
        slope, error = run["drift_mev_per_atom_ps"], run["drift_error_mev_per_atom_ps"]
        seen = "" if abs(slope) > 2 * error else ": no drift is seen"
        said.append(
            f"In {run['steps']} steps of {run['step_fs']:g} fs the total energy drifts by {amount(slope)} ± "
            f"{amount(error)} meV per atom and ps{seen}."
        )
    return said


def _coordinates(check: Mapping[str, Any]) -> str:
    return f"central differences at {check['coordinates']} coordinates"


def _missing(found: Mapping[str, Any]) -> str:
    reasons = found["not_measurable"]
    return "Not measured: " + "; ".join(f"{name} ({why})" for name, why in reasons.items()) + "."


def amount(value: float) -> str:
    """Two figures, as a power of ten only far from one."""
    return f"{float(f'{value:.2g}'):g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
