from pathlib import Path

import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record
from softeq.experiments.show import claims, quantities, readme

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def results(toys, make_record, tmp_path):
    for seed in range(4):
        for variant, value in (("soft", 1.0 + 0.1 * seed), ("hard", 4.0 + 0.3 * seed)):
            line = make_record(variant=variant, seed=seed, preset="smoke", test_mse=value, **{"accuracy@a": value})
            record.append(tmp_path / "toy.jsonl", line)
    quantities.read.cache_clear()
    yield tmp_path
    quantities.read.cache_clear()


def page(names, test, text, shown=""):
    return f"Before. <!-- claim {names} | {test} | {text} -->{shown}<!-- /claim --> After."


RATIO = 'r = ratio("toy:smoke", "soft", "hard")'


def test_a_claim_is_filled_in_and_then_stands(results):
    text = page(RATIO, "r.high < 0.5 and r.p < 0.01", "soft has {r.value:.2f} of hard's error ({r})")
    assert len(claims.broken(text, results)) == 1
    done = claims.refill(text, results)
    assert "-->soft has 0.26 of hard's error (0.258 [" in done
    assert done.startswith("Before. <!-- claim")
    assert done.endswith("<!-- /claim --> After.")
    assert claims.broken(done, results) == []
    assert claims.refill(done, results) == done


def test_a_claim_that_does_not_hold_is_told_of(results):
    text = claims.refill(page(RATIO, "r.low > 1", "soft is worse ({r.value:.2f})"), results)
    assert claims.broken(text, results) == ["does not hold: r.low > 1 (soft is worse (0.26))"]


@pytest.mark.parametrize(
    ("names", "test", "holds"),
    [
        ('m = mean("toy:smoke", "soft")', "1.14 < m < 1.16", True),
        ('m = median("toy:smoke", "hard")', "4.449 < m < 4.451", True),
        ('a = largest("toy:smoke", "soft"); b = least("toy:smoke", "hard")', "not a > b", True),
        ('n = runs("toy:smoke", "soft")', "n == 4 or n == 5", True),
        ('n = count("toy:smoke", "soft", "test_mse", 1.05, 1.25)', "n == 2", True),
        ('d = difference("toy:smoke", "hard", "soft", "accuracy@a")', "2.5 < d.low and d.n == 4", True),
        ('k = above("toy:smoke", "hard", "soft", 0.01, "a")', "k == 1", True),
        ('k = above("toy:smoke", "soft", "hard", 0.01, "a")', "k == 1", False),
        ('k = agree("toy:smoke", "hard soft", "accuracy", "accuracy", "a")', "k == 0", True),
        ('k = agree("toy:smoke", "soft soft", "accuracy", "accuracy", "a")', "k == 1", True),
        ("", "1 + 2 * 2 - 1 == 8 / 2", True),
    ],
)
def test_quantities(results, names, test, holds):
    (claim,) = claims.find(page(names, test, "x"))
    assert claims.holds(claim, results) is holds


@pytest.mark.parametrize(
    ("names", "test", "message"),
    [
        ("r = __import__('os')", "True", "none of what a claim may say"),
        ("r = open('x')", "True", "none of what a claim may say"),
        (RATIO, "r.__class__", "none of what a claim may say"),
        (RATIO, "[x for x in r]", "none of what a claim may say"),
        ("r = _records('toy:smoke')", "True", "none of what a claim may say"),
        (RATIO, "ratio('toy:smoke', 'soft', 'hard').p < 1", "none of what a claim may say"),
        (RATIO, "q < 1", "none of what a claim may say"),
        (RATIO, "r <", "is no expression"),
        ("mean('toy:smoke', 'soft')", "True", "expected name = quantity"),
        ('r = mean("toy:smoke", "absent")', "r < 1", "no record has a finite test_mse"),
        ('r = ratio("toy:paper", "soft", "hard")', "r.p < 1", "no seed"),
    ],
)
def test_what_a_claim_may_not_say(results, names, test, message):
    (claim,) = claims.find(page(names, test, "x"))
    with pytest.raises((SofteqError, SofteqValueError), match=message):
        claims.holds(claim, results)


def test_a_claim_has_three_parts():
    with pytest.raises(SofteqValueError, match="expected NAMES"):
        claims.find("<!-- claim a = 1 | True -->x<!-- /claim -->")


@pytest.mark.parametrize("path", readme.pages(ROOT), ids=lambda path: path.name)
def test_every_claim_of_the_pages_holds(path):
    """Refill with ``python -m experiments.show.readme``; a claim that does not hold any more needs another sentence."""
    assert claims.broken(path.read_text(encoding="utf-8"), ROOT / "results") == []


def test_the_pages_make_claims():
    counts = [len(claims.find(path.read_text(encoding="utf-8"))) for path in readme.pages(ROOT)]
    assert sum(counts) >= 15
