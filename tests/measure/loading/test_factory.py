"""Objects by ``module:name``: every way to fail is one line that names the argument."""

import pytest

from softeq.errors import SofteqError
from softeq.measure.loading.factory import made

CODE = """
import sys
three = 3
def four(): return 4
def words(): return "four"
def fails(): raise RuntimeError("no\\n weights")
def leaves(): sys.exit(5)
class Box:
    inner = staticmethod(four)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "user_made.py").write_text(CODE)
    (tmp_path / "user_leaves.py").write_text("import sys; sys.exit(2)")
    (tmp_path / "user_typo.py").write_text("def f(:\n")


def number(name):
    return made(name, "calculator", lambda found: isinstance(found, int), "a number")


def test_an_object_a_factory_and_a_dotted_name():
    assert number("user_made:three") == 3
    assert number("user_made:four") == 4
    assert number("user_made:Box.inner") == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_made:five", "'user_made' has no 'five'"),
        ("user_absent:f", "cannot import 'user_absent'"),
        ("user_typo:f", "SyntaxError"),
        ("user_leaves:f", r"ends the program when it is imported \(sys.exit\(2\)\)"),
        ("user_made:CODE", "has no 'CODE'"),
        ("user_made:fails", "without arguments failed: RuntimeError: no weights"),
        ("user_made:leaves", r"ends the program \(sys.exit\(5\)\)"),
        ("user_made:words", "to return a number, got str"),
        ("user_made:__name__", "to be callable, got str"),
    ],
)
def test_failures(name, message):
    with pytest.raises(SofteqError, match=f"^calculator: .*{message}") as caught:
        number(name)
    assert "\n" not in str(caught.value)
