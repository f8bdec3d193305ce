"""A model's weights, buffers and optimizer state, kept aside while another training has the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Copy:
    """What a model holds now; the optimizer's state begins empty."""

    def __init__(self, model: nn.Module) -> None:
        self.values: dict[str, Tensor] = {}
        self.optimizer: dict[str, dict[str, Any]] = {}
        self._keep_values(model)

    def keep(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Takes over what the model holds and takes the optimizer's state away from it."""
        self._keep_values(model)
        held = optimizer.state
        self.optimizer = {name: held.pop(p) for name, p in model.named_parameters() if p in held}

    @torch.no_grad()
    def restore(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Puts it all back."""
        for name, value in _tensors(model):
            value.copy_(self.values[name])
        if optimizer is not None:
            groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
            for name, parameter in model.named_parameters():
                optimizer.state.pop(parameter, None)
                if name in self.optimizer:
                    optimizer.state[parameter] = _placed(self.optimizer[name], parameter, groups[id(parameter)])
            self.optimizer = {}

    def drop(self) -> None:
        """Frees the memory of a training that does not go on."""
        self.values, self.optimizer = {}, {}

    @torch.no_grad()
    def _keep_values(self, model: nn.Module) -> None:
        for name, value in _tensors(model):
            if name in self.values:
                self.values[name].copy_(value)
            else:
                self.values[name] = value.detach().clone()

    def state(self) -> dict[str, Any]:
        """Tensors and numbers for a checkpoint."""
        kept = {name: {key: _cloned(v) for key, v in own.items()} for name, own in self.optimizer.items()}
        return {"values": {name: value.clone() for name, value in self.values.items()}, "optimizer": kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        if not state:
            self.drop()
            return
        for name, value in state["values"].items():
            self.values[name] = value.clone() if name not in self.values else self.values[name].copy_(value)
        self.optimizer = {name: {k: _cloned(v) for k, v in own.items()} for name, own in state["optimizer"].items()}


def _placed(state: Mapping[str, Any], parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state of a parameter where the parameter is, as a checkpoint may have been read elsewhere.

    A count of steps, 0-d, is on the CPU but for optimizers that count on the device.
    """
    on_device = any(group.get(flag) for flag in ("fused", "capturable"))
    return {
        key: value.to(parameter.device if value.ndim or on_device else "cpu") if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
