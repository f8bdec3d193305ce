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
from softeq.experiments.cli_calculator import audit_calculator

try:
    import typer
except ImportError:  # `experiments.cli.main` says which extra is missing
    typer = None  # type: ignore[assignment]


def _option(panel: str, words: str) -> Any:
    """An option under a heading of the help; nothing where typer is not installed."""
    return typer.Option(help=words, rich_help_panel=panel) if typer is not None else None


EXAMPLE = "softeq audit tf_efficientnet_lite0 resnet50 --images demo --flows rotation,translation_x --layerwise"


IMAGES, WEIGHTS, MEASURE, ATOMS = "Images", "The network", "What is measured", "Interatomic potentials"


def audit(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="timm names, packaged models (softeq list --models), or module:factory.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str,
        _option(
            IMAGES, "demo (photographs that packages ship), noise, a folder, an image, or a list of images (.txt)."
        ),
    ] = "demo",
    limit: Annotated[int, _option(IMAGES, "Images at most.")] = 100,
    mean: Annotated[str | None, _option(IMAGES, "Per channel, as .485,.456,.406; the network's own if absent.")] = None,
    std: Annotated[str | None, _option(IMAGES, "Per channel, as .229,.224,.225; the network's own if absent.")] = None,
    size: Annotated[str | None, _option(IMAGES, "Pixels of the network's input, as 224 or 192x256 (H x W).")] = None,
    crop: Annotated[
        float | None, _option(IMAGES, "The share of the image's shorter side that the input shows.")
    ] = None,
    weights: Annotated[
        str | None,
        _option(WEIGHTS, "pretrained, random, packaged, or a file; packaged where there are, else pretrained."),
    ] = None,
    weights_key: Annotated[
        str | None,
        _option(WEIGHTS, "The part of the file to take, as state_dict_ema; averaged weights first if absent."),
    ] = None,
    image_size: Annotated[int | None, _option(WEIGHTS, "Build a timm model for that size.")] = None,
    num_classes: Annotated[int | None, _option(WEIGHTS, "Build a timm model for so many; 0: without its head.")] = None,
    output: Annotated[
        str,
        _option(MEASURE, "probabilities, logits or vector (should not move); map or tokens (should move along)."),
    ] = "probabilities",
    pick: Annotated[
        str | None, _option(MEASURE, "Of a network that returns several things one: a key, attribute or index.")
    ] = None,
    flows: Annotated[
        str | None,
        _option(
            MEASURE,
            "Some flows, as a,b; the nine affine ones if absent; also brightness, exposure, contrast, saturation, hue.",
        ),
    ] = None,
    norm: Annotated[str, _option(MEASURE, "Of the headline numbers; all norms are recorded.")] = "mean_square",
    control: Annotated[
        str,
        _option(MEASURE, "What the error is held against: samples (motions of other images), phase, noise, or auto."),
    ] = "auto",
    layerwise: Annotated[
        bool, typer.Option("--layerwise", help="Also split the error over the modules.", rich_help_panel=MEASURE)
    ] = False,
    stencil: Annotated[str, _option(MEASURE, "bspline, fourier, central or reference.")] = "bspline",
    boundary: Annotated[str, _option(MEASURE, "How images go on beyond their edge: mirror or periodic.")] = "mirror",
    margin: Annotated[int, _option(MEASURE, "Pixels at the edge that do not move.")] = 0,
    calculator: Annotated[
        str | None, _option(ATOMS, "An ase calculator as module:factory in the networks' place, with --atoms.")
    ] = None,
    atoms: Annotated[str | None, _option(ATOMS, "A file of structures that ase reads.")] = None,
    structures: Annotated[int, _option(ATOMS, "Structures of the file at most.")] = 5,
    steps: Annotated[int, _option(ATOMS, "Of the run at constant energy; 0 for none.")] = 400,
    temperature: Annotated[float, _option(ATOMS, "Kelvin, of that run and of kT.")] = 300.0,
    energy_error: Annotated[
        float | None, _option(ATOMS, "The model's own test error to compare with, meV per atom; kT if absent.")
    ] = None,
    force_error: Annotated[float | None, _option(ATOMS, "Likewise, meV/Å; kT per Å if absent.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16.")] = "float32",
    batch_size: Annotated[str, typer.Option(help="Images at once; auto halves on out-of-memory.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of random weights, noise, the control and the intervals.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder of audit.jsonl, audit.csv and audit.html.")] = Path("runs"),
) -> None:
    """Measure the symmetry that networks have learned; the same command resumes."""
    models = models or []
    if calculator is not None or atoms is not None:
        return audit_calculator(
            *(calculator, atoms, models, out),
            structures=structures,
            steps=steps,
            temperature=temperature,
            energy_error=energy_error,
            force_error=force_error,
            seed=seed,
        )
    if not models:
        raise SofteqValueError("models: expected MODEL..., or --calculator with --atoms, got none; see --help")
    from softeq.experiments.audit.settings import Settings
    from softeq.measure.motion.flows import FLOWS

    settings = Settings(
        images=images,
        limit=limit,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        size=_size(size),
        crop=crop,
        weights=weights,
        weights_key=weights_key,
        image_size=image_size,
        num_classes=num_classes,
        output=output,
        pick=pick,
        flows=tuple(FLOWS) if flows is None else tuple(n for part in flows.split(",") if (n := part.strip())),
        norm=norm,
        control=control,
        layerwise=layerwise,
        stencil=stencil,
        boundary=boundary,
        margin=margin,
        device=device,
        dtype=dtype,
        batch_size=_batch_size(batch_size),
        seed=seed,
    )
    _audited(list(dict.fromkeys(models)), settings, out)


def _audited(names: list[str], settings: Any, out: Path) -> None:
    """Run the audit, write the report, and say on the terminal what came of it."""
    from softeq.experiments.audit import run as work

    # torch's own, on the first use of forward mode; nothing that a user could do anything about
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
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
            if event.kind == "done" and event.reason:
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
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return words


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SofteqValueError(f"{name}: expected numbers, as .485,.456,.406, got {text[:200]!r}") from error


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise SofteqValueError(f"size: expected pixels, as 224 or 192x256 (H x W), got {text[:200]!r}")
    return int(parts[0]), int(parts[-1])


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or len(text) > 18:
        raise SofteqValueError(f"batch-size: expected a number or auto, got {text[:200]!r}")
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
