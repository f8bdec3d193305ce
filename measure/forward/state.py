"""What a model holds, remembered before a measurement and put back after it, also after an error.

A forward pass may assign buffers (running averages), append to lists, count, cache, draw random numbers. None of that
may stay behind: least of all a tensor of the measurement's own.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from inspect import isfunction, ismethod, ismodule, isroutine
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from softeq.measure.errors import NotMeasurable

DRAWS = "draws random numbers, so it has no derivative; make it deterministic"
"""Why what `Kept.drew` finds is refused, after the name of a function or an operation."""

_OBJECT_DEPTH = 2  # objects of the user's own that a module holds, and those that they hold
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))  # what cannot change: half of what a module holds
_CONTAINERS = frozenset((dict, OrderedDict, list, set))  # empty ones are most of the rest
_guarded: ContextVar[frozenset[int]] = ContextVar("guarded", default=frozenset())

Undo = Callable[[], None]


class Kept:
    """The state of modules, tensors and of the random number generators, as it was when this was made.

    Kept are: every attribute, hook, mode, flag, parameter and buffer by identity; the values of tensors and arrays;
    gradients; what lists, dictionaries, sets and the modules' own objects hold; the states of generators.

    Args:
        held: modules with their submodules, tensors.
        parameters: also the parameters' values, at the price of a copy; without it a parameter that a forward pass
            writes into stays written.
    """

    def __init__(self, held: Iterable[nn.Module | Tensor], *, parameters: bool = True) -> None:
        self._parameters = parameters
        self._seen: dict[int, Any] = {}  # by id; holding them keeps the ids theirs
        self._structure: list[Undo] = []
        self._empty: list[Any] = []  # containers that held nothing: most of a module's own
        self._values: list[Undo] = []
        self._random: list[tuple[Callable[[], Any], Callable[[Any], Any], Any]] = []
        self._generator(torch.get_rng_state, torch.set_rng_state)
        if torch.cuda.is_initialized():
            self._generator(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all)
        self._generator(np.random.get_state, np.random.set_state)
        self._generator(random.getstate, random.setstate)
        for value in held:
            self._visit(value, 0)

    def restore(self) -> None:
        """Everything as it was."""
        for container in self._empty:
            if container:
                container.clear()
        for undo in (*self._structure, *self._values):
            undo()
        for _, put_back, state in self._random:
            put_back(state)

    def drew(self) -> bool:
        """Whether random numbers have been drawn since."""
        return any(not _same_state(read(), state) for read, _, state in self._random)

    def _generator(self, read: Callable[[], Any], put_back: Callable[[Any], Any]) -> None:
        self._random.append((read, put_back, read()))

    def _visit(self, value: Any, depth: int) -> None:
        if id(value) in self._seen or value is None or isinstance(value, str | bytes | int | float | type):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, dict | list | set | deque):
            if not len(value):
                self._empty.append(value)
                return
            self._structure.append(_undo_container(value))
            self._visit_all(value.values() if isinstance(value, dict) else value, depth)
        elif isinstance(value, tuple):
            self._visit_all(tuple.__iter__(value), depth)  # whatever a subclass makes of its length
        elif isinstance(value, np.ndarray):
            self._values.append(_undo_array(value))
        elif isinstance(value, torch.jit.ScriptModule):
            self._script(value)
        elif not self._source_of_chance(value) and not (isroutine(value) or ismodule(value)):
            held, module = getattr(value, "__dict__", None), isinstance(value, nn.Module)
            if isinstance(held, dict) and (module or depth < _OBJECT_DEPTH):
                self._visit(held, 0 if module else depth + 1)

    def _visit_all(self, values: Iterable[Any], depth: int) -> None:
        for value in list(values):
            kind = type(value)
            if kind in _CONTAINERS and not value:
                self._empty.append(value)
            elif kind not in _PLAIN:
                self._visit(value, depth)

    def _source_of_chance(self, value: Any) -> bool:
        if isinstance(value, torch.Generator):
            self._generator(value.get_state, value.set_state)
        elif isinstance(value, random.Random):
            self._generator(value.getstate, value.setstate)
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            self._generator(lambda: bits.state, lambda state: setattr(bits, "state", state))
        elif isinstance(value, np.random.RandomState):
            self._generator(value.get_state, value.set_state)
        else:
            return False
        return True

    def _tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise NotMeasurable("f has lazy modules that never saw data; run it once on a batch before measuring it")
        self._values.append(_undo_tensor(tensor, self._parameters or not isinstance(tensor, nn.Parameter)))

    def _script(self, module: torch.jit.ScriptModule) -> None:
        """A scripted module keeps its attributes outside of Python."""
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        held = {**dict(tensors), **({"training": module.training} if hasattr(module, "training") else {})}

        def undo() -> None:
            for name, value in held.items():
                if getattr(module, name) is not value:
                    setattr(module, name, value)

        self._structure.append(undo)
        self._visit_all((tensor for _, tensor in tensors), 0)
        self._visit_all(module.children(), 0)


def _undo_container(value: Any) -> Undo:
    copy = dict(value) if isinstance(value, dict) else list(value)

    def undo() -> None:
        same = len(value) == len(copy)
        if isinstance(value, dict):
            same = same and all(a == b and value[a] is copy[b] for a, b in zip(value, copy, strict=True))
        else:
            same = same and all(a is b for a, b in zip(value, copy, strict=True))
        if not same:
            value.clear()
            value.update(copy) if isinstance(value, dict | set) else value.extend(copy)

    return undo


def _undo_array(value: np.ndarray) -> Undo:
    copy = value.copy()

    def undo() -> None:
        if not np.array_equal(value, copy):
            value[...] = copy

    return undo


def _undo_tensor(tensor: Tensor, values: bool) -> Undo:
    memory = tensor.data  # the same memory, without the version counter
    copy = memory.clone() if values else None
    leaf = tensor.is_leaf
    learnt, gradient = tensor.requires_grad, tensor.grad if leaf else None
    undo_gradient = None if gradient is None else _undo_tensor(gradient, True)

    def undo() -> None:
        if not _same_memory(tensor, memory):
            tensor.data = memory
        if copy is not None and not torch.equal(memory, copy):
            memory.copy_(copy)
        if leaf:
            if not tensor.is_leaf:  # something that a graph hangs on was written into it
                tensor.detach_()
            if tensor.requires_grad != learnt:
                tensor.requires_grad_(learnt)
            if tensor.grad is not gradient:
                tensor.grad = gradient
            if undo_gradient is not None:
                undo_gradient()

    return undo


def _same_memory(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.layout != b.layout:
        return False
    return a.layout != torch.strided or (a.data_ptr() == b.data_ptr() and a.stride() == b.stride())


def _same_state(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor | np.ndarray):
        return bool((a == b).all())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same_state(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_state(a[key], b[key]) for key in a)
    return bool(a == b)


def held_by(f: Any) -> list[nn.Module | Tensor]:
    """The modules and tensors that a callable is or refers to: a module, a method, a partial, an object, a function."""
    found: list[nn.Module | Tensor] = []
    seen: dict[int, Any] = {}
    waiting = [f]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module | Tensor):
            found.append(value)
        elif isinstance(value, partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif ismethod(value):
            waiting += [value.__self__, value.__func__]
        elif isfunction(value):
            waiting += [held for held in _referred(value) if _matters(held)]
        elif value is f and not isinstance(value, type):
            waiting += [held for held in getattr(value, "__dict__", {}).values() if _matters(held)]
    return found


def _matters(value: Any) -> bool:
    """Whether it is a module, a tensor, or a function that may hold one in its turn."""
    if isinstance(value, nn.Module | Tensor | partial) or ismethod(value):
        return True
    return getattr(value, "__closure__", None) is not None


def _referred(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            yield cell.cell_contents
    yield from (function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__)


@contextmanager
def unchanged(f: Any) -> Iterator[Kept]:
    """What `f` refers to and the random number generators are left as they were, also after an error.

    Within another such block over the same modules the parameters' values are left to that one.
    """
    held, outer = held_by(f), _guarded.get()
    modules = [value for value in held if isinstance(value, nn.Module)]
    inside = all(id(module) in outer for module in modules)
    kept = Kept(held, parameters=not inside)
    token = _guarded.set(outer if inside else outer | {id(m) for module in modules for m in module.modules()})
    try:
        yield kept
    finally:
        _guarded.reset(token)
        kept.restore()
