"""Pictures for an audit: photographs that packages ship, folders, noise; prepared as the model wants them."""

from __future__ import annotations

import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError

if TYPE_CHECKING:
    from PIL.Image import Image

    from measure.sources import Model

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MOST_PIXELS = 100_000_000
_NOISE = 16
_IMAGENET = 1000
# Photographs among scikit-image's samples: no drawings, no textures, no microscopy.
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png")


@dataclass(frozen=True)
class Images:
    """Pictures ready for a model.

    Attributes:
        x: ``(N, 3, H, W)`` in float32, normalised.
        labels: ``(N,)``, class indices of the model, -1 where a picture has none; ``None`` where none has one.
        names: per picture.
        skipped: what was left out, with the reason.
    """

    x: Tensor
    labels: Tensor | None
    names: list[str]
    skipped: list[tuple[str, str]]


def load_images(source: str | Path, *, model: Model, limit: int = 100, seed: int = 0) -> Images:
    """Pictures from a source, prepared as the model's data configuration says.

    Args:
        source: ``"demo"`` (ImageNet pictures that foolbox ships, labelled, then scikit-image's photographs, without),
            ``"noise"`` (16 of white noise, clipped to [0, 1]) or a folder: pictures in it, or in one folder per class.
            Folders named by ImageNet synsets (``n01440764``) or class indices give labels for a model of 1000 classes;
            other class folders are numbered in alphabetical order if the model has as many classes.
        model: whose size, mean, standard deviation and interpolation apply.
        limit: at most so many; from a folder with more, drawn with the seed.
        seed: of that choice and of the noise.

    Raises:
        MissingExtraError: a package is not installed.
        SofteqError: an absent or empty folder, or none of its files can be read; each file's reason is listed.
        SofteqValueError: a limit below 1.
    """
    if limit < 1:
        raise SofteqValueError(f"limit: expected at least 1 picture, got {limit}")
    if str(source) == "noise":
        return _noise(model, min(limit, _NOISE), seed)
    files = _demo() if str(source) == "demo" else _folder(Path(source), model.classes)
    chosen = _drawn(files, limit, seed) if str(source) != "demo" else files[:limit]
    pictures, labels, names, skipped = [], [], [], []
    for path, name, label in chosen:
        try:
            pictures.append(prepare(read_picture(path), model))
        except SofteqError as error:
            skipped.append((name, str(error)))
            continue
        labels.append(label if model.classes is None or label < model.classes else -1)
        names.append(name)
    if not pictures:
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise SofteqError(f"images: none of the {len(chosen)} files in {source} can be used: {first}")
    known = torch.tensor(labels)
    return Images(torch.stack(pictures), known if bool((known >= 0).any()) else None, names, skipped)


File = tuple[Path, str, int]
"""Path, name, label or -1."""


def _demo() -> list[File]:
    shipped = _data_folder("foolbox")
    files = []
    for path in sorted(shipped.glob("imagenet_*_*")):
        found = re.fullmatch(r"imagenet_(\d+)_(\d+)", path.stem)
        if found:
            files.append((path, path.name, int(found[2])))
    samples = _data_folder("skimage")
    return files + [(samples / name, name, -1) for name in _PHOTOGRAPHS if (samples / name).exists()]


def _data_folder(package: str) -> Path:
    """The folder ``data`` of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    folders = [Path(p) / "data" for p in (found.submodule_search_locations or [])] if found is not None else []
    if not any(folder.is_dir() for folder in folders):
        raise MissingExtraError(f"the demo pictures come with {package}: pip install 'softeq[audit]'")
    return next(folder for folder in folders if folder.is_dir())


def _folder(folder: Path, classes: int | None) -> list[File]:
    if not folder.is_dir():
        raise SofteqError(f"images: expected demo, noise or a folder, got {str(folder)!r}, which is none")
    groups = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _pictures(entry))
    if groups:
        labels = _labels([group.name for group in groups], classes)
        files = [
            (p, f"{g.name}/{p.name}", label) for g, label in zip(groups, labels, strict=True) for p in _pictures(g)
        ]
    else:
        files = [(path, path.name, -1) for path in _pictures(folder)]
    if not files:
        raise SofteqError(f"images: {folder} holds no picture ({', '.join(SUFFIXES)}), nor do folders in it")
    return files


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def _labels(names: list[str], classes: int | None) -> list[int]:
    """Class indices of class folders, -1 for what is no class of the model."""
    if classes is None:
        return [-1] * len(names)
    if classes == _IMAGENET and all(re.fullmatch(r"n\d{8}", name) for name in names):
        order = {name: i for i, name in enumerate(_synsets())}
        return [order.get(name, -1) for name in names]
    if all(name.isdecimal() for name in names):
        return [int(name) if int(name) < classes else -1 for name in names]
    return list(range(len(names))) if len(names) == classes else [-1] * len(names)


def _synsets() -> list[str]:
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise MissingExtraError("ImageNet's class folders need timm: pip install 'softeq[timm]'") from error
    return list(ImageNetInfo().label_names())


def _drawn(files: list[File], limit: int, seed: int) -> list[File]:
    if len(files) <= limit:
        return files
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))
    return [files[i] for i in sorted(order[:limit].tolist())]


def read_picture(path: str | Path) -> Image:
    """A file as an RGB picture, upright; transparency on white, grey as equal channels, 16 bits scaled to 8.

    Raises:
        SofteqError: it cannot be read, is cut off, has an edge below 2 pixels, or more than 100 million pixels.
        MissingExtraError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("reading pictures needs pillow: pip install 'softeq[timm]'") from error
    try:
        with warnings.catch_warnings(), Image.open(path) as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = file.size
            if min(width, height) < 2:
                raise SofteqError(f"expected at least 2 x 2 pixels, got {width} x {height}")
            if width * height > _MOST_PIXELS:
                raise SofteqError(f"expected at most {_MOST_PIXELS:,} pixels, got {width} x {height}; scale it down")
            file.load()
            upright = ImageOps.exif_transpose(file)
            return _rgb(upright if upright is not None else file)
    except Image.DecompressionBombError as error:
        raise SofteqError(f"expected at most {_MOST_PIXELS:,} pixels; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what pillow raises for broken files
        raise SofteqError(f"not a readable picture: {error}") from error


def _rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        import numpy

        values = numpy.asarray(picture).astype(numpy.float64)
        if not numpy.isfinite(values).all():
            raise SofteqError("it has NaN or infinite pixels")
        top = 65535.0 if picture.mode != "F" else max(float(values.max()), 1e-12)
        picture = Image.fromarray((values.clip(0, top) / top * 255).round().astype(numpy.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def prepare(picture: Image, model: Model) -> Tensor:
    """Resized, cropped around the centre and normalised: ``(3, H, W)`` in float32.

    The shorter side, over the crop share, is brought to the input's; a picture of other proportions loses its ends.
    """
    from PIL import Image

    filters: dict[str, Any] = {
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "nearest": Image.Resampling.NEAREST,
        "lanczos": Image.Resampling.LANCZOS,
    }
    height, width = model.image_size
    scale = max(width / picture.width, height / picture.height) / model.crop
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    resized = picture.resize(size, filters.get(model.interpolation, Image.Resampling.BICUBIC))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    cropped = resized.crop((left, top, left + width, top + height))
    pixels = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return _normalised(pixels.permute(2, 0, 1).float() / 255, model)


def _normalised(x: Tensor, model: Model) -> Tensor:
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (model.mean, model.std))
    return (x - mean) / std


def _noise(model: Model, count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    channels = len(model.mean)
    x = (0.5 + 0.25 * torch.randn(count, channels, *model.image_size, generator=generator)).clamp(0, 1)
    return Images(_normalised(x, model), None, [f"noise {i}" for i in range(count)], [])


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The share of labelled pictures whose predicted class is right.

    Args:
        predictions: ``(N,)`` class indices.
        labels: ``(N,)``, -1 where there is none.

    Raises:
        SofteqValueError: none is labelled.
    """
    known = labels >= 0
    if not bool(known.any()):
        raise SofteqValueError("labels: expected at least one that is not -1")
    return float((predictions[known] == labels[known]).double().mean())
