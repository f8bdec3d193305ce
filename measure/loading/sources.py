"""Models by name: timm's, with packaged, pretrained or random weights or those of a file; and importable factories."""

from __future__ import annotations

import difflib
import importlib
import operator
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
from torch import nn

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.measure.loading.weights import PACKAGED, load_packaged, load_state, read_state_dict

WEIGHTS = ("pretrained", "random", "packaged")
_HALF = (0.5, 0.5, 0.5)
_SIZE = 224
_PATIENCE = 5.0
"""Seconds that a hub may take to answer before only the cache is looked at."""


@dataclass(frozen=True)
class Model:
    """A model and how its images are to be prepared.

    Attributes:
        name: as it was asked for.
        module: in evaluation mode.
        image_size: (H, W) of its input.
        mean, std: per channel, of pixels in [0, 1]: three values, or one for a model of grey images.
        interpolation: "bilinear", "bicubic", "nearest" or another of Pillow's.
        classes: how many logits it gives; None where it has no class head.
        prefix_tokens: tokens in front of the grid, for a transformer; None where unknown.
        source: where the weights come from, for people.
        crop: the share of the resized image's shorter side that the input shows.
        crop_mode: "center" keeps the image's proportions, "squash" does not; see `measure.loading.images.prepare`.

    Raises:
        SofteqValueError: a size, crop, mean or standard deviation that no image can be prepared with.
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
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise SofteqValueError(f"image_size: expected (H, W), both at least 1, got {self.image_size}")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise SofteqValueError(
                f"mean, std: expected 1 or 3 values each, std above 0, got mean {self.mean} and std {self.std}"
            )
        if not 0 < self.crop <= 1:
            raise SofteqValueError(f"crop: expected a share in (0, 1], got {self.crop}")


def model_names() -> dict[str, str]:
    """The models with packaged weights, and what these are; every other timm name works too."""
    return {name: entry.description for name, entry in PACKAGED.items()}


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """A model by timm's name or as ``module:factory``.

    Args:
        name: e.g. ``resnet50``, or ``package.module:callable``, which is called without arguments and returns an
            ``nn.Module``; its attributes ``image_size``, ``mean``, ``std``, ``interpolation``, ``num_classes`` and
            ``num_prefix_tokens`` are used where it has them (else 224, 0.5, 0.5, "bicubic", unknown, unknown).
        weights: ``"pretrained"`` (timm's, which needs a network or a filled cache), ``"random"``, ``"packaged"``, or a
            file. ``None``: packaged where packages ship weights for the name, else pretrained; a factory's own.
        image_size: of its input, (H, W) or one number for both; ``None``: what it was made for. A timm model of fixed
            size is built for that size.
        seed: of random weights; torch's own generator is left as it was.
        dtype, device: of the module.

    Raises:
        MissingExtraError: timm, or the package with the weights, is not installed.
        SofteqError: an unknown name, weights that cannot be had or do not fit, or a device that is not there.
    """
    place = _checked_device(device)
    if weights is not None and weights not in WEIGHTS and not Path(weights).exists():
        raise SofteqValueError(f"weights: expected {', '.join(WEIGHTS)} or a file, got {str(weights)!r}, which is none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _from_factory(name, weights, image_size) if ":" in name else _from_timm(name, weights, image_size)
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


def _from_timm(name: str, weights: str | Path | None, image_size: int | tuple[int, int] | None) -> Model:
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
    try:
        known: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag, after the name's dot, that it does not have
        raise SofteqValueError(f"model: {error} timm.list_pretrained() names them") from error
    if image_size is not None and known.fixed_input_size:
        arguments["img_size"] = _pair(image_size)
    create = _pretrained if weights == "pretrained" else timm.create_model
    module: Any = create(name, **arguments)
    source = _filled(name, module, weights)
    config = timm.data.resolve_model_data_config(module)
    return Model(
        name=name,
        module=module,
        image_size=_input_size(module, config) if image_size is None else _pair(image_size),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        classes=module.num_classes or None,
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        source=source,
        crop=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
    )


def _pair(size: Any) -> tuple[int, int]:
    """(H, W) of one number or two."""
    try:
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return int(height), int(width)
    except (TypeError, ValueError) as error:
        raise SofteqTypeError(f"image_size: expected a number or (H, W), got {size!r}") from error


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


def _pretrained(name: str, **arguments: Any) -> nn.Module:
    import timm

    try:
        with _no_retries_without_a_network():
            return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        # RuntimeError: timm knows no pretrained weights under this name, or they do not fit.
        said = " ".join(str(error).split())[:120]
        reason = said if isinstance(error, RuntimeError) else f"they could not be had ({type(error).__name__})"
        raise SofteqError(
            f"pretrained weights of {name}: {reason}. Fetch a checkpoint where there is a network and point at it with"
            f" --weights FILE, or use --weights random; packaged weights: {', '.join(PACKAGED)}"
        ) from error


@contextmanager
def _no_retries_without_a_network() -> Iterator[None]:
    """Where neither the hub nor a proxy answers, look into the cache alone instead of trying for a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Whether anything listens where a request for the address would go, which may be a proxy."""
    place = urlsplit(url)
    proxy = None if proxy_bypass(place.hostname or "") else getproxies().get(place.scheme)
    if proxy:
        place = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=_PATIENCE).close()
    except (OSError, ValueError):  # ValueError: no address at all
        return False
    return True


def _from_factory(name: str, weights: str | Path | None, image_size: int | tuple[int, int] | None) -> Model:
    path, _, attribute = name.partition(":")
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(path))
    except (ImportError, ValueError) as error:
        raise SofteqValueError(f"model: cannot import {path!r} of {name!r}: {error}") from error
    except AttributeError as error:
        raise SofteqValueError(f"model: {path!r} has no {attribute!r}") from error
    if not callable(factory):
        raise SofteqTypeError(f"model: expected {name!r} to be callable, got {type(factory).__name__}")
    try:
        module = factory()
    except SofteqError:
        raise
    except Exception as error:  # the factory is the user's
        said = " ".join(str(error).split())
        raise SofteqError(f"model: {name}() without arguments failed: {type(error).__name__}: {said}") from error
    if not isinstance(module, nn.Module):
        raise SofteqTypeError(f"model: expected {name!r} to return an nn.Module, got {type(module).__name__}")
    source = "as the factory made it"
    if weights in ("pretrained", "packaged"):
        raise SofteqValueError(f"weights: {name!r} has no {weights} weights; give a file, or leave weights out")
    if weights is not None and weights != "random":
        load_state(module, read_state_dict(weights), weights)
        source = f"file {Path(weights).name}"
    mean, std = _values(module, "mean"), _values(module, "std")
    return Model(
        name=name,
        module=module,
        image_size=_pair(getattr(module, "image_size", _SIZE) if image_size is None else image_size),
        mean=mean,
        std=std,
        interpolation=getattr(module, "interpolation", "bicubic"),
        classes=getattr(module, "num_classes", None),
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        source=source,
        crop=1.0,
    )


def _values(module: nn.Module, name: str) -> tuple[float, ...]:
    """A module's ``mean`` or ``std``, be it a number, some, or a buffer of any shape; 0.5 thrice where it has none."""
    given = getattr(module, name, None)
    if given is None:
        return _HALF
    try:
        return tuple(torch.as_tensor(given, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise SofteqTypeError(f"{name}: expected one number or one per channel, got {type(given).__name__}") from error
