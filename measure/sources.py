"""Models by name: timm's, with packaged, pretrained or random weights or those of a file; and importable factories."""

from __future__ import annotations

import difflib
import importlib
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from measure.weights import PACKAGED, load_packaged, load_state, read_state_dict
from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError

WEIGHTS = ("pretrained", "random", "packaged")
_HALF = (0.5, 0.5, 0.5)
_SIZE = 224


@dataclass(frozen=True)
class Model:
    """A model and how its pictures are to be prepared.

    Attributes:
        name: as it was asked for.
        module: in evaluation mode.
        image_size: (H, W) of its input.
        mean, std: per channel, of pixels in [0, 1].
        interpolation: "bilinear", "bicubic" or "nearest".
        classes: how many logits it gives; None where it has no class head.
        prefix_tokens: tokens in front of the grid, for a transformer; None where unknown.
        source: where the weights come from, for people.
        crop: the share of the resized picture's shorter side that the input shows.
    """

    name: str
    module: nn.Module
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    classes: int | None
    prefix_tokens: int | None
    source: str
    crop: float = 0.875


def model_names() -> dict[str, str]:
    """The models with packaged weights, and what these are; every other timm name works too."""
    return {name: entry.description for name, entry in PACKAGED.items()}


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """A model by timm's name or as ``module:factory``.

    Args:
        name: e.g. ``resnet50``, or ``package.module:callable``, which is called without arguments and returns an
            ``nn.Module``; its attributes ``image_size``, ``mean``, ``std`` are used where it has them (224, 0.5, 0.5).
        weights: ``"pretrained"`` (timm's, which needs a network or a filled cache), ``"random"``, ``"packaged"``, or a
            file. ``None``: packaged where packages ship weights for the name, else pretrained; a factory's own.
        seed: of random weights; torch's own generator is left as it was.
        dtype, device: of the module.

    Raises:
        MissingExtraError: timm, or the package with the weights, is not installed.
        SofteqError: an unknown name, weights that cannot be had or do not fit, or a device that is not there.
    """
    place = _checked_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _from_factory(name, weights) if ":" in name else _from_timm(name, weights)
    model.module.to(device=place, dtype=dtype).eval()
    return model


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise SofteqValueError(f"device: expected 'cpu' or 'cuda', got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise SofteqError("device: CUDA was asked for and there is none here; use --device cpu")
    return place


def _from_timm(name: str, weights: str | Path | None) -> Model:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("models by name need timm: pip install 'softeq[timm]'") from error
    if weights is None:
        weights = "packaged" if name in PACKAGED else "pretrained"
    arguments = dict(PACKAGED[name].arguments) if name in PACKAGED and weights == "packaged" else {}
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; `softeq list --models` shows some"
        raise SofteqValueError(f"model: timm has no {name!r}{hint}, or give an importable package.module:factory")
    module: Any = (
        _pretrained(name) if weights == "pretrained" else timm.create_model(name, pretrained=False, **arguments)
    )
    source = _filled(name, module, weights)
    config = timm.data.resolve_model_data_config(module)
    return Model(
        name=name,
        module=module,
        image_size=_input_size(module, config),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        classes=module.num_classes or None,
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        source=source,
        crop=float(config["crop_pct"]),
    )


def _input_size(module: Any, config: dict[str, Any]) -> tuple[int, int]:
    """A transformer built for another size than its data configuration says takes that size alone."""
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    height, width = built if built is not None else config["input_size"][1:]
    return int(height), int(width)


def _filled(name: str, module: nn.Module, weights: str | Path) -> str:
    """Weights into the module, unless it has them; where they come from."""
    if weights == "pretrained":
        tag = getattr(module, "pretrained_cfg", {}).get("tag", "")
        return f"pretrained{f' ({tag})' if tag else ''}"
    if weights == "random":
        return "random"
    if weights == "packaged":
        load_packaged(name, module)
        return PACKAGED[name].description
    load_state(module, read_state_dict(weights), weights)
    return f"file {Path(weights).name}"


def _pretrained(name: str) -> nn.Module:
    import timm

    try:
        with _no_retries_without_a_network():
            return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        # RuntimeError: timm knows no pretrained weights under this name.
        reason = "timm has none" if isinstance(error, RuntimeError) else "they could not be downloaded"
        raise SofteqError(
            f"pretrained weights of {name}: {reason}. Fetch a checkpoint where there is a network and point at it with"
            f" --weights FILE, or use --weights random; packaged weights: {', '.join(PACKAGED)}"
        ) from error


@contextmanager
def _no_retries_without_a_network() -> Iterator[None]:
    """Where the hub's name does not resolve, look into the cache alone instead of trying for a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_factory(name: str, weights: str | Path | None) -> Model:
    path, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(path), attribute)
    except (ImportError, ValueError) as error:
        raise SofteqValueError(f"model: cannot import {path!r} of {name!r}: {error}") from error
    except AttributeError as error:
        raise SofteqValueError(f"model: {path!r} has no {attribute!r}") from error
    if not callable(factory):
        raise SofteqTypeError(f"model: expected {name!r} to be callable, got {type(factory).__name__}")
    module = factory()
    if not isinstance(module, nn.Module):
        raise SofteqTypeError(f"model: expected {name!r} to return an nn.Module, got {type(module).__name__}")
    source = "as the factory made it"
    if weights in ("pretrained", "packaged"):
        raise SofteqValueError(f"weights: {name!r} has no {weights} weights; give a file, or leave weights out")
    if weights is not None and weights != "random":
        load_state(module, read_state_dict(weights), weights)
        source = f"file {Path(weights).name}"
    size = getattr(module, "image_size", _SIZE)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return Model(
        name=name,
        module=module,
        image_size=(int(height), int(width)),
        mean=tuple(getattr(module, "mean", _HALF)),
        std=tuple(getattr(module, "std", _HALF)),
        interpolation=getattr(module, "interpolation", "bicubic"),
        classes=getattr(module, "num_classes", None),
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        source=source,
        crop=1.0,
    )
