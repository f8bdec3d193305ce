"""``softeq audit --calculator``: what it prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from softeq.errors import SofteqValueError


def audit_calculator(calculator: str | None, atoms: str | None, models: list[str], out: Path, **options: Any) -> None:
    """Audit a calculator, print its verdict, and write record and page.

    Raises:
        SofteqValueError: models beside the calculator, or one of calculator and atoms without the other.
        SofteqError: see `audit_one`.
    """
    import typer
    from rich.console import Console

    from softeq.experiments.audit import calculators
    from softeq.experiments.audit import run as work
    from softeq.measure.calculators.words import verdict

    if calculator is None:
        raise SofteqValueError("calculator: expected module:factory beside --atoms, got none")
    if atoms is None:
        raise SofteqValueError("atoms: expected a file of structures beside --calculator, got none")
    if models:
        raise SofteqValueError(f"models: expected none beside --calculator, got {', '.join(models)}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where a user's own module:factory is looked for first
    settings = calculators.CalculatorSettings(calculator, atoms, **options)
    with Console(stderr=True).status("loading") as shown:  # nothing where stderr is no terminal
        line = calculators.audit_one(settings, out, lambda name: shown.update(f"measuring: {name}"))
    for sentence in verdict(line["metrics"]):
        typer.echo(sentence)
    _, page = work.report(out)
    typer.echo(f"1 record in {out / calculators.EXPERIMENT}.jsonl; open {page}")
