"""Models by name: timm's, with packaged, pretrained or random weights or those of a file; and importable factories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from softeq.errors import SofteqError, SofteqTypeError, SofteqValueError
from softeq.measure.forward.prepare import evaluating
from softeq.measure.loading.factory import made
from softeq.measure.loading.model import Model, Preparation, pair
from softeq.measure.loading.tensors import read_state_dict
from softeq.measure.loading.timm_models import from_file, from_timm
from softeq.measure.loading.weights import PACKAGED

__all__ = ["WEIGHTS", "Model", "Preparation", "load_model", "model_names"]

WEIGHTS = ("pretrained", "random", "packaged")
_SIZE = 224


def model_names() -> dict[str, str]:
    """The models with packaged weights, and what these are; every other timm name works too."""
    return {name: entry.description for name, entry in PACKAGED.items()}


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    preparation: Preparation | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """A model by timm's name or as ``module:factory``.

    Args:
        name: e.g. ``resnet50``, or ``package.module:name``, an ``nn.Module`` or something that returns one when it is
            called without arguments; the network's attributes ``image_size``, ``mean``, ``std``, ``interpolation``,
            ``num_classes``, ``num_prefix_tokens`` and ``weights_source`` are used where it has them (else 224, 0.5,
            0.5, "bicubic", and unknown; that this was assumed stands in the result's ``choices``).
        weights: ``"pretrained"`` (timm's, which needs a network or a filled cache), ``"random"``, ``"packaged"``, or a
            file. ``None``: packaged where packages ship weights for the name, else pretrained; a factory's own.
        weights_key: of a file's parts the one to take, e.g. ``state_dict_ema``; None: by the rule of
            `measure.loading.checkpoints`, told in the result's ``source``.
        image_size: of its input, (H, W) or one number for both; ``None``: what it was made for. A timm model of fixed
            size is built for that size.
        num_classes: that a timm model is built for, 0 without its head; None: as its weights have.
        preparation: of the images, where the user knows it better than the network.
        seed: of random weights; torch's own generator is left as it was.
        dtype, device: of the module.

    Raises:
        MissingExtraError: timm, or the package with the weights, is not installed.
        SofteqError: an unknown name, weights that cannot be had or do not fit, or a device that is not there.
    """
    place = _checked_device(device)
    if weights is not None and weights not in WEIGHTS and not _exists(weights):
        raise SofteqValueError(
            f"weights: expected {', '.join(WEIGHTS)} or a file, got {str(weights)[:200]!r}, which is none"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ":" in name:
            model = _from_factory(name, weights, weights_key, image_size, num_classes, preparation)
        else:
            model = from_timm(name, weights, weights_key=weights_key, image_size=image_size, num_classes=num_classes)
    if preparation is not None:
        model = model.prepared(preparation)
    model.module.to(device=place, dtype=dtype)
    evaluating(model.module)
    return model


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that is too long, or has a null character
        return False


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise SofteqValueError(f"device: expected 'cpu' or 'cuda', got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise SofteqError("device: CUDA was asked for and there is none here; use --device cpu")
    return place


def _from_factory(
    name: str,
    weights: str | Path | None,
    weights_key: str | None,
    image_size: int | tuple[int, int] | None,
    num_classes: int | None,
    preparation: Preparation | None,
) -> Model:
    if num_classes is not None:
        raise SofteqValueError(f"num-classes: expected a timm model, got {name!r}, whose factory decides that")
    module, choices = _unwrapped(made(name, "model", lambda found: isinstance(found, nn.Module), "an nn.Module"))
    source = str(getattr(module, "weights_source", "as the factory made it"))
    if weights in ("pretrained", "packaged"):
        raise SofteqValueError(f"weights: {name!r} has no {weights} weights; give a file, or leave weights out")
    if weights is not None and weights != "random":
        source = from_file(module, read_state_dict(weights), weights, weights_key)
    elif weights_key is not None:
        raise SofteqValueError("weights-key: expected --weights FILE beside it")
    own = preparation or Preparation()
    mean, std = _values(module, "mean"), _values(module, "std")
    channels = _channels(module, mean, std)
    assumed = [
        kind for kind, has, given in (("mean", mean, own.mean), ("std", std, own.std)) if has is None and given is None
    ]
    if assumed:
        options = " and ".join(f"--{kind}" for kind in assumed)
        choices.append(f"{' and '.join(assumed)} of the images: 0.5, as the network says nothing of it ({options})")
    if image_size is None and own.size is None and not hasattr(module, "image_size"):
        choices.append(f"image size: {_SIZE}, as the network says nothing of it (--size)")
    return Model(
        name=name,
        module=module,
        image_size=pair(getattr(module, "image_size", _SIZE) if image_size is None else image_size),
        mean=_spread(mean, channels),
        std=_spread(std, channels),
        interpolation=getattr(module, "interpolation", "bicubic"),
        classes=getattr(module, "num_classes", None) or None,
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        source=source,
        crop=1.0,
        choices=tuple(choices),
    )


def _unwrapped(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """The network inside torch.compile and data parallelism, which measure as it does and are in the way."""
    choices: list[str] = []
    while True:
        kind = type(module).__name__
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module, choices
        choices.append(f"measured inside its {kind}")
        module = inner


def _spread(values: tuple[float, ...] | None, channels: int) -> tuple[float, ...]:
    values = (0.5,) if values is None else values
    return values * channels if len(values) == 1 else values


def _channels(module: nn.Module, *known: tuple[float, ...] | None) -> int:
    """How many channels its images have: as its mean or standard deviation, else as its first convolution; else 3."""
    counts = [len(values) for values in known if values is not None]
    if more := [count for count in counts if count > 1]:
        return more[0]
    given = [getattr(module, attribute, None) for attribute in ("in_channels", "in_chans", "num_channels")]
    given += [m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)][:1]
    said = next((count for count in given if isinstance(count, int) and count > 0), None)
    if counts:  # one value alone: of a grey image, or of all three colours
        return 3 if said == 3 else 1
    return said or 3


def _values(module: nn.Module, name: str) -> tuple[float, ...] | None:
    """A module's ``mean`` or ``std``, be it a number, some, or a buffer of any shape; None where it has none."""
    given: Any = getattr(module, name, None)
    if given is None:
        return None
    try:
        return tuple(torch.as_tensor(given, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise SofteqTypeError(f"{name}: expected one number or one per channel, got {type(given).__name__}") from error
