from pathlib import Path

import pytest

from benchmarks import mutants

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path):
    """A checkout of one line and its test."""
    (tmp_path / "softeq").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "softeq" / "a.py").write_text("def double(x):\n    # twice\n    return 2 * x\n")
    test = "import sys\nsys.path.insert(0, 'softeq')\nimport a\n\n\ndef test_a():\n    assert a.double(2) == 4\n"
    (tmp_path / "tests" / "test_a.py").write_text(test)
    return tmp_path


def _mutant(old, new, tests=("tests/test_a.py",)):
    return mutants.Mutant("one", "softeq/a.py", old, new, tests)


@pytest.mark.parametrize(
    ("mutant", "verdict"),
    [
        (_mutant("2 * x", "3 * x"), mutants.KILLED),
        (_mutant("2 * x", "x + x"), mutants.SURVIVED),
        (_mutant("return 2", "return ) 2"), mutants.KILLED),
        (_mutant("4 * x", "3 * x"), mutants.GONE),
        (_mutant("x", "y"), mutants.GONE),
        (_mutant("2 * x", "3 * x", ("tests/test_absent.py",)), mutants.BROKEN),
    ],
    ids=["noticed", "not noticed", "no Python", "gone", "more than once", "no such test"],
)
def test_the_verdict_is_the_tests_and_the_line_is_mended(tree, mutant, verdict):
    before = (tree / "softeq" / "a.py").read_text()
    assert mutants.try_out(mutant, tree) == verdict
    assert (tree / "softeq" / "a.py").read_text() == before


def test_every_line_of_the_table_is_there_once():
    found = mutants.load()
    assert len(found) >= 50
    lost = [m.name for m in found if (ROOT / m.file).read_text(encoding="utf-8").count(m.old) != 1]
    assert lost == [], "they moved: the table has to follow"
    assert not [path for m in found for path in m.tests if not (ROOT / path.partition("::")[0]).exists()]


def test_a_table_that_says_too_little_is_refused(tmp_path):
    table = tmp_path / "mutants.toml"
    table.write_text('[[mutant]]\nname = "a"\nfile = "a.py"\nold = "1"\nnew = "1"\ntests = []\n')
    with pytest.raises(ValueError, match="another new"):
        mutants.load(table)


def test_a_copy_has_the_code_and_goes_away(tree):
    with mutants.copied(tree) as place:
        assert (place / "softeq" / "a.py").exists()
        assert place != tree
    assert not place.exists()
