"""The command ``softeq audit``, and what ``softeq list --models`` prints."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

from softeq.errors import SofteqValueError
from softeq.experiments import cli_audit_options as options
from softeq.experiments.cli_calculator import audit_calculator

try:
    import typer
except ImportError:  # `experiments.cli.main` says which extra is missing
    typer = None  # type: ignore[assignment]


EXAMPLE = "softeq audit tf_efficientnet_lite0 resnet50 --images demo --flows rotation,translation_x --layerwise"


def audit(
    models: options.Models = None,
    images: options.Images = "demo",
    limit: options.Limit = 100,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    crop: options.Crop = None,
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = None,
    output: options.Output = "probabilities",
    pick: options.Pick = None,
    flows: options.Flows = None,
    norm: options.Norm = "mean_square",
    control: options.Control = "auto",
    layerwise: options.Layerwise = False,
    stencil: options.Stencil = "bspline",
    boundary: options.Boundary = "mirror",
    margin: options.Margin = 0,
    calculator: options.Calculator = None,
    atoms: options.Atoms = None,
    structures: options.Structures = 5,
    steps: options.Steps = 400,
    temperature: options.Temperature = 300.0,
    energy_error: options.EnergyError = None,
    force_error: options.ForceError = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    batch_size: options.BatchSize = "auto",
    seed: options.Seed = 0,
    out: options.Out = Path("runs"),
) -> None:
    """Measure the symmetry that networks have learned; the same command resumes."""
    models = models or []
    if calculator is not None or atoms is not None:
        run: Any = {"structures": structures, "steps": steps, "temperature": temperature, "seed": seed}
        errors: Any = {"energy_error": energy_error, "force_error": force_error}
        return audit_calculator(calculator, atoms, models, out, **run, **errors)
    if not models:
        raise SofteqValueError("models: expected MODEL..., or --calculator with --atoms, got none; see --help")
    from softeq.experiments.audit.settings import Settings

    # As the help has them under its headings.
    shown: Any = {"mean": _numbers("mean", mean), "std": _numbers("std", std), "size": _size(size), "crop": crop}
    built: Any = {"weights_key": weights_key, "image_size": image_size, "num_classes": num_classes}
    asked: Any = {"output": output, "pick": pick, "norm": norm, "control": control, "layerwise": layerwise}
    moved: Any = {"flows": _flows(flows), "stencil": stencil, "boundary": boundary, "margin": margin}
    computed: Any = {"device": device, "dtype": dtype, "batch_size": _batch_size(batch_size), "seed": seed}
    settings = Settings(images=images, limit=limit, weights=weights, **shown, **built, **asked, **moved, **computed)
    _audited(list(dict.fromkeys(models)), settings, out)


def _flows(text: str | None) -> tuple[str, ...]:
    from softeq.measure.motion.flows import FLOWS

    return tuple(FLOWS) if text is None else tuple(name for part in text.split(",") if (name := part.strip()))


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
