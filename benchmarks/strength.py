"""``python -m benchmarks strength``: rules for the prior's strength against hard, none and a grid picked by test error.

Every arm of a problem is trained alike, through the same prior step. Results are JSON lines, one per (problem, seed,
arm); what is there is not run again, so that a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.strength_problems import FAMILIES, Problem, names, problem, rate
from benchmarks.strength_stack import train_stacked
from benchmarks.strength_table import details, summary, with_tables
from softeq import Prior, strength
from softeq.experiments.training.loop import compiled_whole

NAME = "strength"
RECORDS = Path(__file__).with_suffix(".jsonl")
PAGE = "docs/how-to/strength.md"
RULE_ARMS = ("variational", "mackay", "group-lasso", "halving", "validation", "dual", "annealed", "remul")
FIXED = ("hard", "none", "soft")
STACKED = ("z6", "inertia")
"""Families whose networks can be trained many at once under fixed priors, and whose steps compile whole."""


def arms(given: Problem, rules: Sequence[str] = RULE_ARMS) -> list[str]:
    """Hard, none with each decay, the rules, the grid of fixed precisions."""
    none = [f"none@{decay:g}" for decay in given.decays]
    return ["hard", *none, *(name for name in rules if name not in given.unfit), *(f"soft@{c:g}" for c in given.grid)]


def train(given: Problem, arm: str, seed: int, compiled: bool = False) -> dict[str, Any]:
    """Trains one arm and measures it; NaN where the training diverged.

    ``compiled`` steps are the same sums, rounded differently; ``remul``, which watches tensors, has none.
    """
    steps = steps_of(given, arm)
    model, one = _prepared(given, arm, seed)
    compiled = compiled and arm.partition(":")[0] != "remul"
    called = compiled_whole(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=given.lr, fused=True)
    batches = given.batches(seed)
    began, last = time.process_time(), math.nan
    model.train()
    for step in range(steps):
        rows = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = given.lr * rate(step, steps)
        optimizer.zero_grad()
        with one.perturbed():
            loss, output = given.fit(called, rows)
        last = loss.item()
        if not math.isfinite(last):
            return {"error": math.nan, "diverged_at_step": step + 1}
        one.backward(loss, output)
        if given.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), given.clip)
        optimizer.step()
        one.step(optimizer)
    seconds = round(time.process_time() - began, 2)
    model.eval()
    found = {"error": given.error(model), "held_loss": given.held_loss(model), "train_loss": last}
    found |= {"cpu_seconds": seconds, "precisions": _precisions(one)}
    found |= {"compiled": True} if compiled else {}
    return found | ({"chosen": one.found} if isinstance(one, strength.RULES["halving"]) else {})


def steps_of(given: Problem, arm: str) -> int:
    """Of the loop: what halves several candidates costs two runs."""
    return given.steps * (2 if arm.partition(":")[0] == "halving" else 1)


def _prepared(given: Problem, arm: str, seed: int) -> tuple[nn.Module, strength.Rule]:
    kind, _, value = arm.partition("@")
    if kind in FIXED:
        model = given.build(kind)
        prior = Prior(given.equivariant, float(value) if value else 1.0)
        return model, strength.rule("fixed", model, samples=len(given.x), prior=prior, record=0)
    name, _, text = arm.partition(":")
    options = {key: _value(v) for key, _, v in (pair.partition("=") for pair in text.split(",") if pair)}
    # A penalty on the function is for any backbone: it has the unconstrained one.
    model = given.build("none" if name == "remul" else "soft")
    if name != "remul":
        options["prior"] = Prior(equivariant=given.equivariant)
    needed = {
        "annealed": lambda: {"steps": given.steps},
        "remul": lambda: {"action": given.action},
        "validation": lambda: {"held": _held_batches(given, model, seed)},
        "halving": lambda: {"held": lambda: given.held_loss(model), "steps": steps_of(given, arm)},
    }
    options |= needed.get(name, dict)()
    common = {"samples": len(given.x), "likelihood": given.likelihood, "record": 0}
    return model, strength.rule(name, model, **common, **options)


def _held_batches(given: Problem, model: nn.Module, seed: int) -> Callable[[], torch.Tensor]:
    """The loss on a random batch of held-out data, each time it is called."""
    drawn, count = torch.Generator().manual_seed(seed + 20_000), len(given.held[0])

    def held() -> torch.Tensor:
        return given.held_batch(model, torch.randint(0, count, (min(given.batch, count),), generator=drawn))

    return held


def _precisions(one: strength.Rule) -> dict[str, float]:
    return {
        f"{path.layer}:{path.pathway}": float(f"{path.precision / path.unit:.4g}") for path in getattr(one, "paths", ())
    }


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file; a line that a killed run left unfinished is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def todo(
    families: Sequence[str],
    seeds: int,
    wanted: Sequence[str] | None,
    done: set[tuple[str, int, str]],
    stacked: Sequence[str] = STACKED,
) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Per problem the pairs (seed, arm) of one training, of what is not in ``done``.

    Fixed priors of a family in ``stacked`` come together, all seeds at once and first; the rest one by one, all of a
    seed before the next one, so that what there is can be compared.
    """
    for family in families:
        for name in names(family) if family in stacked else ():
            for kind in FIXED:
                mine = [arm for arm in _asked(name, wanted) if arm.partition("@")[0] == kind]
                lacking = [seed for seed in range(seeds) if any((name, seed, arm) not in done for arm in mine)]
                if mine and lacking:
                    yield name, [(seed, arm) for seed in lacking for arm in mine]
    for seed in range(seeds):
        for family in families:
            for name in names(family):
                for arm in _asked(name, wanted):
                    fixed = arm.partition("@")[0] in FIXED and family in stacked
                    if not fixed and (name, seed, arm) not in done:
                        yield name, [(seed, arm)]


def _asked(name: str, wanted: Sequence[str] | None) -> list[str]:
    return list(wanted) if wanted else arms(problem(name, 0))


def run_all(
    path: Path,
    *,
    families: Sequence[str] = FAMILIES,
    seeds: int = 5,
    wanted: Sequence[str] | None = None,
    limit: int | None = None,
    only: str = "",
    compiled: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Runs what the records lack; how many trainings that were, of which one may be of many networks.

    Args:
        path: the JSON lines.
        families: among `FAMILIES`.
        seeds: from 0 on.
        wanted: arms, all by default. A rule's options follow a colon: ``variational:start=10``.
        limit: at most so many trainings.
        only: the end of a problem's name.
        compiled: compile the steps, of one network at a time; of families in `STACKED`.
        say: told after each training.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("a") as file:
            file.write("\n")  # a killed run left half a line
    done = {(r["problem"], r["seed"], r["arm"]) for r in read(path)}
    count = 0
    for name, pairs in todo(families, seeds, wanted, done, () if compiled else STACKED):
        if not name.endswith(only):
            continue
        if limit is not None and count >= limit:
            break
        new = {pair: r for pair, r in _trained(name, pairs, compiled).items() if (name, *pair) not in done}
        with path.open("a") as file:
            for (seed, arm), result in new.items():
                file.write(json.dumps({"problem": name, "seed": seed, "arm": arm, **result}) + "\n")
        for (seed, arm), result in new.items():
            say(f"{name} seed {seed} {arm}: {result['error']:.4g}")
        count += 1
    return count


def _trained(
    name: str, pairs: Sequence[tuple[int, str]], compiled: bool = False
) -> dict[tuple[int, str], dict[str, Any]]:
    if len(pairs) == 1:
        ((seed, arm),) = pairs
        return {(seed, arm): train(problem(name, seed), arm, seed, compiled)}
    seeds, kinds = (list(dict.fromkeys(pair[k] for pair in pairs)) for k in (0, 1))
    return train_stacked({seed: problem(name, seed) for seed in seeds}, kinds)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m benchmarks strength``: runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks strength",
        description="Rules for the prior's strength against hard, none and a grid picked by test error. Resumable.",
        epilog="example: nice -n 15 python -m benchmarks strength --family z6 --seeds 2 --limit 50",
    )
    parser.add_argument("--family", action="append", choices=FAMILIES, help="may be given again; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arm", action="append", help="such as hard, none@0.1, soft@10, mackay:start=30")
    parser.add_argument("--problem", default="", help="the end of a problem's name, such as n100/e0.1")
    parser.add_argument("--limit", type=int, help="at most so many trainings; 0 prints the tables alone")
    parser.add_argument("--out", type=Path, default=RECORDS, help="the JSON lines")
    parser.add_argument("--docs", type=Path, help=f"a page whose tables are renewed, such as {PAGE}")
    parser.add_argument("--compile", action="store_true", help=f"compile the steps, of {' and '.join(STACKED)} alone")
    options = parser.parse_args(arguments)
    if options.compile and not set(options.family or FAMILIES) <= set(STACKED):
        parser.error(f"--compile: torch compiles the steps of {' and '.join(STACKED)} alone; name them with --family")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_all(
            options.out,
            families=options.family or FAMILIES,
            seeds=options.seeds,
            wanted=options.arm,
            limit=options.limit,
            only=options.problem,
            compiled=options.compile,
        )
    finally:
        torch.set_num_threads(before)
    records = read(options.out)
    print(f"{summary(records)}\n\n{details(records)}")
    if options.docs:
        options.docs.write_text(with_tables(options.docs.read_text(), records))
    return 0
