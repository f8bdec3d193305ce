"""A soft linear layer against ``nn.Linear`` of its shape with an L2 penalty: 384 -> 384 over O(3) tensors, batch 500.

A training step is forward, backward (to the input too, as inside a network) and penalty, without an optimizer. The
gradient at the output is given, so that no loss function's time is shared out among the arms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.naive import NaiveTwoPathways, l2_penalty
from benchmarks.report import Report, Row, compared, in_both_modes, table
from benchmarks.timing import interleaved, seconds_of
from softeq import Prior, SoftLinear, fold, harden, prior_penalty
from softeq.groups import O
from softeq.models.dynamics import uniform_rep

NAME = "layers"
TWIN = "nn.Linear, L2"
PLAIN = "nn.Linear"
REACH = {"projected": "1.10, then 1.05", "pathways": "1.25", "folded": "1.00"}
PRIOR = Prior(equivariant=1e-3, residual=1.0)

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def arms(channels: int = 384) -> dict[str, tuple[nn.Module, Forward]]:
    """Per arm its module and the function that gives output and penalty.

    All but ``hard`` have the same merged weight and bias, those of one soft layer.
    """
    rep = uniform_rep(channels, O(3))
    torch.manual_seed(0)
    soft = SoftLinear(rep, rep)
    plain = fold(soft)
    projected = SoftLinear(rep, rep, parametrization="projected")
    with torch.no_grad():
        projected.weight.copy_(plain.weight)
        projected.bias.copy_(plain.bias)
    naive = NaiveTwoPathways(soft)

    def with_prior(layer: nn.Module) -> tuple[nn.Module, Forward]:
        return layer, lambda x: (layer(x), prior_penalty(layer, PRIOR))

    return {
        TWIN: (plain, lambda x: (plain(x), l2_penalty(plain, PRIOR.residual))),
        "projected": with_prior(projected),
        "pathways": with_prior(soft),
        "hard": with_prior(harden(soft)),
        "naive two pathways": (naive, lambda x: (naive(x), naive.penalty(PRIOR))),
    }


def inference_arms(channels: int = 384) -> dict[str, nn.Module]:
    """The plain layer, a soft layer folded into one, and the same soft layer as it is; all with one weight."""
    rep = uniform_rep(channels, O(3))
    torch.manual_seed(0)
    soft = SoftLinear(rep, rep).eval()
    plain = nn.Linear(channels, channels).eval()
    plain.load_state_dict(fold(soft).state_dict())
    return {PLAIN: plain, "folded": fold(soft), "not folded": soft}


def batch(rows: int, channels: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Inputs that want a gradient, and a gradient at the output, ``(rows, channels)`` each."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, rows, channels, generator=generator).unbind()
    return x.clone().to(device).requires_grad_(), grad.clone().to(device)


def training_step(module: nn.Module, forward: Forward, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """A function that runs one step and leaves the gradients behind."""
    leaves = [x, *module.parameters()]
    one = torch.ones((), device=x.device)

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        y, penalty = forward(x)
        torch.autograd.backward((y, penalty), (grad, one))

    return step


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (1,),
    channels: int = 384,
    rows: int = 500,
    blocks: int = 25,
    block_seconds: float = 0.06,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every arm, eager and compiled.

    Args:
        quick: eager alone, on the first number of threads, and fewer blocks.
        threads: the numbers of threads to measure on, one after the other.
        channels, rows: the layer's width and the batch.
        blocks, block_seconds: see `interleaved`.
        device: ``cpu`` or ``cuda``.
        say: told what is under way.
    """
    blocks = min(blocks, 9) if quick else blocks

    def trained(count: int, mode: str) -> list[Row]:
        say(f"layers: {mode}, threads: {count}")
        built = {name: (module.to(device), forward) for name, (module, forward) in arms(channels).items()}
        steps, compiling = _steps(built, mode, batch(rows, channels, device), device)
        taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds, device=device)
        return compared(NAME, f"training step, {mode}", taken, TWIN, count, compiling)

    def inferred(count: int) -> list[Row]:
        layers = {name: layer.to(device) for name, layer in inference_arms(channels).items()}
        x = batch(rows, channels, device)[0].detach()
        with torch.inference_mode():
            steps = {name: lambda layer=layer: layer(x) for name, layer in layers.items()}
            taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds, device=device)
        return compared(NAME, "inference, eager", taken, PLAIN, count)

    done, remarks = in_both_modes(threads, trained, inferred, quick=quick)
    return Report(done, [_table(done, channels, rows)], remarks)


def _steps(
    built: Mapping[str, tuple[nn.Module, Forward]], mode: str, data: tuple[Tensor, Tensor], device: str
) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """The steps by arm, and the seconds that the first call of each took where it was compiled."""
    steps, compiling = {}, {}
    for name, (module, forward) in built.items():
        if mode == "compiled":
            steps[name] = training_step(module, torch.compile(forward), *data)
            compiling[name] = seconds_of(steps[name], device)
        else:
            steps[name] = training_step(module, forward, *data)
    return steps, compiling


def _table(rows: Sequence[Row], channels: int, batch_rows: int) -> Table:
    lines = [
        [
            row.case,
            str(row.threads),
            row.arm,
            row.seconds.text(1e3),
            row.ratio.text() if row.ratio else "1",
            REACH.get(row.arm, ""),
            "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
        ]
        for row in rows
    ]
    columns = ["layers", "threads", "arm", "ms", "over plain", "reach", "compile s"]
    title = f"layers: {channels} -> {channels} over O(3) tensors, batch {batch_rows}"
    caption = "median [min, max] over blocks; a training step is forward, backward and penalty"
    return table(title, columns, lines, caption)
