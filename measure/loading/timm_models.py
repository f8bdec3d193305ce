"""timm's models by name, with packaged, pretrained or random weights or those of a file."""

from __future__ import annotations

import difflib
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from torch import Tensor, nn

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.measure.loading.checkpoints import load_state
from softeq.measure.loading.model import Model, pair
from softeq.measure.loading.tensors import read_state_dict
from softeq.measure.loading.weights import PACKAGED, load_packaged

_PATIENCE = 5.0
"""Seconds that a hub may take to answer before only the cache is looked at."""


def from_timm(
    name: str,
    weights: str | Path | None,
    *,
    weights_key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Model:
    """A model of timm's; see `measure.loading.sources.load_model` for the arguments and errors."""
    timm, known = _known(name)
    if weights is None:
        weights = "packaged" if name in PACKAGED else "pretrained"
    arguments = dict(PACKAGED[name].arguments) if name in PACKAGED and weights == "packaged" else {}
    if image_size is not None and known.fixed_input_size:
        arguments["img_size"] = pair(image_size)
    choices: list[str] = []
    state = None if weights in ("pretrained", "random", "packaged") else read_state_dict(weights)
    if state is not None:
        arguments |= _read_off(state, known, weights_key, choices)
    if num_classes is not None:
        _check_classes(num_classes, str(weights), known)
        arguments["num_classes"] = num_classes
        choices = [line for line in choices if not line.startswith("classes")]
    create = _pretrained if weights == "pretrained" else timm.create_model
    module: Any = create(name, **arguments)
    source = _filled(name, module, weights, state, weights_key)
    config = timm.data.resolve_model_data_config(module)
    return Model(
        name=name,
        module=module,
        image_size=_input_size(module, config) if image_size is None else pair(image_size),
        mean=_for_channels(config["mean"], arguments.get("in_chans")),
        std=_for_channels(config["std"], arguments.get("in_chans")),
        interpolation=config["interpolation"],
        classes=module.num_classes or None,
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        source=source,
        crop=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        choices=tuple(choices),
    )


def _known(name: str) -> tuple[Any, Any]:
    """timm, and its configuration of the model."""
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("models by name need timm: pip install 'softeq[timm]'") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) if len(name) < 200 else []
        hint = f"; did you mean {' or '.join(close)}?" if close else "; `softeq list --models` shows some"
        raise SofteqValueError(f"model: timm has no {_cut(name)!r}{hint}, or give an importable package.module:factory")
    try:
        return timm, timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag, after the name's dot, that it does not have
        raise SofteqValueError(f"model: {error} timm.list_pretrained() names them") from error


def _cut(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:60]}... ({len(name)} characters)"


def _read_off(state: Mapping[str, Tensor], known: Any, key: str | None, choices: list[str]) -> dict[str, int]:
    """The numbers of classes and channels that a checkpoint's first and last layers have, where they are not timm's."""
    found: dict[str, int] = {}
    for argument, layers, axis, usual, words in (
        ("num_classes", known.classifier, 0, known.num_classes, "classes"),
        ("in_chans", known.first_conv, 1, (known.input_size or (3,))[0], "channels"),
    ):
        names = (layers,) if isinstance(layers, str) else tuple(layers or ())
        ends = tuple(f"{name}.weight" for name in names)
        sizes = {
            int(tensor.shape[axis])
            for name, tensor in state.items()
            if tensor.ndim > axis
            and any(name == end or name.endswith(f".{end}") for end in ends)
            and (key is None or name.startswith(key))
        }
        if len(sizes) == 1 and sizes != {usual}:
            found[argument] = sizes.pop()
            choices.append(f"{words}: {found[argument]}, read from the weights")
    return found


def _for_channels(values: Sequence[float], channels: int | None) -> tuple[float, ...]:
    """timm's values for three colours; their mean for each channel where there are not three."""
    if channels is None or channels == len(values):
        return tuple(values)
    return (sum(values) / len(values),) * channels


def _check_classes(number: int, weights: str, known: Any) -> None:
    if number < 0:
        raise SofteqValueError(f"num-classes: expected 0 (no class head) or more, got {number}")
    if weights in ("pretrained", "packaged") and number not in (0, known.num_classes):
        raise SofteqValueError(
            f"num-classes: the {weights} weights are of {known.num_classes} classes, and a head of {number} would be"
            " random: give the file of the weights, or 0 for the network without its head"
        )


def _input_size(module: Any, config: dict[str, Any]) -> tuple[int, int]:
    """A transformer built for another size than its data configuration says takes that size alone."""
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    height, width = built if built is not None else config["input_size"][1:]
    return int(height), int(width)


def _filled(
    name: str, module: nn.Module, weights: str | Path, state: Mapping[str, Tensor] | None, key: str | None
) -> str:
    """Weights into the module, unless it has them; where they come from."""
    if state is not None:
        return from_file(module, state, weights, key)
    if key is not None:
        raise SofteqValueError(f"weights-key: expected --weights FILE beside it, got {weights} weights")
    if weights == "pretrained":
        tag = getattr(module, "pretrained_cfg", {}).get("tag", "")
        return f"pretrained{f' ({tag})' if tag else ''}"
    if weights == "random":
        return "random"
    load_packaged(name, module)
    return PACKAGED[name].description


def from_file(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, key: str | None) -> str:
    """A checkpoint's weights into the module; in words where they come from and by which rule they were chosen."""
    said = load_state(module, state, path, key)
    return f"file {Path(path).name}" + (f": {said}" if said else "")


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
