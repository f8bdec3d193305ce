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

from benchmarks.strength_problems import FAMILIES, Problem, names, problem
from softeq import Prior, strength

NAME = "strength"
RECORDS = Path(__file__).with_suffix(".jsonl")
RULE_ARMS = ("variational", "mackay", "group-lasso")


def arms(given: Problem, rules: Sequence[str] = RULE_ARMS) -> list[str]:
    """Hard, none with each decay, the rules, the grid of fixed precisions."""
    none = [f"none@{decay:g}" for decay in given.decays]
    return ["hard", *none, *rules, *(f"soft@{c:g}" for c in given.grid)]


def train(given: Problem, arm: str, seed: int) -> dict[str, Any]:
    """Trains one arm and measures it; NaN where the training diverged."""
    model, one = _prepared(given, arm, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=given.lr)
    order = torch.Generator().manual_seed(seed + 10_000)
    queue = torch.empty(0, dtype=torch.long)
    size = min(given.batch, len(given.x))
    began, last = time.process_time(), math.nan
    model.train()
    for step in range(given.steps):
        if len(queue) < size:
            queue = torch.randperm(len(given.x), generator=order)
        rows, queue = queue[:size], queue[size:]
        for group in optimizer.param_groups:
            group["lr"] = given.lr * _rate(step, given.steps)
        optimizer.zero_grad()
        with one.perturbed():
            output = model(given.x[rows])
            loss = given.loss(output, given.y[rows])
        last = loss.item()
        if not math.isfinite(last):
            return {"error": math.nan, "diverged_at_step": step + 1}
        one.backward(loss, output)
        if given.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), given.clip)
        optimizer.step()
        one.step(optimizer)
    model.eval()
    found = {"error": given.error(model), "train_loss": last, "cpu_seconds": round(time.process_time() - began, 2)}
    return found | {"held_loss": _held_loss(given, model), "precisions": _precisions(one)}


def _prepared(given: Problem, arm: str, seed: int) -> tuple[nn.Module, strength.Rule]:
    kind, _, value = arm.partition("@")
    if kind in ("hard", "none", "soft"):
        model = given.build(kind)
        prior = Prior(given.equivariant, float(value) if value else 1.0)
        return model, strength.rule("fixed", model, samples=len(given.x), prior=prior, record=0)
    name, _, text = arm.partition(":")
    options = {key: _value(v) for key, _, v in (pair.partition("=") for pair in text.split(",") if pair)}
    model = given.build("soft")
    if "held" in options:
        options["held"] = _held_batches(given, model, seed)
    one = strength.rule(
        name,
        model,
        samples=len(given.x),
        likelihood=given.likelihood,
        prior=Prior(equivariant=given.equivariant),
        record=0,
        **options,
    )
    return model, one


def _held_batches(given: Problem, model: nn.Module, seed: int) -> Callable[[], torch.Tensor]:
    """The loss on a random batch of held-out data, each time it is called."""
    drawn = torch.Generator().manual_seed(seed + 20_000)
    x, y = given.held

    def held() -> torch.Tensor:
        rows = torch.randint(0, len(x), (min(given.batch, len(x)),), generator=drawn)
        return given.loss(model(x[rows]), y[rows])

    return held


def _held_loss(given: Problem, model: nn.Module) -> float:
    x, y = given.held
    with torch.no_grad():
        return given.loss(model(x), y).item()


def _precisions(one: strength.Rule) -> dict[str, float]:
    return {
        f"{path.layer}:{path.pathway}": float(f"{path.precision / path.unit:.4g}") for path in getattr(one, "paths", ())
    }


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _rate(step: int, steps: int) -> float:
    rise = max(1, steps // 20)
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))


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
    families: Sequence[str], seeds: int, wanted: Sequence[str] | None, done: set[tuple[str, int, str]]
) -> Iterator:
    """What is not in ``done``: all of a seed before the next one, so that what there is can be compared."""
    for seed in range(seeds):
        for family in families:
            for name in names(family):
                for arm in wanted or arms(problem(name, seed)):
                    if (name, seed, arm) not in done:
                        yield name, seed, arm


def run_all(
    path: Path,
    *,
    families: Sequence[str] = FAMILIES,
    seeds: int = 5,
    wanted: Sequence[str] | None = None,
    limit: int | None = None,
    only: str = "",
    say: Callable[[str], None] = print,
) -> int:
    """Runs what the records lack; how many were run.

    Args:
        path: the JSON lines.
        families: among `FAMILIES`.
        seeds: from 0 on.
        wanted: arms, all by default. A rule's options follow a colon: ``variational:start=10``.
        limit: at most so many runs.
        only: the end of a problem's name.
        say: told after each run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("a") as file:
            file.write("\n")  # a killed run left half a line
    done = {(r["problem"], r["seed"], r["arm"]) for r in read(path)}
    count = 0
    for name, seed, arm in todo(families, seeds, wanted, done):
        if not name.endswith(only):
            continue
        if limit is not None and count >= limit:
            break
        result = {"problem": name, "seed": seed, "arm": arm, **train(problem(name, seed), arm, seed)}
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        say(f"{name} seed {seed} {arm}: {result['error']:.4g}")
        count += 1
    return count


def ratios_to_oracle(records: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Per (problem, rule) the errors over the oracle's, seed by seed.

    The oracle is the arm with the lowest mean *test* error among hard, none with its decays and the fixed precisions,
    over the seeds that all of them have: what nobody can choose. A problem without any of the three kinds is left out.
    """
    errors: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        errors.setdefault(record["problem"], {}).setdefault(record["arm"], {})[record["seed"]] = record["error"]
    found: dict[tuple[str, str], list[float]] = {}
    for name, by_arm in errors.items():
        fixed = {arm: by_seed for arm, by_seed in by_arm.items() if arm.partition("@")[0] in ("hard", "none", "soft")}
        if {arm.partition("@")[0] for arm in fixed} != {"hard", "none", "soft"}:
            continue
        seeds = set.intersection(*(set(by_seed) for by_seed in fixed.values()))
        if not seeds:
            continue
        best = min(fixed.values(), key=lambda by_seed: math.fsum(by_seed[s] for s in seeds))
        for arm, by_seed in by_arm.items():
            common = sorted(seeds & set(by_seed))
            if common:
                found[name, arm] = [by_seed[s] / best[s] for s in common]
    return found


def markdown(records: Sequence[dict[str, Any]], shown: Sequence[str] = ("hard", *RULE_ARMS)) -> str:
    """A table: a line per problem, the error of each arm over the oracle's (mean over seeds), and how many seeds."""
    ratios = ratios_to_oracle(records)
    problems = list(dict.fromkeys(name for name, _ in ratios))
    lines = ["| problem | n | oracle | " + " | ".join(shown) + " |", "|---|" + "---|" * (len(shown) + 2)]
    for name in problems:
        own = [r for r in records if r["problem"] == name]
        oracle = next(arm for (p, arm), v in ratios.items() if p == name and all(x == 1 for x in v))
        cells = [ratios.get((name, arm), []) for arm in shown]
        seeds = max(len(v) for (p, _), v in ratios.items() if p == name)
        error = math.fsum(r["error"] for r in own if r["arm"] == oracle) / max(1, sum(r["arm"] == oracle for r in own))
        texts = [f"{math.fsum(v) / len(v):.2f}" if v else "" for v in cells]
        lines.append(f"| {name} | {seeds} | {oracle}: {error:.3g} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m benchmarks strength``: runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks strength",
        description="Rules for the prior's strength against hard, none and a grid picked by test error. Resumable.",
        epilog="example: nice -n 15 python -m benchmarks strength --family z6 --seeds 2 --limit 50",
    )
    parser.add_argument("--family", action="append", choices=FAMILIES, help="may be given again; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arm", action="append", help="such as hard, none@0.1, soft@10, mackay:start=30")
    parser.add_argument("--problem", default="", help="the end of a problem's name, such as n100/e0.1")
    parser.add_argument("--limit", type=int, help="at most so many runs")
    parser.add_argument("--out", type=Path, default=RECORDS, help="the JSON lines")
    options = parser.parse_args(arguments)
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
        )
    finally:
        torch.set_num_threads(before)
    print(markdown(read(options.out)))
    return 0
