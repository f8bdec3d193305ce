"""What has too few seeds, or was cut from the protocol, stands on a page of its own, which compares nothing."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PILOTS = {"spring-pendulum", "windy-pendulum", "md-aspirin", "qm9-like", "uci"}
CUT = {"inertia:paper", "modified-inertia:paper", "misspecified-inertia:paper"}
TABLES = re.compile(r"<!-- table:(\S+) -->")
COMPARED = re.compile(r"\b\w+\(\s*\"([^:\"]+):")


def tables(text: str) -> set[str]:
    """``experiment:preset`` of each table in a text."""
    return set(TABLES.findall(text))


def compared(text: str) -> set[str]:
    """The experiments by whose records a text compares."""
    return set(COMPARED.findall(text))


def test_the_page_of_pilots_has_their_tables_and_no_claim():
    text = (DOCS / "pilots.md").read_text()
    assert tables(text) == {f"{name}:default" for name in PILOTS} | CUT
    assert "<!-- claim" not in text


@pytest.mark.parametrize("page", sorted({str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")} - {"pilots.md"}))
def test_no_other_page_has_tables_of_pilots_or_compares_by_them(page):
    text = (DOCS / page).read_text()
    assert not {table.split(":")[0] for table in tables(text)} & PILOTS
    assert not compared(text) & PILOTS
    assert not tables(text) & CUT  # what changed against them is said beside the tables that replace them


def test_the_searches_find_a_table_and_a_claim():
    text = '<!-- table:uci:default -->\n<!-- claim h = ratio("qm9-like:default", "soft", "hard") | h.p > 0 | -->'
    text += '<!-- claim a = median("md-aspirin:default", "soft-50") | a > 0 | -->'
    assert tables(text) == {"uci:default"}
    assert compared(text) == {"qm9-like", "md-aspirin"}
