"""What every soft layer promises of its mathematics, a function each; `softeq.testing.check_layer` runs them.

What it promises of torch's own machinery stands in ``softeq._layer_situations``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softeq._fold import fold, harden
from softeq._spaces import TokenShifts, spaces_of
from softeq.composite import SoftPathways
from softeq.errors import SofteqError, SofteqValueError
from softeq.pathways import EQUIVARIANT, RESIDUAL, MergedLayer, SoftLayer
from softeq.testing import TOLERANCES, assert_equivariant


class DoesNotApply(Exception):
    """Why a check says nothing about a layer."""


@dataclass(frozen=True)
class Case:
    """A layer, what it takes, and the spaces of its hard form."""

    layer: SoftLayer
    inputs: tuple[Tensor, ...]
    spaces: tuple[Any, Any] | None = None

    def copy(self) -> Any:
        """A copy of the layer, to do with as one likes."""
        return copy.deepcopy(self.layer)

    def output(self) -> Tensor:
        """What the layer gives, without gradients."""
        with torch.no_grad():
            return self.layer(*self.inputs)


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Enters a check under its name."""
    CHECKS[function.__name__.rstrip("_")] = function
    return function


def ensure(condition: bool, message: str) -> None:
    """Raises an AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def ensure_close(got: Tensor, expected: Tensor, what: str, tolerance: float | None = None) -> None:
    """Raises unless two tensors agree up to the tolerance of their dtype, relative to the larger one's norm."""
    ensure(got.shape == expected.shape, f"{what}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    ensure(got.device == expected.device, f"{what}: expected it on {expected.device}, got {got.device}")
    tolerance = TOLERANCES[expected.dtype] if tolerance is None else tolerance
    gap, size = float((got.double() - expected.double()).norm()), float(expected.double().norm())
    ensure(math.isfinite(gap) and gap <= tolerance * max(size, 1e-30), f"{what}: off by {gap:.2e} of {size:.2e}")


def apart(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules share no memory of parameters."""
    own = {p.untyped_storage().data_ptr() for p in a.parameters() if p.numel()}
    return not any(p.untyped_storage().data_ptr() in own for p in b.parameters() if p.numel())


def numbers(layer: SoftLayer) -> list[nn.Parameter]:
    """The parameters of all pathways, pathway after pathway."""
    return [parameter for pathway in layer.pathways.values() for parameter in pathway.parameters()]


@torch.no_grad()
def without_residual(layer: SoftLayer) -> SoftLayer:
    """A copy whose pathways beside the equivariant one are zero."""
    bare = copy.deepcopy(layer)
    for name, pathway in bare.pathways.items():
        for parameter in pathway.parameters() if name != EQUIVARIANT else ():
            parameter.zero_()
    return bare


@check
def partition(case: Case) -> None:
    """The pathways' parameters are the layer's, each in one of them."""
    if getattr(case.layer, "projected", False):
        raise DoesNotApply("one free weight carries both pathways")
    own, parts = [id(p) for p in case.layer.parameters()], [id(p) for p in numbers(case.layer)]
    ensure(len(set(parts)) == len(parts), "a parameter belongs to two pathways")
    ensure(set(own) == set(parts), "the pathways' parameters are not the layer's")
    ensure(len(case.layer.pathways) > 0, "the layer has no pathway")


@check
def merged(case: Case) -> None:
    """``nearest`` is an orthogonal projector in float64 that keeps the hard form's weight."""
    layer = case.copy().double()
    if not isinstance(layer, MergedLayer):
        raise DoesNotApply("the layer has no merged weight")
    with torch.no_grad():
        weight = layer.weight
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(weight.shape, generator=generator, dtype=torch.float64) for _ in range(2))
        near = layer.nearest(a)
        ensure_close(layer.nearest(near), near, "projecting twice")
        ensure_close(layer.nearest(2 * a - b), 2 * near - layer.nearest(b), "projecting a sum")
        ensure_close((near * b).sum(), (a * layer.nearest(b)).sum(), "the projector's symmetry", 1e-6)
        kept: Any = layer.hardened().weight if EQUIVARIANT in layer.pathways else layer.nearest(weight)
        if kept.shape == weight.shape:
            ensure_close(layer.nearest(kept), kept, "projecting the equivariant weight")


@check
def fold_(case: Case) -> None:
    """The folded module computes the same, is no soft layer, and shares nothing with the layer."""
    plain = fold(case.layer)
    ensure(not any(isinstance(m, SoftLayer) for m in plain.modules()), "the folded module has a soft layer in it")
    ensure_close(plain(*case.inputs).detach(), case.output(), "the folded output")
    ensure(plain.training == case.layer.training, "folding changed the training mode")
    ensure(apart(plain, case.layer), "the folded module shares memory with the layer")


@check
def harden_(case: Case) -> None:
    """The hard form is a copy with the equivariant pathway alone, or refused where there is none."""
    before = {name: value.clone() for name, value in case.layer.state_dict().items()}
    if EQUIVARIANT not in case.layer.pathways and not getattr(case.layer, "projected", False):
        try:
            harden(case.layer)
        except SofteqValueError:
            return
        raise AssertionError("a layer without an equivariant pathway was hardened; expected a SofteqValueError")
    hard: Any = harden(case.layer)
    ensure(list(hard.pathways) == [EQUIVARIANT], f"the hard form has the pathways {list(hard.pathways)}")
    ensure(type(hard) is type(case.layer), f"the hard form is a {type(hard).__name__}")
    ensure(hard.constraint == "hard", f"the hard form has constraint={hard.constraint!r}")
    ensure(hard.training == case.layer.training, "hardening changed the training mode")
    ensure(apart(hard, case.layer), "the hard form shares memory with the layer")
    after = case.layer.state_dict()
    ensure(all(torch.equal(after[name], value) for name, value in before.items()), "hardening changed the layer")
    if RESIDUAL in case.layer.pathways:
        with torch.no_grad():
            ensure_close(hard(*case.inputs), without_residual(case.layer)(*case.inputs), "the hard form's output")


@check
def penalty(case: Case) -> None:
    """Half the precision times the square of every number, once."""
    layer = case.copy()
    precisions = {name: 0.5 + 2.0 * i for i, name in enumerate([EQUIVARIANT, RESIDUAL, *layer.pathways])}
    precisions = {**dict.fromkeys((EQUIVARIANT, RESIDUAL), 0.5), **precisions}
    seen: set[int] = set()
    value = layer.penalty(precisions, seen)
    ensure(value.dim() == 0 and bool(value >= 0), f"expected a 0-d tensor of at least 0, got {value}")
    ensure(seen >= {id(p) for p in layer.parameters()}, "a parameter was not entered in `seen`")
    ensure(float(layer.penalty(precisions, seen)) == 0.0, "a parameter in `seen` was counted again")
    if getattr(layer, "projected", False) or layer.prior_means():
        return
    expected = sum(
        0.5 * precisions[name] * float(p.detach().double().square().sum())
        for name, pathway in layer.pathways.items()
        for p in pathway.parameters()
    )
    ensure_close(value.detach().double(), torch.tensor(expected, dtype=torch.float64), "the penalty", 1e-5)


@check
def defect(case: Case) -> None:
    """In [0, 1], 0 of the hard form, NaN of NaN."""
    layer = case.copy()
    if not isinstance(layer, MergedLayer):
        raise DoesNotApply("the layer has no merged weight")
    value = layer.weight_defect()
    ensure(0 <= value <= 1, f"expected a number in [0, 1], got {value}")
    if EQUIVARIANT in layer.pathways or getattr(layer, "projected", False):
        hard: Any = harden(layer.double())
        ensure(hard.weight_defect() < 1e-9, f"the hard form has a defect of {hard.weight_defect():.1e}")
    if EQUIVARIANT in layer.pathways:
        bare: Any = without_residual(layer)
        ensure(bare.weight_defect() < 1e-9, f"with a residual of zeros it is {bare.weight_defect():.1e}")
    if own := list(layer.parameters()):
        with torch.no_grad():
            for parameter in own:
                parameter.fill_(math.nan)
        if RESIDUAL in layer.pathways or getattr(layer, "projected", False):
            ensure(math.isnan(layer.weight_defect()), f"of NaN it is {layer.weight_defect()}")


@check
def gradients(case: Case) -> None:
    """Every number takes part in the output."""
    layer = case.copy()
    own = [p for p in layer.parameters() if p.numel()]
    if not own:
        raise DoesNotApply("the layer has no parameters")
    found = torch.autograd.grad(layer(*case.inputs).square().sum(), own, allow_unused=True)
    for name, gradient in zip((n for n, p in layer.named_parameters() if p.numel()), found, strict=True):
        ensure(gradient is not None and bool(gradient.isfinite().all()), f"{name} has no finite gradient")
        projected_away = f".{EQUIVARIANT}." in f".{name}" and isinstance(
            layer, MergedLayer
        )  # as of a weight kept whole
        ensure(projected_away or gradient is None or bool(gradient.any()), f"{name} has a gradient of zeros")


@check
def double(case: Case) -> None:
    """In float64 it computes the same more exactly, and what it folds into exactly the same."""
    layer, inputs = case.copy().double(), [x.double() for x in case.inputs]
    with torch.no_grad():
        exact = layer(*inputs)
        ensure(exact.dtype == torch.float64, f"the output is {exact.dtype}")
        ensure_close(case.output(), exact.float(), "the output in float32")
        ensure_close(fold(layer)(*inputs), exact, "the folded output in float64")


@check
def autocast(case: Case) -> None:
    """Under autocast it computes the same, to bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = case.layer(*case.inputs).detach()
    ensure_close(narrow.float(), case.output(), "the output under autocast", TOLERANCES[torch.bfloat16])


@check
def dtypes(case: Case) -> None:
    """Integers, complex numbers and another precision are refused in one line of ours."""
    if isinstance(case.layer, SoftPathways):
        raise DoesNotApply("what its modules take is theirs to say")
    for dtype in (torch.int64, torch.complex64, *([torch.float16] if list(case.layer.parameters()) else [])):
        try:
            with torch.no_grad():
                case.layer(*(x.to(dtype) for x in case.inputs))
        except SofteqError:
            continue
        except Exception as error:
            raise AssertionError(f"an input of {dtype} gave {type(error).__name__}: {error}") from error
        raise AssertionError(f"an input of {dtype} passed")


@check
def equivariance(case: Case) -> None:
    """The hard form is equivariant in float64; the tests of a layer say that it is not zero."""
    if EQUIVARIANT not in case.layer.pathways and not getattr(case.layer, "projected", False):
        raise DoesNotApply("the layer has no equivariant pathway")
    spaces = spaces_of(case.layer, case.inputs) if case.spaces is None else case.spaces
    if spaces is None:
        raise DoesNotApply("how the group acts is not known: give spaces")
    hard: Any = harden(case.layer).double().eval()
    first = spaces[0][0] if isinstance(spaces[0], tuple) else spaces[0]
    if isinstance(first, TokenShifts) and first.fill is not None:
        # Where the grid ends, only what a mask leaves in sight can be shifted: tokens of zeros are hidden.
        assert_equivariant(lambda x: hard(x, attn_mask=x.any(-1)[:, None, None]), *spaces)
        return
    assert_equivariant(hard, *spaces, dtype=torch.float64)
