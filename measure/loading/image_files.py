"""Which files an audit reads: the photographs that packages ship, folders, lists; with their labels."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

from softeq.errors import MissingExtraError, SofteqError

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LISTS = (".txt", ".lst", ".csv", ".tsv")
_MOST_LINES = 1_000_000
_IMAGENET = 1000
# Photographs among scikit-image's samples: no drawings, no textures, no microscopy.
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png")

File = tuple[Path, str, int]
"""Path, name, label or -1."""


def demo_files(classes: int | None) -> list[File]:
    """The photographs that packages ship; labelled for a model of ImageNet's 1000 classes where they are ImageNet's."""
    shipped = _data_folder("foolbox")
    files = []
    for path in sorted(shipped.glob("imagenet_*_*")):
        found = re.fullmatch(r"imagenet_(\d+)_(\d+)", path.stem)
        if found:
            files.append((path, path.name, int(found[2]) if classes == _IMAGENET else -1))
    samples = _data_folder("skimage")
    return files + [(samples / name, name, -1) for name in _PHOTOGRAPHS if (samples / name).exists()]


def _data_folder(package: str) -> Path:
    """The folder ``data`` of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    folders = [Path(p) / "data" for p in (found.submodule_search_locations or [])] if found is not None else []
    if not any(folder.is_dir() for folder in folders):
        raise MissingExtraError(f"the demo images come with {package}: pip install 'softeq[audit]'")
    return next(folder for folder in folders if folder.is_dir())


def listed(source: Path, classes: int | None) -> list[File]:
    """The images of a folder (and of one folder per class in it), of a list, or the one image that is named.

    A list is a text file with an image a line, relative to its folder or absolute, and after a tab or comma a class
    index where it is known; empty lines and those that begin with ``#`` are left out.

    Raises:
        SofteqError: nothing is there, it cannot be read, or it holds no image.
    """
    try:
        if source.is_dir():
            files = _in_folder(source, classes)
        elif source.is_file():
            files = _in_list(source, classes) if source.suffix.lower() in _LISTS else [(source, shown(source.name), -1)]
        else:
            raise SofteqError(
                f"images: expected demo, noise, a folder, an image or a list of images, got {shown(str(source))!r},"
                " which is none"
            )
    except OSError as error:
        place = shown(str(error.filename or source))
        raise SofteqError(f"images: cannot read {place}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a null character
        raise SofteqError(f"images: {shown(str(source))!r} is no name of a file: {error}") from error
    if not files:
        raise SofteqError(f"images: {source} holds no image ({', '.join(SUFFIXES)}), nor do folders in it")
    return files


def shown(name: str) -> str:
    """A file's name as text that can be written; bytes that are no UTF-8 as ``\\udc..``; at most 200 characters."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def _in_folder(folder: Path, classes: int | None) -> list[File]:
    files = [(path, shown(path.name), -1) for path in _images(folder)]
    groups = _groups(folder)
    for group, label in zip(groups, _labels([group.name for group in groups], classes), strict=True):
        files += [(path, shown(f"{group.name}/{path.name}"), label) for path in _images(group)]
    return files


def _groups(folder: Path) -> list[Path]:
    """Class folders, those without images too: the classes after them keep their numbers."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def label_rule(source: Path, classes: int | None) -> str | None:
    """What was assumed of a folder's class folders, or why they give no labels; None where nothing is to be told."""
    names = [group.name for group in _groups(source)] if source.is_dir() else []
    if not names or classes is None:
        return None
    if max(_labels(names, classes)) < 0:
        some = ", ".join([shown(name) for name in names[:3]] + ["..."] * (len(names) > 3))
        return f"labels: none, as the folders ({some}) do not say which of the {classes} classes they are"
    if any(all(re.fullmatch(kind, name) for name in names) for kind in (r"n\d{8}", r"\d+")):
        return None
    return "labels: the folders are the classes in alphabetical order"


def _in_list(path: Path, classes: int | None) -> list[File]:
    files = []
    for number, line in enumerate(path.read_text("utf-8", "surrogateescape").splitlines(), 1):
        if number > _MOST_LINES:
            raise SofteqError(f"images: {path} has more than {_MOST_LINES:,} lines")
        if not line.strip() or line.startswith("#"):
            continue
        name, *label = re.split(r"[\t,]", line.strip()) if not (path.parent / line.strip()).exists() else [line.strip()]
        known = label[0].strip() if label else ""
        index = int(known) if known.isdecimal() and len(known) < 10 else -1
        files.append((path.parent / name.strip(), shown(name.strip()), index if index < (classes or 0) else -1))
    return files


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def _labels(names: list[str], classes: int | None) -> list[int]:
    """Class indices of class folders, -1 for what is no class of the model."""
    if classes is None:
        return [-1] * len(names)
    if all(re.fullmatch(r"n\d{8}", name) for name in names):
        order = {name: i for i, name in enumerate(_synsets(classes))}
        return [order.get(name, -1) for name in names]
    if all(name.isdecimal() for name in names):
        return [int(name) if int(name) < classes else -1 for name in names]
    return list(range(len(names))) if len(names) == classes else [-1] * len(names)


def _synsets(classes: int) -> list[str]:
    """The synset names of the classes, in order; none where no list of ImageNet's has as many."""
    try:
        from timm.data import ImageNetInfo, infer_imagenet_subset
    except ImportError as error:
        raise MissingExtraError("ImageNet's class folders need timm: pip install 'softeq[timm]'") from error
    subset = infer_imagenet_subset({"num_classes": classes})
    return [] if subset is None else list(ImageNetInfo(subset).label_names())


def drawn(files: list[File], limit: int, seed: int) -> list[File]:
    """At most ``limit`` of the files, drawn with the seed, in their order."""
    if len(files) <= limit:
        return files
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))
    return [files[i] for i in sorted(order[:limit].tolist())]
