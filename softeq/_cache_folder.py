"""Where softeq keeps what it need not compute again; without torch, for the command line."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """The folder of the disk cache, or ``None`` where it is turned off."""
    named = os.environ.get("SOFTEQ_CACHE", "")
    if named.lower() == "off":
        return None
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softeq"
    except RuntimeError:  # no home folder
        return None
