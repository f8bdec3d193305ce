"""The means of the prior over a soft layer's parameters, where they are not zero: what ``softeq.anchor`` records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

MEANS = "means"
"""The name under which a soft layer holds its record."""


class Means(nn.Module):
    """The prior's mean of each parameter of one module, as buffers: saved, moved, cast and copied with it.

    A buffer is named as its parameter within the module, with ``__`` for each dot, and has the parameter's shape; or
    it is a 0-d zero, so that a residual pathway that starts at zero costs no memory.
    """

    def of(self, name: str) -> Tensor | None:
        """The mean of the parameter with this name, broadcastable to it; ``None`` where none is recorded."""
        return self._buffers.get(_key(name))

    def record(self, name: str, mean: Tensor) -> None:
        """Sets the mean of the parameter with this name."""
        self.register_buffer(_key(name), mean)

    def _apply(self, fn: Any, recurse: bool = True) -> Means:
        # Without their axes: channels last is for four of them, some kernels have five, and no mean meets an image.
        super()._apply(lambda mean: fn(mean.flatten()).view(mean.shape), recurse)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # A checkpoint from before the layer was anchored has no means: the present ones stay.
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)


def means_within(layer: nn.Module) -> dict[int, Tensor]:
    """The means of a module's parameters by ``id(parameter)``; those of a parameter that is left out is zero.

    A record on the layer itself goes before one on a soft layer inside its pathways.
    """
    found: dict[int, Tensor] = {}
    for module in layer.modules():
        means = module._modules.get(MEANS)
        if isinstance(means, Means):
            for name, parameter in module.named_parameters():
                mean = means.of(name)
                if mean is not None:
                    found.setdefault(id(parameter), mean)
    return found


def forget_means(model: nn.Module) -> None:
    """Takes the records out of a model, which has prior means of zero again."""
    for module in list(model.modules()):
        if isinstance(module._modules.get(MEANS), Means):
            delattr(module, MEANS)


def make_room(layer: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Gives a layer the buffers for the means that a checkpoint holds: it may be anchored where the layer is not."""
    start = f"{prefix}{MEANS}."
    if not any(key.startswith(start) for key in state_dict):
        return
    means = layer._modules.get(MEANS)
    if not isinstance(means, Means):
        means = Means()
        setattr(layer, MEANS, means)
    for name, parameter in layer.named_parameters():
        value = state_dict.get(start + _key(name))
        shape = parameter.shape if isinstance(value, Tensor) and value.shape == parameter.shape else ()
        held = means.of(name)
        if value is not None and (held is None or held.shape != shape):
            means.record(name, parameter.detach().new_zeros(shape))


def _key(name: str) -> str:
    return name.replace(".", "__")
