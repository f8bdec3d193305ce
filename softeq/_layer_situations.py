"""What every soft layer promises when torch copies, saves, averages, compiles or exports it, a function each."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from softeq._fold import fold
from softeq._layer_checks import CHECKS, Case, DoesNotApply, check, ensure, ensure_close
from softeq.errors import SofteqTypeError

__all__ = ["CHECKS", "Case", "DoesNotApply"]


def same_after(case: Case, other: nn.Module, what: str) -> None:
    """Raises unless another module gives the layer's outputs, to rounding."""
    with torch.no_grad():
        ensure_close(other(*case.inputs), case.output(), what, 1e-6)


def scrambled(layer: nn.Module) -> nn.Module:
    """The module with other numbers in place of its parameters."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1, 1)
    return layer


def lost(layer: nn.Module) -> nn.Module:
    """The module through the meta device: no value of it is left."""
    empty = layer.to("meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*empty.parameters(), *empty.buffers()):
            tensor.fill_(7)  # what memory may hold
    return empty


@check
def state(case: Case) -> None:
    """A state dict restores the layer, strictly, and holds parameters (and the prior's means) alone."""
    saved = case.layer.state_dict()
    other = scrambled(case.copy())
    other.load_state_dict(saved)
    same_after(case, other, "the output after load_state_dict")
    extra = [name for name in saved if name not in dict(case.layer.named_parameters()) and "means." not in name]
    ensure(not extra, f"the state dict holds {extra}, which is no parameter")


@check
def meta(case: Case) -> None:
    """Built without values and then loaded it is the same: ``to_empty``, and ``assign=True``."""
    other = lost(case.copy())
    other.load_state_dict(case.layer.state_dict())
    same_after(case, other, "the output after to_empty and load_state_dict")
    other = case.copy().to("meta")
    other.load_state_dict({name: value.clone() for name, value in case.layer.state_dict().items()}, assign=True)
    same_after(case, other, "the output after load_state_dict(assign=True)")


@check
def pickle(case: Case) -> None:
    """The whole layer through ``torch.save``, and a copy of it."""
    file = io.BytesIO()
    try:
        torch.save(case.layer, file)
    except Exception as error:
        raise AssertionError(f"torch.save of the layer gave {type(error).__name__}: {error}") from error
    file.seek(0)
    same_after(case, torch.load(file, weights_only=False), "the output after torch.save and torch.load")
    same_after(case, case.copy(), "the output of a copy")


@check
def averages(case: Case) -> None:
    """An average of equal models, buffers and all, is the model."""
    if not [*case.layer.parameters(), *case.layer.buffers()]:
        raise DoesNotApply("the layer has no tensor to average")
    average = AveragedModel(case.layer, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        average.update_parameters(case.layer)
    same_after(case, average, "the output of an average of equal models")


@check
def functional(case: Case) -> None:
    """``functional_call``, and ``vmap`` over the stacked parameters of several layers."""
    layers = [case.layer, scrambled(case.copy())]
    with torch.no_grad():
        expected = torch.stack([layer(*case.inputs) for layer in layers])
        own: dict[str, Tensor] = dict(layers[1].named_parameters())
        ensure_close(functional_call(case.layer, own, case.inputs), expected[1], "functional_call", 1e-5)
        if not own:
            return
        stacked, buffers = stack_module_state(layers)
        base = case.copy().to("meta")
        found = torch.vmap(lambda p, b: functional_call(base, (p, b), case.inputs))(stacked, buffers)
        ensure_close(found, expected, "vmap over stacked parameters", 1e-5)


def with_gradients(function: Callable[..., Tensor], layer: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and its gradients to parameters and inputs."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    output = function(*inputs)
    wanted = [*inputs, *(p for p in layer.parameters() if p.numel())]
    return [output.detach(), *torch.autograd.grad(output.square().sum(), wanted)]


@check
def compile_(case: Case) -> None:
    """``torch.compile`` in one graph: outputs and gradients."""
    torch._dynamo.reset()
    expected = with_gradients(case.layer, case.layer, case.inputs)
    layer = case.copy()
    found = with_gradients(torch.compile(layer, backend="aot_eager", fullgraph=True), layer, case.inputs)
    for got, wanted in zip(found, expected, strict=True):
        ensure_close(got, wanted, "compiled, output or gradient")


@check
def export(case: Case) -> None:
    """``torch.export`` of the layer and of what it folds into."""
    for what, module in {"the layer": case.layer, "the folded module": fold(case.layer)}.items():
        exported = torch.export.export(module, case.inputs).module()
        same_after(case, exported, f"the output of {what}, exported")


@check
def trace(case: Case) -> None:
    """``torch.jit.trace``, also after a trip through a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace fixes, as it should, and of torch's plans for it
        traced = torch.jit.trace(case.copy(), case.inputs, check_trace=False)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        same_after(case, torch.jit.load(file), "the output of a trace")


@check
def channels_last(case: Case) -> None:
    """Images, or volumes, with their channels last in memory, and so the layer and what it folds into."""
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(case.inputs[0].dim())
    if form is None:
        raise DoesNotApply("the input is no batch of images or volumes")
    inputs = tuple(x.contiguous(memory_format=form) for x in case.inputs)
    layer = case.copy().to(memory_format=form)
    expected = with_gradients(case.layer, case.layer, case.inputs)
    for got, wanted in zip(with_gradients(layer, layer, inputs), expected, strict=True):
        ensure_close(got, wanted, "channels_last, output or gradient")
    folded = fold(layer).to(memory_format=form)
    ensure_close(folded(*inputs).detach(), expected[0], "channels_last, folded")


@check
def hooks(case: Case) -> None:
    """What a hook computes at a call, as torch's pruning does, counts as it is then, or is refused: it never is old."""
    for place, module in case.layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.numel():
                continue
            hooked, plain = case.copy(), case.copy()
            other = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter)
            prune.identity(hooked.get_submodule(place), name)
            with torch.no_grad():
                getattr(hooked.get_submodule(place), f"{name}_orig").copy_(other)
                getattr(plain.get_submodule(place), name).copy_(other)
                try:
                    found = hooked(*case.inputs)
                except SofteqTypeError:
                    continue
                ensure_close(found, plain(*case.inputs), f"the output with a hook that computes {place}.{name}", 1e-6)
