"""Workers have the environment that counts when they start, and leave Ctrl-C to their parent."""

import importlib
import os
import textwrap

from softeq.experiments.engine import processes

WORKER = """
import os, signal
from softeq.experiments.engine import processes

def look(variables, name, channel):
    processes.begin(variables)
    channel.send((os.environ.get(name), len(os.environ), signal.getsignal(signal.SIGINT) is signal.SIG_IGN))
"""


def test_a_worker_has_todays_environment_and_not_that_of_the_first(monkeypatch, tmp_path):
    (tmp_path / "worker_that_looks.py").write_text(textwrap.dedent(WORKER))
    monkeypatch.syspath_prepend(tmp_path)
    look, name = importlib.import_module("worker_that_looks").look, "SOFTEQ_TEST_WORKER"
    for value in ("first", "second", None):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        context = processes.context()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=look, args=(processes.environment(), name, sender))
        process.start()
        assert receiver.poll(60)
        assert receiver.recv() == (value, len(os.environ), True)
        process.join(60)
