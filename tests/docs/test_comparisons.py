"""No sentence that ranks stands outside a claim on the pages of comparisons: nothing would hold it to the records."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["index", "results", "images", "molecules", "comparison", "pilots", "phenomena", "audit", "how-to/strength"]
PAGES = ("README.md", *(f"docs/{name}.md" for name in NAMES))
HELD = re.compile(
    r"<!-- (claim|table)\b.*?<!-- /\1 -->|<!-- strength: begin.*?<!-- strength: end -->|```.*?```", re.DOTALL
)
RANKING = re.compile(
    r"\b(ahead of|(is|are|was|were|stays?|falls?|far|points?) behind|beats?|better than|worse than|level with|wins"
    r"|loses|outperforms?|(more|less) accurate than|(higher|lower) (error|accuracy) than)\b"
)


def ranking(text: str) -> list[str]:
    """What ranks outside of claims, tables and code, with the words around it."""
    free = HELD.sub(lambda match: "\n" * match[0].count("\n"), text)
    return [free[max(0, m.start() - 60) : m.end() + 40] for m in RANKING.finditer(free)]


@pytest.mark.parametrize("page", PAGES)
def test_sentences_that_rank_are_claims(page):
    assert ranking((ROOT / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "sentence", ["Soft is ahead of hard.", "none is behind soft", "It beats both", "level with none"]
)
def test_the_search_finds_them_outside_of_claims_alone(sentence):
    assert len(ranking(f"Before. {sentence} After.")) == 1
    assert ranking(f"Before. <!-- claim a = 1 | True | {sentence} -->{sentence}<!-- /claim --> After.") == []


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
def test_no_claim_begins_an_indented_line(page):
    """There Markdown takes it for a block of HTML, which ends the list that it stands in."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [line[:60] for line in lines if re.match(r"\s+<!-- claim", line)] == []
