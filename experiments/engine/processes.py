"""Where worker processes come from.

They fork from one server process, which has imported torch and holds no threads: each starts in a moment and shares its
pages, where a process started anew imports torch for seconds. The server has the environment of its own start, so
workers are handed the one that counts. Where a system cannot fork, they are started anew.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.context import BaseContext

_PRELOADED = ["softeq.experiments.engine.runner"]


def context() -> BaseContext:
    """What makes processes, pipes and pools of workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(_PRELOADED)  # counts until the server has started
    return multiprocessing.get_context("forkserver")


def environment() -> dict[str, str]:
    """What a worker is handed for `begin`."""
    return dict(os.environ)


def begin(variables: Mapping[str, str]) -> None:
    """The first call in a worker: it has the parent's environment, and Ctrl-C is for the parent, which stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(variables)
