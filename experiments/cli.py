"""The console script ``softeq``: ``run``, ``table``, ``plot``, ``audit``, ``list``.

A user's mistake gives one line on stderr and exit code 2, Ctrl-C exit code 130; whatever else raises is a defect.
"""

from __future__ import annotations

import functools
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from softeq.errors import SofteqError, SofteqWarning
from softeq.experiments import cli_audit, cli_data, cli_list
from softeq.experiments.engine import provenance, record, registry, work
from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.show import plots, render, tables

try:
    import rich  # noqa: F401  # typer's help and our bars need it
    import typer
except ImportError:  # the core alone: `main` says which extra is missing
    typer = None  # type: ignore[assignment]

DEFAULT_OUT = "runs"
RESULTS = "results"
_SHOWN = "The largest that there are records of, under the latest protocol if any are, if absent."


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the console script; the exit code. ``argv`` is the command line without the program's name."""
    for stream in (sys.stdout, sys.stderr):  # names of files may have bytes that are no text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if typer is None:
        _fail("the command line needs typer and rich: pip install 'softeq[experiments]'")
        return 2
    try:
        code = build_app()(args=argv, prog_name="softeq", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        # typer carries click inside itself from some version on: its usage errors are known by what they offer.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        came = shlex.join(["softeq", *(sys.argv[1:] if argv is None else argv)])
        asked = context.command_path if context else "softeq"
        said = _cut(error.format_message().rstrip("."))
        _fail(f"{said}; got `{_cut(came)}`, see `{asked} --help`")
        return 2
    return code if isinstance(code, int) else 0


def build_app() -> Any:
    """The typer application; needs the extra ``experiments``."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Soft and hard equivariance, trained and compared.",
        epilog="Example: softeq run modified-inertia --preset smoke",
    )
    app.callback(invoke_without_command=True)(_root)
    for name, command, example in (
        ("run", run, "softeq run modified-inertia --preset default --seeds 3 --variants hard,soft --workers 2"),
        ("table", table, "softeq table modified-inertia --preset paper --format latex"),
        ("plot", plot, "softeq plot modified-inertia --file inertia.pdf"),
        ("audit", cli_audit.audit, cli_audit.EXAMPLE),
        ("data", cli_data.data, cli_data.EXAMPLE),
        ("list", cli_list.list_experiments, "softeq list --models"),
    ):
        app.command(name, epilog=f"Example: {example}")(_one_line(command))
    return app


def _one_line(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with a user's mistake as one line and exit code 2, warnings as one line each, Ctrl-C as 130."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("default", SofteqWarning)
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            try:
                command(*args, **kwargs)
            except SofteqError as error:
                _fail(str(error))
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                raise typer.Exit(130) from None

    return guarded


def _fail(message: str) -> None:
    sys.stderr.write(f"softeq: {' '.join(message.split())}\n")


def _cut(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:300]}... ({len(text)} characters)"


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, SofteqWarning):
        _fail(f"warning: {message}")
    else:
        others(message, category, *place)


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"softeq {provenance.softeq_version()}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(
    experiment: Annotated[str, typer.Argument(help="A name that `softeq list` shows.", show_default=False)],
    preset: Annotated[
        str, typer.Option(help="How large: smoke (to see it run), default, or paper (hours to days).")
    ] = "default",
    seeds: Annotated[int | None, typer.Option(help="Run the seeds 0 .. N - 1; the preset's number if absent.")] = None,
    variants: Annotated[str | None, typer.Option(help="Some variants, as a,b; all if absent.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the records.")] = Path(DEFAULT_OUT),
    jobs: Annotated[
        int, typer.Option("--workers", "--jobs", help="Worker processes, which share torch's threads.")
    ] = 1,
    engine: Annotated[
        str, typer.Option(help="local, or ray: Ray's workers, here or where RAY_ADDRESS says.")
    ] = "local",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; the preset's own if absent: a GPU for paper where there is one.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile training steps: faster where they are small, rounded differently."),
    ] = False,
) -> None:
    """Train the variants that --out does not hold yet and record each; the same command resumes."""
    from softeq.experiments.engine import runner
    from softeq.experiments.show.display import Tally, display

    chosen = registry.get(experiment)
    names = None if variants is None else [name for part in variants.split(",") if (name := part.strip())]
    plan = runner.plan(chosen, preset, seeds=seeds, variants=names, device=device, compiled=compiled)
    tally = Tally(chosen, len(plan))
    path = record.record_path(out, chosen.name)
    try:
        with display(tally) as on_event:
            where: Any = {"jobs": jobs, "engine": engine, "device": device, "compiled": compiled}
            runner.run_experiment(chosen, preset, out=out, seeds=seeds, variants=names, on_event=on_event, **where)
    except KeyboardInterrupt:
        same = {"seeds": seeds, "variants": variants, "jobs": jobs, "engine": engine, "device": device}
        again = shlex.join([*_command("run", chosen.name, preset, out, **same), *["--compile"] * compiled])
        # The file knows better than the tally: a run may have been recorded and not yet been told of.
        held = work.recorded(chosen, preset, out, warn=False)
        done = sum(job.key in held for job in plan)
        _fail(f"interrupted; {done} of {tally.total} runs are in {path}; resume with: {again}")
        raise
    typer.echo(f"{tally.total} runs recorded in {path}, {tally.fresh} of them now; the table:")
    typer.echo(shlex.join(_command("table", chosen.name, preset, out)))


def _command(verb: str, name: str, preset: str, out: Path, **options: Any) -> list[str]:
    """A command line that does the same again; options at their defaults are left out."""
    given = [(k, v) for k, v in options.items() if v is not None and (k, v) not in (("jobs", 1), ("engine", "local"))]
    words = [word for key, value in given for word in (f"--{key}", str(value))]
    return ["softeq", verb, name, "--preset", preset, *words, "--out", str(out)]


def table(
    experiment: Annotated[str, typer.Argument(help="A name that `softeq list` shows.", show_default=False)],
    preset: Annotated[str | None, typer.Option(help=_SHOWN)] = None,
    format: Annotated[str, typer.Option(help="md, csv or latex.")] = "md",
    out: Annotated[Path | None, typer.Option(help="The folder of the records; runs, else results, if absent.")] = None,
) -> None:
    """Print mean ± std (n) per variant, beside the published numbers where there are any."""
    if format not in render.FORMATS:
        raise registry.unknown("format", format, render.FORMATS)
    chosen = registry.get(experiment)
    records, folder, shown, remark = _find(chosen, preset, out)
    built = tables.build(records, chosen, shown, source=str(folder), remark=remark)
    typer.echo(render.render(built, format), nl=False)


def plot(
    experiment: Annotated[str, typer.Argument(help="A name that `softeq list` shows.", show_default=False)],
    preset: Annotated[str | None, typer.Option(help=_SHOWN)] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the records; runs, else results, if absent.")] = None,
    file: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg; OUT/EXPERIMENT.png if absent.")] = None,
) -> None:
    """Draw the experiment's figure from its records."""
    chosen = registry.get(experiment)
    records, folder, shown, remark = _find(chosen, preset, out)
    # The records behind the README are not a place for what anybody can draw again.
    home = Path(DEFAULT_OUT) if folder == Path(RESULTS) else folder
    path = file or home / f"{chosen.name}.png"
    if chosen.plot is None:
        plots.plot_experiment(records, chosen, path, shown)
    else:
        chosen.plot(records, path)
    typer.echo(f"{path}: preset {shown}, {len(records)} records from {folder}" + (f"; {remark}" if remark else ""))


def _find(chosen: Experiment, preset: str | None, out: Path | None) -> tuple[list[record.Record], Path, str, str]:
    """The records of the preset to show, the folder they are in, the preset, and how it was chosen, if it was."""
    if preset is not None and preset not in chosen.presets:
        raise registry.unknown("preset", preset, chosen.presets)
    folders = [Path(DEFAULT_OUT), Path(RESULTS)] if out is None else [out]
    seen = []
    for folder in folders:
        records = tables.select(record.read(record.record_path(folder, chosen.name)), chosen.name)
        held = {r["preset"] for r in records}
        seen += [f"{name} in {folder}" for name in sorted(held)]
        if preset in held or (preset is None and held):
            shown = tables.choose_preset(records, preset)
            others = ", ".join(sorted(held - {shown}))
            which = "there" if shown == tables.largest(held) else "under the latest protocol"
            remark = f"the largest preset {which}, beside {others}" if preset is None and others else ""
            return [r for r in records if r["preset"] == shown], folder, shown, remark
    places = " or ".join(str(folder) for folder in folders)
    what = f"{chosen.name}, preset {preset}," if preset else chosen.name
    hint = f" --preset {preset}" if preset else ""
    there = f" (there are records of {', '.join(seen)})" if seen else ""
    raise SofteqError(
        f"no records of {what} in {places}{there}: make some with `softeq run {chosen.name}{hint}`,"
        " or name another --out"
    )


if __name__ == "__main__":
    sys.exit(main())
