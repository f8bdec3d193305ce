"""Soft convolutions against ``nn.Conv2d`` of their size with an L2 penalty.

``SoftR2Conv``: 64 -> 64 channels of regular fields of C4 and of C8, 5 x 5, batch 32 of 32 x 32 images. ``SoftConv2d``
local and lowrank: 16 -> 16 channels, 3 x 3, batch 32 of 16 x 16, as many weights as a local layer reasonably has. A
training step is forward, backward (to the input too) and penalty, without an optimizer.

The floor of a soft layer is what it cannot avoid: its multiplications over the plain layer's or, where memory binds,
its bytes over the plain layer's. Low rank does ``rank + 1`` times the multiplications; local does as many as the plain
layer and reads a kernel per position.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.layers import Forward, training_step
from benchmarks.naive import l2_penalty
from benchmarks.report import Report, Row, compared, in_both_modes, table
from benchmarks.timing import digits, interleaved, seconds_of
from softeq import Prior, fold, harden, prior_penalty
from softeq.conv import SoftConv2d
from softeq.steerable import SoftR2Conv

NAME = "convolutions"
TWIN = "nn.Conv2d, L2"
PLAIN = "nn.Conv2d"
PRIOR = Prior(equivariant=1e-3, residual=1.0)
REACH = {"soft": "1.10", "folded": "1.00"}
RANK = 4


@dataclass(frozen=True)
class Setting:
    """Channels in and out, side of the square kernel, batch, side of the square images."""

    channels: int = 64
    kernel: int = 5
    batch: int = 32
    side: int = 32

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs that want a gradient, and a gradient at the output."""
        generator = torch.Generator().manual_seed(0)
        shape = (2, self.batch, self.channels, self.side, self.side)
        x, grad = torch.randn(shape, generator=generator).unbind()
        return x.clone().requires_grad_(), grad.clone()

    def text(self) -> str:
        k, s = self.kernel, self.side
        return f"{self.channels} -> {self.channels}, {k} x {k}, batch {self.batch} of {s} x {s}"


STEERABLE = Setting()
UNSHARED = Setting(16, 3, 32, 16)


def steerable(order: int, setting: Setting) -> SoftR2Conv:
    """A layer between regular fields of the rotations by 2 pi / order.

    Raises:
        RuntimeError: escnn is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escnn misses py3nj, which the plane does not need
            from escnn import gspaces
            from escnn.nn import FieldType
    except ImportError as error:
        raise RuntimeError("steerable convolutions need escnn: pip install 'softeq[escnn]'") from error
    space = gspaces.rot2dOnR2(order)
    fields = FieldType(space, [space.regular_repr] * (setting.channels // order))
    torch.manual_seed(0)
    return SoftR2Conv(fields, fields, setting.kernel, padding=setting.kernel // 2)


def with_prior(layer: nn.Module) -> tuple[nn.Module, Forward]:
    """A soft layer as an arm."""
    return layer, lambda x: (layer(x), prior_penalty(layer, PRIOR))


def steerable_arms(order: int, setting: Setting = STEERABLE) -> dict[str, tuple[nn.Module, Forward]]:
    """The plain layer, the soft one of the same filter, and its hard twin."""
    soft = steerable(order, setting)
    plain = fold(soft)
    return {
        TWIN: (plain, lambda x: (plain(x), l2_penalty(plain, PRIOR.residual))),
        "soft": with_prior(soft),
        "hard": with_prior(harden(soft)),
    }


def unshared_arms(setting: Setting = UNSHARED) -> dict[str, tuple[nn.Module, Forward]]:
    """The plain layer and soft ones with its kernel, by the residual's form; ``summed`` runs the pathways apart."""
    torch.manual_seed(0)
    plain = nn.Conv2d(setting.channels, setting.channels, setting.kernel, padding=setting.kernel // 2)
    arms: dict[str, tuple[nn.Module, Forward]] = {
        TWIN: (plain, lambda x: (plain(x), l2_penalty(plain, PRIOR.residual)))
    }
    for form in ("local", "lowrank"):
        arms[form] = with_prior(SoftConv2d.from_conv(plain, setting.side, residual=form, rank=RANK))
    local = SoftConv2d.from_conv(plain, setting.side, residual="local")
    residual = local.pathways["residual"]

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        own = local.pathways["equivariant"]
        y = local.window.convolve(x, own.weight, own.bias) + residual.compute(x, None, residual.bias)
        return y, prior_penalty(local, PRIOR)

    arms["local, summed"] = (local, summed)
    return arms


def floors(setting: Setting = UNSHARED, rank: int = RANK) -> dict[str, dict[str, float]]:
    """Per form its multiplications and its bytes over those of the plain layer, in a training step.

    Multiplications: forward, and as many again for each of the two gradients. Bytes in float32: input, output and
    their gradients read or written once a pass (six times in all) and weights three times (forward, gradient of the
    input, gradient of the weight).
    """
    positions, images = setting.side**2, setting.batch * setting.channels * setting.side**2
    kernel = setting.channels**2 * setting.kernel**2
    bias = setting.channels * positions
    weights = {
        "local": kernel * positions + bias + kernel,
        "lowrank": (rank + 1) * kernel + rank * positions + bias,
    }
    plain = 6 * images + 3 * (kernel + setting.channels)
    operations = {"local": 1.0, "lowrank": float(rank + 1)}
    return {
        form: {"operations_over_plain": operations[form], "bytes_over_plain": (6 * images + 3 * own) / plain}
        for form, own in weights.items()
    }


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (1,),
    steerable_setting: Setting = STEERABLE,
    unshared_setting: Setting = UNSHARED,
    blocks: int = 15,
    block_seconds: float = 0.3,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every arm, eager and compiled.

    Args:
        quick: eager alone, on the first number of threads, and fewer blocks.
        threads: the numbers of threads to measure on, one after the other.
        steerable_setting, unshared_setting: the sizes.
        blocks, block_seconds: see `interleaved`.
        say: told what is under way.

    Raises:
        RuntimeError: escnn is not installed.
    """
    blocks = min(blocks, 7) if quick else blocks
    cases = {f"C{order}": (lambda order=order: steerable_arms(order, steerable_setting)) for order in (4, 8)}
    cases["unshared"] = lambda: unshared_arms(unshared_setting)

    def trained(count: int, mode: str) -> list[Row]:
        rows: list[Row] = []
        for case, arms in cases.items():
            say(f"convolutions: {case}, {mode}, threads: {count}")
            setting = unshared_setting if case == "unshared" else steerable_setting
            rows += _trained(case, arms(), mode, setting, count, blocks, block_seconds)
        return rows

    def inferred(count: int) -> list[Row]:
        return _infer(steerable_setting, count, blocks, block_seconds)

    done, remarks = in_both_modes(threads, trained, inferred, quick=quick)
    known = floors(unshared_setting)
    done = [replace(row, more=known[row.arm.split(",")[0]]) if row.arm.startswith("lo") else row for row in done]
    return Report(done, [_table(done, steerable_setting, unshared_setting)], remarks)


def _trained(
    case: str,
    arms: dict[str, tuple[nn.Module, Forward]],
    mode: str,
    setting: Setting,
    threads: int,
    blocks: int,
    block_seconds: float,
) -> list[Row]:
    x, grad = setting.data()
    steps, compiling = {}, {}
    for name, (module, forward) in arms.items():
        if mode == "compiled":
            steps[name] = training_step(module, torch.compile(forward), x, grad)
            compiling[name] = seconds_of(steps[name])
        else:
            steps[name] = training_step(module, forward, x, grad)
    taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds)
    return compared(NAME, f"{case}, training step, {mode}", taken, TWIN, threads, compiling)


def inference_arms(setting: Setting = STEERABLE) -> dict[str, nn.Module]:
    """The plain layer, a soft one folded into it, and the same soft one as it is; all with one filter."""
    soft = steerable(8, setting).eval()
    plain = nn.Conv2d(setting.channels, setting.channels, setting.kernel, padding=setting.kernel // 2).eval()
    plain.load_state_dict(fold(soft).state_dict())
    return {PLAIN: plain, "folded": fold(soft), "not folded": soft}


def _infer(setting: Setting, threads: int, blocks: int, block_seconds: float) -> list[Row]:
    x = setting.data()[0].detach()
    with torch.inference_mode():
        steps = {name: lambda layer=layer: layer(x) for name, layer in inference_arms(setting).items()}
        taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds)
    return compared(NAME, "C8, inference, eager", taken, PLAIN, threads)


def _table(rows: Sequence[Row], steerable_setting: Setting, unshared_setting: Setting) -> Table:
    lines = []
    for row in rows:
        more = row.more
        floor = f"{digits(more['operations_over_plain'])}, {digits(more['bytes_over_plain'])}" if more else ""
        ratio = row.ratio.text() if row.ratio else "1"
        compiling = "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}"
        reach = REACH.get(row.arm, "")
        lines.append([row.case, str(row.threads), row.arm, row.seconds.text(1e3), ratio, reach, floor, compiling])
    columns = ["convolutions", "threads", "arm", "ms", "over plain", "reach", "floor: operations, bytes", "compile s"]
    title = f"C4, C8: {steerable_setting.text()}; unshared: {unshared_setting.text()}"
    caption = "median [min, max] over blocks; a training step is forward, backward and penalty"
    return table(title, columns, lines, caption)
