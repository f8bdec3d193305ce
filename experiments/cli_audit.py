"""The command ``softeq audit``, and what ``softeq list --models`` prints."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

from softeq.errors import SofteqValueError

try:
    import typer
except ImportError:  # `experiments.cli.main` says which extra is missing
    typer = None  # type: ignore[assignment]

EXAMPLE = "softeq audit tf_efficientnet_lite0 resnet50 --images demo --flows rotation,translation_x --layerwise"


def audit(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="timm names, packaged models (softeq list --models), or module:factory."
        ),
    ],
    images: Annotated[str, typer.Option(help="demo (photographs that packages ship), noise, or a folder.")] = "demo",
    weights: Annotated[
        str | None,
        typer.Option(help="pretrained, random, packaged, or a file; packaged where there are, else pretrained."),
    ] = None,
    flows: Annotated[str | None, typer.Option(help="Some flows, as a,b; all nine if absent.")] = None,
    norm: Annotated[
        str, typer.Option(help="mean_square, mean_abs or relative; all three are recorded.")
    ] = "mean_square",
    output: Annotated[str, typer.Option(help="probabilities or logits, taken as invariant.")] = "probabilities",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16.")] = "float32",
    batch_size: Annotated[str, typer.Option(help="Images at once; auto halves on out-of-memory.")] = "auto",
    limit: Annotated[int, typer.Option(help="Images at most.")] = 100,
    stencil: Annotated[str, typer.Option(help="bspline, fourier, central or reference.")] = "bspline",
    boundary: Annotated[str, typer.Option(help="How images go on beyond their edge: mirror or periodic.")] = "mirror",
    margin: Annotated[int, typer.Option(help="Pixels at the edge that do not move.")] = 0,
    layerwise: Annotated[bool, typer.Option("--layerwise", help="Also split the error over the modules.")] = False,
    seed: Annotated[int, typer.Option(help="Of random weights, noise, the control and the intervals.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder of audit.jsonl, audit.csv and audit.html.")] = Path("runs"),
) -> None:
    """Measure the symmetry that networks have learned; the same command resumes."""
    from softeq.experiments.audit import run as work
    from softeq.experiments.audit.settings import Settings
    from softeq.measure.motion.flows import FLOWS

    settings = Settings(
        images=images,
        weights=weights,
        flows=tuple(FLOWS) if flows is None else tuple(n for part in flows.split(",") if (n := part.strip())),
        norm=norm,
        output=output,
        device=device,
        dtype=dtype,
        batch_size=_batch_size(batch_size),
        limit=limit,
        stencil=stencil,
        boundary=boundary,
        margin=margin,
        layerwise=layerwise,
        seed=seed,
    )
    # torch's own, on the first use of forward mode; nothing that a user could do anything about
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    names = list(dict.fromkeys(models))
    if any(":" in name for name in names) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where a user's own module:factory is looked for first
    try:
        outcome = _shown(names, settings, out)
    except KeyboardInterrupt:
        _interrupted(names, settings, out)
        raise
    if outcome.exit_code == 2:
        if len(outcome.failures) > 1:
            _fail(f"none of the {len(names)} models could be loaded")
        raise typer.Exit(2)
    table, page = work.report(out, outcome.failures)
    total = len(outcome.recorded) + len(outcome.held)
    path = out / "audit.jsonl"
    held = f"{total} record{'s' * (total != 1)}"
    typer.echo(f"{held} in {path}, {len(outcome.recorded)} of them now; {table}; open {page}")
    if outcome.exit_code:
        lost = outcome.failed_models
        _fail(f"{len(lost)} of {len(names)} models failed or could not be measured: {', '.join(lost)}; see {page}")
        raise typer.Exit(outcome.exit_code)


def _shown(names: list[str], settings: Any, out: Path) -> Any:
    """Run the audit with progress on the terminal, failures as they happen on stderr; its outcome."""
    from softeq.experiments.audit.run import AuditEvent, run_audit
    from softeq.experiments.audit.tally import AuditTally
    from softeq.experiments.show.display import display

    tally = AuditTally(len(names), settings.norm, bars=sys.stderr.isatty())
    with display(tally) as show:

        def on_event(event: AuditEvent) -> None:
            show(event)
            if event.reason:
                _fail(f"{event.model}: {event.reason}")

        return run_audit(names, settings, out, on_event)


def _interrupted(names: list[str], settings: Any, out: Path) -> None:
    from softeq.experiments.audit import run as work
    from softeq.experiments.engine import record

    path = record.record_path(out, work.EXPERIMENT)
    held = len(record.read(path, warn=False))
    if held:
        work.report(out)
    again = shlex.join(["softeq", "audit", *names, *_options(settings), "--out", str(out)])
    _fail(f"interrupted; {path} holds {held} records; resume with: {again}")


def _options(settings: Any) -> list[str]:
    """The options that are not at their defaults, as words of a command line."""
    words = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name.endswith("_images"):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words.append(",".join(value) if isinstance(value, tuple) else str(value))
    return words


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise SofteqValueError(f"batch-size: expected a number or auto, got {text!r}")
    return int(text)


def _fail(message: str) -> None:
    sys.stderr.write(f"softeq: {' '.join(message.split())}\n")


def list_models() -> None:
    """Print the packaged models and how to name others."""
    from softeq.measure.loading.sources import model_names

    for name, description in model_names().items():
        typer.echo(f"{name}\n    {description}")
    typer.echo(
        "any timm model\n    softeq audit resnet50; pretrained weights need a network, or --weights FILE or random"
    )
    typer.echo("any importable factory of an nn.Module\n    softeq audit package.module:factory")
