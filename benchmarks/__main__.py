"""``python -m benchmarks``: runs the benchmarks, prints their tables, and keeps the numbers where it is told to."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import (
    convolutions,
    derivative,
    irreps,
    layers,
    mutants,
    networks,
    prior_step,
    solver,
    solver_suite,
    strength,
)
from benchmarks.report import Report, append_rows, environment
from benchmarks.timing import thread_counts

BENCHMARKS: dict[str, tuple[str, Callable[..., Report]]] = {
    solver.NAME: ("equivariant bases: time and memory against the emlp package", solver.run),
    solver_suite.NAME: ("all maps of a layer over each of emlp's groups, against emlp", solver_suite.run),
    layers.NAME: ("soft linear layers against nn.Linear", layers.run),
    networks.NAME: ("the whole soft network against the MLP", networks.run),
    convolutions.NAME: ("soft convolutions against nn.Conv2d", convolutions.run),
    irreps.NAME: ("soft linear layers between irreps against nn.Linear and e3nn", irreps.run),
    prior_step.NAME: ("a step under a prior and under the rules that choose it", prior_step.run),
    derivative.NAME: ("all flows of an audit against one forward pass", derivative.run),
}
ON_A_GPU = (layers.NAME, networks.NAME, prior_step.NAME, derivative.NAME)
"""Those that take ``--device``; the others compute on the CPU alone."""
_BUSY = 0.5
_PAGE = 180  # columns, where nobody looks on and nothing need be squeezed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, 1 where a benchmark failed, or 2 for a user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["mutants"]:
        return mutants.main(given[1:])
    if given[:1] == ["strength"]:
        return strength.main(given[1:])
    parser = _parser()
    options = parser.parse_args(given)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"expected names among {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    _check_device(parser, options)
    console, errors = Console(width=None if sys.stdout.isatty() else _PAGE), Console(stderr=True)
    if options.list:
        for name, (what, _) in BENCHMARKS.items():
            console.print(f"{name:<10} {what}")
        return 0
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            with (options.out / "benchmarks.jsonl").open("a"):
                pass
        except OSError as error:
            errors.print(f"--out: expected a folder to write into, got {options.out}: {error.strerror}", markup=False)
            return 2
    console.print(environment(options.device), markup=False, highlight=False)
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > _BUSY:
        console.print("Other work is running here: trust one-thread ratios; two threads then wait for each other.")
    return _run(options, console, errors)


def _run(options: argparse.Namespace, console: Console, errors: Console) -> int:
    failed = 0
    on_gpu = options.device == "cuda"
    default = (1,) if on_gpu else thread_counts()
    threads = tuple(dict.fromkeys(options.threads)) if options.threads else default
    for name in dict.fromkeys(options.names or (ON_A_GPU if on_gpu else BENCHMARKS)):
        more = {"device": options.device} if name in ON_A_GPU else {}
        began = time.perf_counter()
        try:
            with errors.status(name) as status:
                # A screen shows what is under way in one line; a log gets a line each.
                say = status.update if errors.is_terminal else lambda what: errors.print(what, highlight=False)
                report = BENCHMARKS[name][1](quick=options.quick, threads=threads, say=say, **more)
        except RuntimeError as error:
            errors.print(f"{name}: {error}", markup=False)
            failed = 1
            continue
        seconds = time.perf_counter() - began
        report.print(console)
        console.print(f"{name}: {seconds:.0f} s\n", style="dim", highlight=False)
        if options.out is not None:
            append_rows(options.out / "benchmarks.jsonl", report.rows, seconds, options.device)
    return failed


def _check_device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.device == "cpu":
        return
    without = [name for name in options.names if name not in ON_A_GPU]
    if without:
        parser.error(f"--device cuda: expected names among {', '.join(ON_A_GPU)}, got {', '.join(without)}: CPU alone")
    if not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Timings as ratios to a twin, in one run. Without a name, all of them.",
        epilog="example: python -m benchmarks layers --quick --out runs/bench; see also: python -m benchmarks mutants",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="under a minute: no compilation, fewer cases and rounds")
    parser.add_argument(
        "--threads",
        type=_positive,
        action="append",
        metavar="N",
        help="of layers and networks; may be given again (1 and 2); where other work runs, trust 1 alone",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help=f"cuda: the GPU, for {', '.join(ON_A_GPU)}, which are then what runs without a name",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="append JSON lines to DIR/benchmarks.jsonl")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
