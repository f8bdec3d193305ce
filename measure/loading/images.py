"""Images for an audit: photographs that packages ship, folders, noise; prepared as the model wants them."""

from __future__ import annotations

import math
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.measure.loading.image_files import demo_files, drawn, label_rule, listed

if TYPE_CHECKING:
    from PIL.Image import Image

    from softeq.measure.loading.sources import Model

_MOST_PIXELS = 100_000_000
# What Pillow's decoders raise for files that are broken in one way or another.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError),
    *(ZeroDivisionError, NotImplementedError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class Images:
    """Images ready for a model.

    Attributes:
        x: ``(N, C, H, W)`` in float32, normalised; C = 3, or 1 for a model of grey images.
        labels: ``(N,)``, class indices of the model, -1 where an image has none; ``None`` where none has one.
            See `accuracy`.
        names: per image.
        skipped: what was left out, with the reason.
        choices: what was assumed of the labels, in words.
    """

    x: Tensor
    labels: Tensor | None
    names: list[str]
    skipped: list[tuple[str, str]]
    choices: tuple[str, ...] = ()


def load_images(source: str | Path, *, model: Model, limit: int = 100, seed: int = 0) -> Images:
    """Images from a source, prepared as the model's data configuration says.

    Args:
        source: ``"demo"`` (20 ImageNet images that foolbox ships, labelled for a model of 1000 classes, then
            scikit-image's photographs, without labels), ``"noise"`` (white noise around grey with a standard deviation
            of 0.25, clipped to [0, 1]), an image, a list of images (see `image_files.listed`) or a folder: images in
            it, and in one folder per class.
            Class folders named by ImageNet synsets (``n01440764``) give labels for a model with as many classes as one
            of ImageNet's lists (1000 and up), those named by numbers are class indices, and others are numbered in
            alphabetical order if the model has as many classes.
        model: whose size, mean, standard deviation, interpolation, crop and number of classes apply.
        limit: at most so many; from a folder with more, drawn with the seed.
        seed: of that choice and of the noise.

    Raises:
        MissingExtraError: a package is not installed.
        SofteqValueError: a limit below 1, or a model of neither 1 nor 3 channels for images that are no noise.
        SofteqError: an absent or empty folder, none of its files can be read (each file's reason is listed), or there
            is no memory for so many.
    """
    if limit < 1:
        raise SofteqValueError(f"limit: expected at least 1 image, got {limit}")
    if str(source) == "noise":
        return _noise(model, limit, seed)
    _check_channels(model)
    rule = None
    if str(source) == "demo":
        chosen = demo_files(model.classes)[:limit]
    else:
        chosen = drawn(listed(Path(source), model.classes), limit, seed)
        rule = label_rule(Path(source), model.classes)
    _check_memory(len(chosen), model)
    images, labels, names, skipped = [], [], [], []
    for path, name, label in chosen:
        try:
            images.append(prepare(read_image(path), model))
        except SofteqError as error:
            skipped.append((name, str(error)))
            continue
        labels.append(label)
        names.append(name)
    if not images:
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise SofteqError(f"images: none of the {len(chosen)} files in {source} can be used: {first}")
    known = torch.tensor(labels)
    told = () if rule is None else (rule,)
    return Images(torch.stack(images), known if bool((known >= 0).any()) else None, names, skipped, told)


def _check_channels(model: Model) -> None:
    if len(model.mean) not in (1, 3):
        raise SofteqValueError(
            f"images: {model.name} takes {len(model.mean)} channels, and images have 1 or 3: measure it on noise, or"
            " in Python on tensors of your own"
        )


def _check_memory(count: int, model: Model) -> None:
    """Refuse more images than the machine can hold beside what it computes with them."""
    needed = 4 * count * len(model.mean) * math.prod(model.image_size)
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return
    if 2 * needed > there:
        raise SofteqError(
            f"images: {count:,} of {model.image_size[0]} x {model.image_size[1]} pixels need {needed / 2**30:.3g} GiB,"
            f" and this machine has {there / 2**30:.3g}: choose a smaller --limit"
        )


def read_image(path: str | Path) -> Image:
    """A file as an RGB image, upright; transparency on white, grey as equal channels, 16 bits scaled to 8.

    Of an animation the first frame. Floating pixels are taken as in [0, 1], or in [0, 255] if one is above 1.

    Raises:
        SofteqError: it cannot be read, is cut off, has an edge below 2 pixels, more than 100 million pixels, or NaN,
            infinite, negative or too large values.
        MissingExtraError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("reading images needs pillow: pip install 'softeq[timm]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Pillow warns is an error below, or harmless
            with Image.open(path) as file:
                _check_size(*file.size)
                file.load()
                return _rgb(ImageOps.exif_transpose(file))
    except Image.DecompressionBombError as error:
        raise SofteqError(f"expected at most {_MOST_PIXELS:,} pixels; scale it down") from error
    except SofteqError:  # some are ValueErrors too
        raise
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SofteqError(f"not a readable image: {reason}") from error


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 2:
        raise SofteqError(f"expected at least 2 x 2 pixels, got {width} x {height}")
    if width * height > _MOST_PIXELS:
        raise SofteqError(f"expected at most {_MOST_PIXELS:,} pixels, got {width} x {height}; scale it down")


def _rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise SofteqError("it has NaN or infinite pixels")
        top = 65535.0 if image.mode != "F" else 255.0 if values.max() > 1 else 1.0
        if values.min() < 0 or values.max() > top:
            raise SofteqError(f"expected pixels in [0, {top:g}], got [{values.min():g}, {values.max():g}]")
        image = Image.fromarray((values / top * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def prepare(image: Image, model: Model) -> Tensor:
    """Resized, cropped around the centre and normalised as timm does for evaluation: ``(C, H, W)`` in float32.

    With the crop mode "center" the input shows the middle of the image, whose shorter side over the crop share
    becomes the input's side; with "squash" both sides do so, and proportions are lost.

    Raises:
        SofteqValueError: an interpolation or crop mode that is unknown here, or a network of neither 1 nor 3 channels.
    """
    from PIL import Image

    _check_channels(model)
    filters = {name.lower(): value for name, value in Image.Resampling.__members__.items()}
    if model.interpolation not in filters:
        raise SofteqValueError(f"interpolation: expected one of {', '.join(filters)}, got {model.interpolation!r}")
    height, width = model.image_size
    columns, rows = _scaled(image.width, image.height, model)
    left, top = round((columns - width) / 2), round((rows - height) / 2)
    # Only what stays after the crop is resized: a long and narrow image would take gigabytes.
    across, down = image.width / columns, image.height / rows
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    channels = len(model.mean)
    shown = image.convert("RGB" if channels == 3 else "L").resize((width, height), filters[model.interpolation], box)
    pixels = torch.frombuffer(bytearray(shown.tobytes()), dtype=torch.uint8).view(height, width, channels)
    return _normalised(pixels.permute(2, 0, 1).float() / 255, model)


def _scaled(width: int, height: int, model: Model) -> tuple[int, int]:
    """Columns and rows of the whole image before the crop."""
    rows, columns = (math.floor(side / model.crop) for side in model.image_size)
    if model.crop_mode == "squash":
        return columns, rows
    if model.crop_mode != "center":
        raise SofteqValueError(f"crop_mode: expected 'center' or 'squash', got {model.crop_mode!r}")
    if rows == columns:  # torchvision's rounding
        short = min(width, height)
        return int(columns * width / short), int(rows * height / short)
    ratio = min(width / columns, height / rows)
    return round(width / ratio), round(height / ratio)


def _normalised(x: Tensor, model: Model) -> Tensor:
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (model.mean, model.std))
    return (x - mean) / std


def _noise(model: Model, count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    channels = len(model.mean)
    _check_memory(count, model)
    x = (0.5 + 0.25 * torch.randn(count, channels, *model.image_size, generator=generator)).clamp(0, 1)
    return Images(_normalised(x, model), None, [f"noise {i}" for i in range(count)], [])


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The share of labelled images whose predicted class is right.

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
