"""One entry of what a network returns, and the action of that output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.experiments.audit.settings import DTYPES, Settings
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.loading.sources import Model
from softeq.measure.motion.actions import Action
from softeq.measure.motion.infer import infer_action


class Picked(nn.Module):
    """A network that returns one entry of what another returns.

    Args:
        network: the other.
        entry: a key of a mapping, the name of an attribute, or an index; ``out.0`` goes deeper. A key that has dots
            itself is tried whole first.
    """

    def __init__(self, network: nn.Module, entry: str) -> None:
        super().__init__()
        self.network, self.entry = network, entry

    def forward(self, x: Tensor) -> Any:
        """The entry of ``network(x)``.

        Raises:
            SofteqValueError: there is none; the message says what there is.
        """
        return _entry(self.network(x), self.entry)


class Logarithm(nn.Module):
    """The logarithm of a network's probabilities: logits whose softmax they are.

    Args:
        network: gives (B, K), not negative, each row of sum 1.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, K); of a probability of 0 the least that there is."""
        p: Tensor = self.network(x)
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def innermost(module: nn.Module) -> tuple[nn.Module, str]:
    """The user's network inside what is put around it here, and what its modules' names begin with."""
    prefix = ""
    while isinstance(module, Picked | Logarithm):
        module, prefix = module.network, f"{prefix}network."
    return module, prefix


def _entry(output: Any, path: str) -> Any:
    if isinstance(output, Mapping) and path in output:
        return output[path]
    found = output
    for part in path.split("."):
        try:
            if isinstance(found, Mapping):
                found = found[part] if part in found else found[int(part)]
            elif isinstance(found, (list, tuple)) and part.lstrip("-").isdecimal():
                found = found[int(part)]
            elif isinstance(found, Tensor):
                raise LookupError
            else:
                found = getattr(found, part)
        except (LookupError, AttributeError, ValueError) as error:
            raise SofteqValueError(f"pick: no {part!r} in {_held(found)}") from error
    return found


def _held(output: Any) -> str:
    """What can be picked from an output."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}; leave --pick out"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(str, list(output)[:10]))}"
    if isinstance(output, (list, tuple)):
        names = getattr(output, "_fields", None)
        return f"a {type(output).__name__} of {len(output)}" + (f" ({', '.join(names)})" if names else "")
    names = [name for name in vars(output) if not name.startswith("_")] if hasattr(output, "__dict__") else []
    return f"a {type(output).__name__} with {', '.join(names[:10]) or 'nothing to pick'}"


def counted(model: Model, settings: Settings) -> Model:
    """The model with its number of classes, where it says nothing of it and its output is taken as one of classes.

    Of a network that cannot be run it stays unknown: measuring will say why.
    """
    network, _ = innermost(model.module)
    if model.classes is not None or settings.moves or settings.output == "vector":
        return model
    if getattr(network, "num_classes", None) is not None:  # 0: it has no head
        return model
    x = torch.zeros(1, len(model.mean), *model.image_size).to(settings.torch_device, DTYPES[settings.dtype])
    try:
        with measurable(model.module), torch.no_grad():
            output = model.module(x)
    except Exception:  # the network is the user's
        return model
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        return model
    told = f"classes: {output.shape[1]}, as it has so many outputs (--output vector, if they are no classes)"
    return replace(model, classes=output.shape[1], choices=(*model.choices, told))


def as_logits(model: Model, settings: Settings, x: Tensor) -> Model:
    """The model with logits for outputs, where its outputs are probabilities already; else as it is.

    Args:
        model: by its name a user's own; timm's give logits.
        settings: how.
        x: (1, C, H, W), an image.
    """
    if ":" not in model.name or settings.output not in ("probabilities", "logits"):
        return model
    try:
        with measurable(model.module), torch.no_grad():
            p = model.module(x)
    except Exception:  # the network is the user's; measuring will say why
        return model
    if not isinstance(p, Tensor) or p.ndim != 2 or p.shape[1] < 2 or not p.is_floating_point():
        return model
    off = (p.double().sum(1) - 1).abs().max()
    if not (bool((p >= 0).all()) and float(off) < 4 * p.shape[1] ** 0.5 * torch.finfo(p.dtype).eps):
        return model
    told = "outputs: taken as probabilities, as they are not negative and sum to 1 (logits are their logarithms)"
    return replace(model, module=Logarithm(model.module), choices=(*model.choices, told))


def declared(model: Model, settings: Settings, x: Tensor) -> str | Action:
    """How the model's output moves, as `measure` takes it.

    Raises:
        SofteqValueError: an output of several parts none of which is picked, a pick that is not there, classes asked
            of a map or of tokens, or shapes that an exported program does not take: what another option mends.
        NotMeasurable: tokens whose grid the shape does not show.
    """
    with measurable(model.module), torch.no_grad():
        try:
            output = model.module(x[:1])
        except AssertionError as error:
            if "Guard failed" not in str(error):
                raise
            raise SofteqValueError(
                f"the exported program takes no images of shape {tuple(x[:1].shape)} ({error}): give it its --size, or"
                " export it with a batch of any size (dynamic_shapes)"
            ) from error
    if not isinstance(output, Tensor):
        raise SofteqValueError(f"output: expected a tensor, got {_held(output)}; choose one with --pick")
    fitting = {4: "map", 3: "tokens"}.get(output.ndim)
    if settings.output in ("probabilities", "logits") and fitting is not None:
        raise SofteqValueError(
            f"output: expected class {settings.output} (B, K), got shape {tuple(output.shape)}:"
            f" measure it with --output {fitting}"
        )
    if settings.action is not None:
        return settings.action
    found = infer_action(output, x.shape, prefix=model.prefix_tokens or 0)
    if not found.name.startswith("tokens"):
        raise NotMeasurable(f"output: expected tokens (B, prefix + h * w, C), got shape {tuple(output.shape)}")
    return found
