"""``python -m benchmarks mutants``: breaks one load-bearing line at a time and runs the tests that should notice.

``mutants.toml`` lists the file, the text of the line, what it becomes, and the tests to run. A mutant that no test
notices survives: either a test is missing or the line is not needed. The checkout stays as it is; each mutant lives in
a copy. By hand, since it takes minutes:

    python -m benchmarks mutants                     # all
    python -m benchmarks mutants record prior        # those whose name or file contains one of the words
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("mutants.toml")
_FOLDERS = ("softeq", "models", "measure", "experiments", "tests", "benchmarks", "results", "docs")
_FILES = ("pyproject.toml", "README.md", "CHANGELOG.md")
_TIMEOUT = 600
KILLED, SURVIVED, GONE, BROKEN = "killed", "SURVIVED", "GONE", "BROKEN"


@dataclass(frozen=True)
class Mutant:
    """One line broken: ``old`` stands exactly once in ``file`` and becomes ``new``; ``tests`` are paths for pytest."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def load(path: Path = TABLE) -> list[Mutant]:
    """The table: ``[[mutant]]`` with the fields of `Mutant`.

    Raises:
        ValueError: two of one name, a missing field, or a mutant that changes nothing.
    """
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    found = []
    for row in rows:
        if set(row) != {"name", "file", "old", "new", "tests"} or row["old"] == row["new"]:
            raise ValueError(f"{path.name}: expected name, file, old, another new, and tests, got {row}")
        found.append(Mutant(**{**row, "tests": tuple(row["tests"])}))
    if len({m.name for m in found}) < len(found):
        raise ValueError(f"{path.name}: two mutants of one name")
    return found


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of the checkout's code, tests and records, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        place = Path(name)
        ignored = shutil.ignore_patterns("__pycache__", "*.png")
        for folder in _FOLDERS:
            if (root / folder).is_dir():
                shutil.copytree(root / folder, place / folder, symlinks=True, ignore=ignored)
        for file in _FILES:
            if (root / file).exists():
                shutil.copy2(root / file, place / file)
        yield place


def try_out(mutant: Mutant, root: Path) -> str:
    """Break the line in the copy ``root``, run the tests, mend it.

    Returns:
        `KILLED` where a test failed, `SURVIVED` where all passed, `GONE` where the line is not there exactly once,
        `BROKEN` where pytest could not run them at all.
    """
    path = root / mutant.file
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    if whole.count(mutant.old) != 1:
        return GONE
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests]
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return KILLED  # a line that makes the tests hang is noticed
    finally:
        path.write_text(whole, encoding="utf-8")
    # pytest: 0 all passed, 1 some failed, 2 stopped (an import that fails is how some mutants are noticed)
    return {0: SURVIVED, 1: KILLED, 2: KILLED}.get(done.returncode, BROKEN)


def main(arguments: Sequence[str]) -> int:
    """The command; 0 where every mutant was killed, 1 where one survived or its line is gone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutants", description="Break lines; who notices?")
    parser.add_argument("words", nargs="*", help="only those whose name or file contains one of these")
    words = parser.parse_args(arguments).words
    chosen = [m for m in load() if not words or any(word in m.name or word in m.file for word in words)]
    left = []
    with copied(ROOT) as place:
        for mutant in chosen:
            began = time.perf_counter()
            verdict = try_out(mutant, place)
            print(f"{verdict:<9} {mutant.name} ({mutant.file}, {time.perf_counter() - began:.0f} s)", flush=True)
            left += [mutant.name] * (verdict != KILLED)
    print(f"{len(chosen) - len(left)} of {len(chosen)} killed" + (f"; left: {', '.join(left)}" if left else ""))
    return 1 if left else 0
