"""Every operation that torch has samples of for its own tests, held against central differences: right, or refused."""

import functools

import pytest
import torch

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.forward_mode import push_forward

SAMPLES = 12  # of each operation
SIZE = 3000  # entries of the largest input
STEPS = (1e-5, 3e-6, 1e-6)
ROUNDS = ("half", "bfloat16", "chalf")  # differences see nothing of what is rounded so far


@functools.cache
def operations(dtype):
    pytest.importorskip("expecttest", reason="torch's samples need the package expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if dtype in op.dtypes and op.name not in ROUNDS]


def line(output):
    """What an operation returns, as one line of real numbers."""
    parts = []
    for value in output if isinstance(output, list | tuple) else [output]:
        if isinstance(value, list | tuple):
            parts.append(line(value))
        elif isinstance(value, torch.Tensor) and value.is_complex():
            parts.append(torch.view_as_real(value.resolve_conj()).reshape(-1))
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            parts.append(value.reshape(-1))
    return torch.cat(parts) if parts else torch.zeros(0)


def moving(value, x, dtype):
    """An argument that moves with x, where it is a tensor that can."""
    if isinstance(value, torch.Tensor) and value.dtype == dtype and value.layout == torch.strided and value.numel():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()), dtype=dtype)
        return value * (1 + 0.1 * torch.tanh(x.real if x.is_complex() else x).mean() * noise)
    if isinstance(value, list | tuple) and any(isinstance(entry, torch.Tensor) for entry in value):
        return type(value)(moving(entry, x, dtype) for entry in value)
    return value


def function(op, sample, dtype, arguments):
    """The operation at a sample as a function of real numbers of the input's shape, and where; None: not such a one."""
    several = isinstance(sample.input, list | tuple)
    first = sample.input[0] if several and sample.input else sample.input
    if not isinstance(first, torch.Tensor) or first.dtype != dtype or first.layout != torch.strided:
        return None
    if not 0 < first.numel() <= SIZE:
        return None
    turn = torch.randn(first.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    start = first.detach().clone()

    def f(x):
        z = start + 0.3 * turn * x if dtype.is_complex else x * 1.0
        move = functools.partial(moving, x=z, dtype=dtype) if arguments else lambda value: value
        rest = [move(value) for value in sample.args]
        named = {key: move(value) for key, value in sample.kwargs.items()}
        return line(op.op([z, *map(move, sample.input[1:])] if several else z, *rest, **named))

    return f, start.real.clone() if dtype.is_complex else start


def differences(f, x, direction):
    """The value and its derivative by central differences; None where f is not smooth, or does not run."""
    try:
        value = f(x)
        if not value.numel() or not value.isfinite().all() or not torch.equal(f(x), value):
            return None
        found = [(f(x + h * direction) - f(x - h * direction)) / (2 * h) for h in STEPS]
    except Exception:
        return None
    scale = max(float(found[1].abs().max()), float(value.abs().max()), 1e-3)
    smooth = all(float((other - found[1]).abs().max()) < 1e-5 * scale for other in found)
    return (value, found[1], scale) if smooth else None


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [False, True], ids=["input", "arguments"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_every_operation_is_followed_rightly_or_refused(dtype, arguments):
    wrong, right, refused = [], 0, 0
    for op in operations(dtype):
        for _, sample in zip(range(SAMPLES), op.sample_inputs("cpu", dtype, requires_grad=False), strict=False):
            made = function(op, sample, dtype, arguments)
            if made is None:
                continue
            f, x = made
            direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                expected = differences(f, x, direction)
            if expected is None:
                continue
            value, wanted, scale = expected
            try:
                got, (found,) = push_forward(f, x, direction[None])
                outcome = "refused" if not found.isfinite().all() else None  # which the measures refuse in words
            except NotMeasurable:
                outcome = "refused"
            if outcome:
                refused += 1
            elif (found - wanted).abs().max() < 1e-5 * scale and (got - value).abs().max() < 1e-9 * scale:
                right += 1
            else:
                wrong.append((op.name, op.variant_test_name, sample.args, sample.kwargs))
    assert not wrong
    assert right > 8 * refused > 0
