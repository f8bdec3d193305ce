"""What a user names as ``package.module:name``: imported, called, and its failures told in one line."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from typing import Any

from softeq.errors import SofteqError, SofteqTypeError, SofteqValueError


def made(name: str, argument: str, fits: Callable[[Any], bool], expected: str) -> Any:
    """The object behind ``module:name``; the user's code may raise anything, and ends nothing but itself.

    Args:
        name: of an object, or of a callable without arguments that gives one.
        argument: what the user named, for errors.
        fits: whether an object is of the right kind.
        expected: the kind, for errors, as ``an nn.Module``.

    Raises:
        SofteqError: it cannot be imported, found, called, or is of another kind.
    """
    path, _, attribute = name.partition(":")
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(path))
    except AttributeError as error:
        raise SofteqValueError(f"{argument}: {path!r} has no {attribute!r}") from error
    except (ImportError, ValueError) as error:
        raise SofteqValueError(f"{argument}: cannot import {path!r} of {name!r}: {error}") from error
    except SystemExit as error:
        raise SofteqError(
            f"{argument}: {path!r} ends the program when it is imported (sys.exit({error.code!r}))"
        ) from error
    except SyntaxError as error:
        raise SofteqError(f"{argument}: cannot import {path!r} of {name!r}: SyntaxError: {error}") from error
    if fits(factory) and not isinstance(factory, type):
        return factory
    if not callable(factory):
        raise SofteqTypeError(f"{argument}: expected {name!r} to be callable, got {type(factory).__name__}")
    try:
        found = factory()
    except SofteqError:
        raise
    except SystemExit as error:
        raise SofteqError(f"{argument}: {name}() ends the program (sys.exit({error.code!r}))") from error
    except Exception as error:  # the factory is the user's
        said = " ".join(str(error).split())
        raise SofteqError(f"{argument}: {name}() without arguments failed: {type(error).__name__}: {said}") from error
    if not fits(found):
        raise SofteqTypeError(f"{argument}: expected {name!r} to return {expected}, got {type(found).__name__}")
    return found
