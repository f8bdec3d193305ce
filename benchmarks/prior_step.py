"""What the prior costs in a training step: its own part, and the rules that choose its precision.

The soft network on inertia, 128 channels, batch 500: forward, mean squared error, backward, Adam. Without a prior; with
its penalty in the loss; with the prior step; and with the rules, whose probes come every ten steps after the first five
hundred, so that blocks are of ten after a warm-up. Ratios are to the step with a fixed prior, its own to the step
without one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.networks import batch
from benchmarks.report import Report, Row, compared, table
from benchmarks.timing import interleaved, using_threads
from softeq import Prior, Scalar, SofteqWarning, T, Vector, prior_penalty, strength
from softeq.groups import O
from softeq.models.dynamics import SoftEMLP

NAME = "prior-step"
PLAIN, FIXED = "no prior", "fixed"
ARMS = (PLAIN, "penalty in the loss", FIXED, "variational", "mackay", "group-lasso")
REACH = {FIXED: "1.03 over no prior", "variational": "1.15", "mackay": "1.15", "group-lasso": "1.15"}
PRIOR = Prior(equivariant=1e-3, residual=10.0)
_SAMPLES = 1000
_STEPS = 10
_WARM_UP = 500
"""Curvature is probed and renewed more often at first than in most of a training."""


def network(channels: int) -> nn.Module:
    """The soft network, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SoftEMLP((5 * Scalar + 5 * Vector)(O(3)), T(2)(O(3)), channels=channels, layers=3)


def steps_of(arm: str, channels: int, data: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """A function that runs ten training steps of this arm, where the data are."""
    x, y = data
    model = network(channels).to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)

    def without(penalised: bool) -> None:
        for _ in range(_STEPS):
            optimizer.zero_grad()
            loss = mse_loss(model(x), y)
            (loss + prior_penalty(model, PRIOR) / _SAMPLES if penalised else loss).backward()
            optimizer.step()

    if arm == PLAIN:
        return lambda: without(False)
    if arm == ARMS[1]:
        return lambda: without(True)
    rule = strength.rule(arm, model, samples=_SAMPLES, prior=PRIOR, record=0)

    def under() -> None:
        for _ in range(_STEPS):
            optimizer.zero_grad()
            with rule.perturbed():
                output = model(x)
                loss = mse_loss(output, y)
            rule.backward(loss, output)
            optimizer.step()
            rule.step(optimizer)

    return under


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (1,),
    channels: int = 128,
    rows: int = 500,
    blocks: int = 15,
    block_seconds: float = 0.3,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every arm, eager.

    Args:
        quick: fewer blocks.
        threads: the first number alone is used.
        channels, rows: the width and the batch.
        blocks, block_seconds: see `interleaved`.
        device: ``cpu`` or ``cuda``.
        say: told what is under way.
    """
    say("prior-step")
    with using_threads(threads[0]), warnings.catch_warnings():
        warnings.simplefilter("ignore", SofteqWarning)
        steps = {arm: steps_of(arm, channels, batch(rows, device)) for arm in ARMS}
        for step in steps.values():
            for _ in range(_WARM_UP // _STEPS):
                step()
        blocks = min(blocks, 5) if quick else blocks
        taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds, device=device)
    taken = {arm: [seconds / _STEPS for seconds in each] for arm, each in taken.items()}
    own = {arm: taken[arm] for arm in (PLAIN, ARMS[1], FIXED)}
    rules = {arm: taken[arm] for arm in ARMS[2:]}
    done = compared(NAME, "the prior", own, PLAIN, threads[0]) + compared(NAME, "the rules", rules, FIXED, threads[0])
    return Report(done, [_table(done, channels, rows)])


def _table(rows: Sequence[Row], channels: int, batch_rows: int) -> object:
    lines = [
        [
            row.case,
            row.arm,
            row.seconds.text(1e3),
            row.ratio.text() if row.ratio else "1",
            row.twin,
            REACH.get(row.arm, ""),
        ]
        for row in rows
    ]
    title = f"prior-step: SoftEMLP, {channels} channels, 3 layers, O(3), batch {batch_rows}, Adam"
    return table(title, ["of", "arm", "ms", "ratio", "over", "reach"], lines, "median [min, max] over blocks")
