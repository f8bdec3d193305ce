"""Solving for equivariant bases against the `emlp` package (Finzi, Welling, Wilson 2021): time and peak memory.

Each number is one call in a process of its own, imports apart, on one thread, everything that a first call sets up
included (LAPACK here, XLA's compilations there). In each round emlp, softeq with an empty cache folder and softeq with
the folder that this filled take turns. emlp solves in float32, its default, and softeq in float64.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases
from benchmarks.emlp_environment import REQUIREMENTS, ROOT, EmlpUnavailableError, emlp_python
from benchmarks.report import Report, Row, table
from benchmarks.timing import Spread, digits, ratios

NAME = "solver"
EMLP, COLD, WARM = "emlp", "softeq, cold cache", "softeq, warm disk cache"
QUICK_CASES = (cases.NETWORK_BASES, next(iter(cases.PAIRS)))
_ROUNDS = 5
_TIMEOUT = 600
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "TQDM_DISABLE": "1",  # emlp hands its bar float32 numbers, which tqdm cannot make a time of: it fails
}
Measured = dict[str, list[dict[str, Any]]]


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (),
    seconds: float = 150.0,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every case once, then again in further rounds while they fit into ``seconds``, 5 rounds at most.

    Args:
        quick: two cases, one round, and emlp for the smaller one alone and only where its environment exists.
        threads: not used; both packages solve on one thread, as a second one gains nothing at these sizes.
        seconds: of the whole benchmark, the making of emlp's environment apart.
        say: told what is under way.

    Raises:
        RuntimeError: a worker failed, or the packages disagree about a rank.
    """
    remarks = [f"one call per process, one thread; emlp's versions: benchmarks/{REQUIREMENTS.name}"]
    python = None
    try:
        say("solver: emlp's environment")
        python = emlp_python(install=not quick)
    except EmlpUnavailableError as error:
        remarks = [f"{error}; softeq is measured alone"]
    results: dict[str, Measured] = {}
    durations: dict[str, float] = {}
    until = time.monotonic() + seconds
    for turn in range(1 if quick else _ROUNDS):
        for case in QUICK_CASES if quick else cases.CASES:
            if turn and time.monotonic() + durations[case] > until:
                continue
            say(f"solver: {case}, round {turn + 1}")
            began = time.monotonic()
            against = None if quick and case == cases.NETWORK_BASES else python
            _one_round(case, against, results.setdefault(case, {}))
            durations[case] = time.monotonic() - began
    for case, measured in results.items():
        check_ranks(case, measured)
    rows = [row for case, measured in results.items() for row in _rows(case, measured)]
    return Report(rows, [_times(rows, results), _memory(rows)], remarks)


def _one_round(case: str, emlp: Path | None, measured: Measured) -> None:
    if emlp is not None:
        measured.setdefault(EMLP, []).append(measure(emlp, "benchmarks.emlp_worker", case))
    with tempfile.TemporaryDirectory(prefix="softeq-bench-") as cache:
        for arm in (COLD, WARM):
            worker = measure(Path(sys.executable), "benchmarks.softeq_worker", case, SOFTEQ_CACHE=cache)
            measured.setdefault(arm, []).append(worker)


class TookTooLongError(RuntimeError):
    """A worker was stopped at its limit."""


def measure(python: Path, module: str, case: str, *, limit: float = _TIMEOUT, **environment: str) -> dict[str, Any]:
    """What a worker hands back for a case, run in a fresh process on one thread.

    Raises:
        TookTooLongError: it took more than ``limit`` seconds.
        RuntimeError: it failed, with the last line that it wrote.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            [str(python), "-m", module, case],
            cwd=ROOT,
            env={**inherited, **_ONE_THREAD, **environment},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TookTooLongError(f"{module} {case!r} took more than {limit:g} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"{module} {case!r} ended with exit code {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def check_ranks(case: str, measured: Measured) -> list[int]:
    """The ranks of a case, in all runs of both packages the same.

    Raises:
        RuntimeError: they are not.
    """
    found = {arm: runs[0]["ranks"] for arm, runs in measured.items()}
    wanted = found[COLD]
    for arm, runs in measured.items():
        for one in runs:
            if one["ranks"] != wanted:
                raise RuntimeError(f"{case}: the ranks differ: {COLD} {wanted}, {arm} {one['ranks']}")
    return wanted


def _rows(case: str, measured: Measured) -> list[Row]:
    rows = []
    twin = EMLP if EMLP in measured else ""
    for arm, runs in measured.items():
        taken = {name: [one[name] for one in runs] for name in ("seconds", "cpu_seconds", "memory_mib")}
        more = {f"{name}_median": Spread.of(values).median for name, values in taken.items() if name != "seconds"}
        more |= {"ranks": runs[0]["ranks"], "import_seconds": Spread.of([one["import_seconds"] for one in runs]).median}
        ratio = None
        if twin and arm != twin:
            # The other way round than elsewhere: how many times faster or smaller than emlp.
            ratio = _faster(measured, arm, "seconds")
            more["cpu_ratio_median"] = _faster(measured, arm, "cpu_seconds").median
            if min(taken["memory_mib"]) > 0:
                more["memory_ratio_median"] = _faster(measured, arm, "memory_mib").median
            more["ratio_is"] = "emlp / this arm"
        rows.append(
            Row(NAME, case, arm, Spread.of(taken["seconds"]), twin if ratio else "", ratio, threads=1, more=more)
        )
    return rows


def _faster(measured: Measured, arm: str, name: str) -> Spread:
    return ratios([one[name] for one in measured[EMLP]], [one[name] for one in measured[arm]])


def _of(rows: Sequence[Row], case: str) -> dict[str, Row]:
    return {row.arm: row for row in rows if row.case == case}


def _times(rows: Sequence[Row], results: dict[str, Measured]) -> Any:
    lines = []
    for case in results:
        arms = _of(rows, case)
        emlp, cold, warm = arms.get(EMLP), arms[COLD], arms[WARM]
        ranks = cold.more["ranks"]
        lines.append(
            [
                case,
                str(ranks[0]) if len(ranks) == 1 else f"{sum(ranks)} in {len(ranks)}",
                digits(emlp.seconds.median) if emlp else "-",
                digits(1e3 * cold.seconds.median),
                cold.ratio.text() if cold.ratio else "-",
                f"{cold.more['cpu_ratio_median']:.0f}" if cold.ratio else "-",
                digits(1e3 * warm.seconds.median),
                warm.ratio.text() if warm.ratio else "-",
                str(cold.seconds.n),
            ]
        )
    columns = ["maps", "rank", "emlp s", "cold ms", "emlp / cold", "in cpu time", "warm ms", "emlp / warm", "n"]
    caption = "medians, of ratios [min, max]; reach: emlp / cold at least 10"
    if any(EMLP in measured for measured in results.values()):
        caption += "; both packages find the same ranks wherever both were measured"
    return table("solver: seconds, imports apart", columns, lines, caption)


def _memory(rows: Sequence[Row]) -> Any:
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        arms = _of(rows, case)
        emlp, cold, warm = arms.get(EMLP), arms[COLD], arms[WARM]
        ratio = cold.more.get("memory_ratio_median")
        lines.append(
            [
                case,
                f"{emlp.more['memory_mib_median']:.0f}" if emlp else "-",
                f"{cold.more['memory_mib_median']:.0f}",
                f"{ratio:.1f}" if ratio else "-",
                f"{warm.more['memory_mib_median']:.0f}",
            ]
        )
    columns = ["maps", "emlp MiB", "cold MiB", "emlp / cold", "warm MiB"]
    return table("solver: peak memory above what the imports hold", columns, lines, "medians")
