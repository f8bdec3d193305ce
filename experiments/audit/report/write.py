"""Audit records -> ``audit.csv`` and one self-contained ``audit.html``; see `groups` for the records."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from softeq.errors import SofteqError
from softeq.experiments.audit.report.groups import AuditRecord, csv_text, group_records
from softeq.experiments.audit.report.page import html_text


def write_report(
    records: Sequence[AuditRecord],
    folder: str | Path,
    *,
    failures: Sequence[tuple[str, str]] = (),
    calculators: Sequence[AuditRecord] = (),
) -> tuple[Path, Path]:
    """Write ``audit.csv`` and ``audit.html`` into a folder, each whole or not at all; their paths.

    Args:
        records: any records; those of other experiments are left out.
        folder: made when absent.
        failures: models of this run that have no record, with the reason.
        calculators: records of `experiments.audit.calculators`.

    Raises:
        SofteqError: when the folder cannot be written.
    """
    folder = Path(folder)
    page = html_text(group_records(records), failures=failures, calculators=calculators)
    texts = {"audit.csv": csv_text(records), "audit.html": page}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(folder / name, text)
    except OSError as error:
        raise SofteqError(
            f"cannot write the report into {folder}: {error.strerror or error}; make the folder writable, free some"
            " space, or choose another with --out"
        ) from error
    return folder / "audit.csv", folder / "audit.html"


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", dir=path.parent, delete=False, newline=""
    ) as trial:
        try:
            trial.write(text)
            trial.flush()
            os.fchmod(trial.fileno(), 0o644)  # a temporary file is the owner's alone, a report is to be shown
            os.replace(trial.name, path)
        except BaseException:
            os.unlink(trial.name)
            raise
