"""One set of modules under two names: in a checkout ``measure`` and ``softeq.measure`` are the same objects.

Installed, ``models``, ``measure`` and ``experiments`` are found under ``softeq`` alone, so that they collide with
nobody's. In a checkout they are folders at the top, beside ``softeq/``, which holds links to them; from there the short
name works too. Without this finder python would execute the same files a second time under the short name, and a class
would differ from itself.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType


class _SameModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``short.x.y`` as the module ``softeq.short.x.y``, which it imports where that is not done yet."""

    def __init__(self, short: str, full: str) -> None:
        self.short, self.full = short, full

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for the modules of this package alone; ``None`` for every other name."""
        if not fullname.startswith(self.short + "."):
            return None
        found = importlib.util.find_spec(self._full_name(fullname))
        return None if found is None else importlib.machinery.ModuleSpec(fullname, self, origin=found.origin)

    def _full_name(self, name: str) -> str:
        return self.full + name[len(self.short) :]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module under its full name; importlib puts it into ``sys.modules`` under the short one too."""
        module = importlib.import_module(self._full_name(spec.name))
        self._own = module.__spec__, module.__loader__
        return module

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m short.x``."""
        spec = importlib.util.find_spec(self._full_name(fullname))
        loader = None if spec is None else spec.loader
        return loader.get_code(spec.name) if spec and isinstance(loader, importlib.abc.InspectLoader) else None

    def exec_module(self, module: ModuleType) -> None:
        """It ran already: gives it back the spec that importing it under the short name has replaced."""
        module.__spec__, module.__loader__ = self._own


def same_modules(short: str) -> None:
    """Makes the package ``short``, and all that is imported below it, the modules of ``softeq.short``.

    Called by the package itself where it finds that it runs under its short name.
    """
    full = f"softeq.{short}"
    if not any(isinstance(finder, _SameModules) and finder.short == short for finder in sys.meta_path):
        sys.meta_path.insert(0, _SameModules(short, full))
    sys.modules[short] = importlib.import_module(full)
