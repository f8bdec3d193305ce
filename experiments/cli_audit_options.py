"""The options of ``softeq audit``: their types and what the help says of them, under the help's headings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ImportError:  # `experiments.cli.main` says which extra is missing
    typer = None  # type: ignore[assignment]


def _argument(words: str) -> Any:
    """What stands on the command line without a name; nothing where typer is not installed."""
    return typer.Argument(metavar="MODEL...", help=words, show_default=False) if typer is not None else None


def _option(panel: str | None, words: str, *names: str) -> Any:
    """An option under a heading of the help; nothing where typer is not installed."""
    return typer.Option(*names, help=words, rich_help_panel=panel) if typer is not None else None


Models = Annotated[
    list[str] | None,
    _argument("timm names, packaged models (softeq list --models), or module:factory."),
]

_IMAGES = "Images"
Images = Annotated[
    str,
    _option(_IMAGES, "demo (photographs that packages ship), noise, a folder, an image, or a list of images (.txt)."),
]
Limit = Annotated[int, _option(_IMAGES, "Images at most.")]
Mean = Annotated[str | None, _option(_IMAGES, "Per channel, as .485,.456,.406; the network's own if absent.")]
Std = Annotated[str | None, _option(_IMAGES, "Per channel, as .229,.224,.225; the network's own if absent.")]
Size = Annotated[str | None, _option(_IMAGES, "Pixels of the network's input, as 224 or 192x256 (H x W).")]
Crop = Annotated[float | None, _option(_IMAGES, "The share of the image's shorter side that the input shows.")]

_WEIGHTS = "The network"
Weights = Annotated[
    str | None, _option(_WEIGHTS, "pretrained, random, packaged, or a file; packaged where there are, else pretrained.")
]
WeightsKey = Annotated[
    str | None, _option(_WEIGHTS, "The part of the file to take, as state_dict_ema; averaged weights first if absent.")
]
ImageSize = Annotated[int | None, _option(_WEIGHTS, "Build a timm model for that size.")]
NumClasses = Annotated[int | None, _option(_WEIGHTS, "Build a timm model for so many; 0: without its head.")]

_MEASURE = "What is measured"
Output = Annotated[
    str, _option(_MEASURE, "probabilities, logits or vector (should not move); map or tokens (should move along).")
]
Pick = Annotated[
    str | None, _option(_MEASURE, "Of a network that returns several things one: a key, attribute or index.")
]
Flows = Annotated[
    str | None,
    _option(
        _MEASURE,
        "Some flows, as a,b; the nine affine ones if absent; also brightness, exposure, contrast, saturation, hue.",
    ),
]
Norm = Annotated[str, _option(_MEASURE, "Of the headline numbers; all norms are recorded.")]
Control = Annotated[
    str,
    _option(_MEASURE, "What the error is held against: samples (motions of other images), phase, noise, or auto."),
]
Layerwise = Annotated[bool, _option(_MEASURE, "Also split the error over the modules.", "--layerwise")]
Stencil = Annotated[str, _option(_MEASURE, "bspline, fourier, central or reference.")]
Boundary = Annotated[str, _option(_MEASURE, "How images go on beyond their edge: mirror or periodic.")]
Margin = Annotated[int, _option(_MEASURE, "Pixels at the edge that do not move.")]

_ATOMS = "Interatomic potentials"
Calculator = Annotated[
    str | None, _option(_ATOMS, "An ase calculator as module:factory in the networks' place, with --atoms.")
]
Atoms = Annotated[str | None, _option(_ATOMS, "A file of structures that ase reads.")]
Structures = Annotated[int, _option(_ATOMS, "Structures of the file at most.")]
Steps = Annotated[int, _option(_ATOMS, "Of the run at constant energy; 0 for none.")]
Temperature = Annotated[float, _option(_ATOMS, "Kelvin, of that run and of kT.")]
EnergyError = Annotated[
    float | None, _option(_ATOMS, "The model's own test error to compare with, meV per atom; kT if absent.")
]
ForceError = Annotated[float | None, _option(_ATOMS, "Likewise, meV/Å; kT per Å if absent.")]

_OTHER = None  # the help's own heading, "Options"
Device = Annotated[str, _option(_OTHER, "auto, cpu or cuda.")]
Dtype = Annotated[str, _option(_OTHER, "float32, float64 or bfloat16.")]
BatchSize = Annotated[str, _option(_OTHER, "Images at once; auto halves on out-of-memory.")]
Seed = Annotated[int, _option(_OTHER, "Of random weights, noise, the control and the intervals.")]
Out = Annotated[Path, _option(_OTHER, "The folder of audit.jsonl, audit.csv and audit.html.")]
