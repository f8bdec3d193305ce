"""What a pickle holds, read without running it: nothing is imported and nothing is called, whatever the file says.

A pickle is a program for a small stack machine. Two of its instructions can do harm: GLOBAL fetches any object by name,
and REDUCE or BUILD call what was fetched. An ``Unpickler`` with a list of permitted names still calls those with the
file's arguments, and numpy's own reconstruction can be handed sizes and flags that no array has. Here the calls are not
made: a name becomes a `Name`, a call a `Call` that holds its arguments and its state, and the caller, who knows what
it expects, reads the array out of these. ``pickletools.genops`` splits the bytes into instructions and runs none.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softeq.errors import SofteqError

LARGEST = 2**30
"""Bytes: no published batch has more than a tenth of it."""


class Name(NamedTuple):
    """An object that the file asks for by name; it is not looked up."""

    module: str
    name: str


@dataclass(repr=False)  # what a file nests can take forever to print
class Call:
    """A call that the file asks for, and the state that it wants set on the result; neither is done."""

    function: Name
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(path: str | Path, names: Collection[Name] = ()) -> Any:
    """The value in a pickle: dictionaries, lists, tuples, numbers, strings, bytes; and a `Call` in place of each call.

    Strings of Python 2 come as ``str`` of code points 0 to 255, one per byte.

    Args:
        path: the file.
        names: those that it may mention.

    Raises:
        SofteqError: the file cannot be read, is cut off or corrupt, or asks for a name that is none of ``names``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise SofteqError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise SofteqError(f"{path}: expected at most {LARGEST} bytes, got more")
    try:
        return _Machine(path, frozenset(names)).run(content)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise SofteqError(f"{path}: cut off, corrupt or no pickle ({error}); get it again") from error


_MARK = object()


class _Machine:
    """The stack machine without its calls. Values are shared, never copied: memory stays of the order of the file's."""

    def __init__(self, path: Path, names: frozenset[Name]) -> None:
        self.path, self.names = path, names
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise SofteqError(
                    f"{self.path}: not read, as its instruction {opcode.name} is none that plain data need; expected"
                    " the file as it was published"
                )
        (value,) = self.stack
        return value

    def pop_to_mark(self) -> list[Any]:
        place = next((i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK), None)
        if place is None:
            raise ValueError("no mark on the stack")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count or any(value is _MARK for value in self.stack[-count:]):
            raise ValueError("too few values on the stack")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        if Name(module, name) not in self.names:
            raise SofteqError(
                f"{self.path}: not read, as it asks for {module}.{name}, which plain data do not need: a pickle can run"
                " code; get the file from its publisher again"
            )
        self.stack.append(Name(module, name))

    def reduce(self, _: Any) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no name")
        self.stack.append(Call(function, arguments))

    def build(self, _: Any) -> None:
        (state,) = self.pop(1)
        if not self.stack or not isinstance(self.stack[-1], Call):
            raise ValueError("a state for something that is no call")
        self.stack[-1].state = state

    def append(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], list):
            raise ValueError("items for something that is no list")
        self.stack[-1].extend(values)

    def insert(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise ValueError("items for something that is no dictionary")
        self.stack[-1].update(_paired(values))

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _paired(values: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str | bytes | int) for key in values[::2]):  # nested tuples can take forever to hash
        raise ValueError("a dictionary's key that is neither a string nor a number")
    return dict(zip(values[::2], values[1::2], strict=True))


_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINBYTES", "SHORT_BINBYTES"),
    )
)
"""Instructions whose argument is the value."""


def _pushes(make: Callable[[_Machine], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(make(machine))


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": _pushes(lambda machine: _MARK),
    "NONE": _pushes(lambda machine: None),
    "NEWTRUE": _pushes(lambda machine: True),
    "NEWFALSE": _pushes(lambda machine: False),
    "EMPTY_DICT": _pushes(lambda machine: {}),
    "EMPTY_LIST": _pushes(lambda machine: []),
    "EMPTY_TUPLE": _pushes(lambda machine: ()),
    "DICT": _pushes(lambda machine: _paired(machine.pop_to_mark())),
    "LIST": _pushes(lambda machine: machine.pop_to_mark()),
    "TUPLE": _pushes(lambda machine: tuple(machine.pop_to_mark())),
    "TUPLE1": _pushes(lambda machine: tuple(machine.pop(1))),
    "TUPLE2": _pushes(lambda machine: tuple(machine.pop(2))),
    "TUPLE3": _pushes(lambda machine: tuple(machine.pop(3))),
    "APPEND": lambda machine, argument: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, argument: machine.insert(machine.pop(2)),
    "SETITEMS": lambda machine, argument: machine.insert(machine.pop_to_mark()),
    "PUT": lambda machine, argument: machine.put(argument),
    "BINPUT": lambda machine, argument: machine.put(argument),
    "LONG_BINPUT": lambda machine, argument: machine.put(argument),
    "MEMOIZE": lambda machine, argument: machine.put(len(machine.memo)),
    "GET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "BINGET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "LONG_BINGET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "GLOBAL": lambda machine, argument: machine.name(argument),
    "REDUCE": lambda machine, argument: machine.reduce(argument),
    "BUILD": lambda machine, argument: machine.build(argument),
}
