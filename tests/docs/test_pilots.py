"""What has too few seeds stands on a page of its own, which compares nothing."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PILOTS = {"spring-pendulum", "windy-pendulum", "md-aspirin", "qm9-like", "uci"}
NAMES = re.compile(r"<!-- table:([^:\s]+):|\b\w+\(\s*\"([^:\"]+):")


def named(text: str) -> set[str]:
    """The experiments whose tables or comparisons stand in a text."""
    return {table or claim for table, claim in NAMES.findall(text)}


def test_the_page_of_pilots_has_their_tables_and_no_claim():
    text = (DOCS / "pilots.md").read_text()
    assert named(text) == PILOTS
    assert "<!-- claim" not in text


@pytest.mark.parametrize("page", sorted({str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")} - {"pilots.md"}))
def test_no_other_page_has_tables_of_pilots_or_compares_by_them(page):
    assert not named((DOCS / page).read_text()) & PILOTS


def test_the_search_finds_a_table_and_a_claim():
    text = '<!-- table:uci:default -->\n<!-- claim h = ratio("qm9-like:default", "soft", "hard") | h.p > 0 | -->'
    text += '<!-- claim a = median("md-aspirin:default", "soft-50") | a > 0 | -->'
    assert named(text) == {"uci", "qm9-like", "md-aspirin"}
