"""The whole soft network against the plain MLP of its width, on inertia: 384 channels, 3 layers, batch 500.

A training step is forward, mean squared error, penalty, backward and one step of Adam, with the batch in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.naive import l2_penalty
from benchmarks.report import Report, Row, compared, table
from benchmarks.timing import cold_compiler, interleaved, seconds_of, using_threads
from softeq import Prior, Scalar, T, Vector, prior_penalty
from softeq.experiments.data.inertia import inertia_data
from softeq.groups import O
from softeq.models.dynamics import SoftEMLP
from softeq.models.mlp import MLP

NAME = "networks"
TWIN = "MLP, L2"
REACH = {"soft": "5, then 3"}
# Of the published JAX code, in training steps of its own MLP, two cores, batch 500, 384 channels: as released, and
# with its bilinear layer contracted per block. Measured for this project on another machine, not in this run.
PUBLISHED = {"soft": (378, 8.9), "hard": (379, 8.4)}
PRIOR = Prior(equivariant=1e-3, residual=1.0)
_CASE = "training step, "
_N_TRAIN = 1000
_LR = 1e-5  # small: a thousand steps on one batch leave the numbers where they were

Loss = Callable[[Tensor, Tensor], Tensor]


def arms(channels: int = 384, layers: int = 3) -> dict[str, tuple[nn.Module, Loss]]:
    """Per arm its network and its loss: the mean squared error plus the penalty per training sample."""
    group = O(3)
    rep_in, rep_out = (5 * Scalar + 5 * Vector)(group), T(2)(group)

    def soft(constraint: str, published: bool) -> tuple[nn.Module, Loss]:
        torch.manual_seed(0)
        model = SoftEMLP(rep_in, rep_out, channels=channels, layers=layers, constraint=constraint, published=published)
        return model, lambda x, y: mse_loss(model(x), y) + prior_penalty(model, PRIOR) / _N_TRAIN

    torch.manual_seed(0)
    mlp = MLP(rep_in.size, rep_out.size, channels=channels, layers=layers)
    return {
        TWIN: (mlp, lambda x, y: mse_loss(mlp(x), y) + l2_penalty(mlp, PRIOR.residual) / _N_TRAIN),
        "soft": soft("soft", False),
        "hard": soft("hard", False),
        "soft, published": soft("soft", True),
    }


def batch(rows: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Inputs ``(rows, 20)`` and inertia tensors ``(rows, 9)``."""
    data = inertia_data(0, sizes=(rows, 1, 1)).to(device)
    return data.x_train, data.y_train


def training_step(module: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A function that runs one step of Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=_LR, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    return step


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (1,),
    channels: int = 384,
    rows: int = 500,
    blocks: int = 15,
    block_seconds: float = 0.1,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every arm, eager and compiled.

    Args:
        quick: eager alone, on the first number of threads, and fewer blocks.
        threads: the numbers of threads to measure on; compiled, on the last one alone (compiling takes minutes).
        channels, rows: the width and the batch.
        blocks, block_seconds: see `interleaved`.
        device: ``cpu`` or ``cuda``.
        say: told what is under way.
    """
    done: list[Row] = []
    remarks = ["published: in MLP training steps of the JAX code, measured elsewhere and not in this run"]
    blocks = min(blocks, 5) if quick else blocks

    def trained(count: int, mode: str) -> list[Row]:
        say(f"networks: {mode}, threads: {count}")
        built = {name: (module.to(device), loss) for name, (module, loss) in arms(channels).items()}
        steps, compiling = _steps(built, mode, batch(rows, device), device, say)
        taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds, device=device)
        return compared(NAME, f"{_CASE}{mode}", taken, TWIN, count, compiling)

    for count in threads[:1] if quick else threads:
        with using_threads(count):
            done += trained(count, "eager")
    if not quick:
        try:
            with using_threads(threads[-1]), cold_compiler():
                done += trained(threads[-1], "compiled")
        except RuntimeError as error:
            remarks.append(f"torch.compile does not work here: {str(error).strip().splitlines()[0]}")
    return Report(done, [_table(done, channels, rows)], remarks)


def _steps(
    built: Mapping[str, tuple[nn.Module, Loss]],
    mode: str,
    data: tuple[Tensor, Tensor],
    device: str,
    say: Callable[[str], None],
) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """The steps by arm, and the seconds that the first call of each took where it was compiled."""
    steps, compiling = {}, {}
    for name, (module, loss) in built.items():
        if mode == "compiled":
            say(f"networks: compiling {name}")
            steps[name] = training_step(module, torch.compile(loss), *data)
            compiling[name] = seconds_of(steps[name], device)
        else:
            steps[name] = training_step(module, loss, *data)
    return steps, compiling


def _table(rows: Sequence[Row], channels: int, batch_rows: int) -> Table:
    lines = []
    for row in rows:
        released, rewritten = PUBLISHED.get(row.arm.split(",")[0], ("", "")) if row.ratio else ("", "")
        lines.append(
            [
                row.case.removeprefix(_CASE),
                str(row.threads),
                row.arm,
                row.seconds.text(1e3),
                row.ratio.text() if row.ratio else "1",
                REACH.get(row.arm, ""),
                "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
                str(released),
                str(rewritten),
            ]
        )
    columns = ["step", "threads", "arm", "ms", "over the MLP", "reach", "compile s", "published", "rewritten"]
    title = f"networks: SoftEMLP, {channels} channels, 3 layers, O(3), inertia, batch {batch_rows}"
    caption = "median [min, max] over blocks; rewritten: the published code with its bilinear layer contracted"
    return table(title, columns, lines, caption)
