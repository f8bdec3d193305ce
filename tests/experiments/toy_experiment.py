"""Experiments that take no time, for the tests of what runs, records and shows experiments; a source of the registry.

The environment says what is no part of a configuration: TOY_LOG, a file that gets a line per run begun; TOY_DELAY, the
seconds that a run takes; TOY_STEPS, which changes the configuration.
"""

import math
import os
import signal
import time

from softeq.errors import SofteqError
from softeq.experiments.engine.experiment import Column, Experiment

VARIANTS = ("hard", "soft", "diverges")


def configure(preset, variant, seed):
    steps = int(os.environ.get("TOY_STEPS", "3"))
    return {"variant": variant, "seed": seed, "steps": steps, "sizes": (1, 2), "precision": math.inf}


def run(config, progress):
    if "TOY_LOG" in os.environ:
        descriptor = os.open(os.environ["TOY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{config['variant']} {config['seed']}\n".encode())
        os.close(descriptor)
    for step in range(config["steps"]):
        time.sleep(float(os.environ.get("TOY_DELAY", "0")) / config["steps"])
        progress(step + 1, config["steps"])
    error = {"hard": 1.0, "soft": 0.25, "diverges": math.nan}[config["variant"]] * (1 + 0.1 * config["seed"])
    return {"test_mse": error, "parameters": 1234, "weight_defect": {"a": 0.1, "b": 0.3}, "curve": {"x": [1, 2]}}


def _fail_at_second_seed(config, progress):
    if config["seed"] == 1:
        raise SofteqError("the toy's data are gone")
    return run(config, progress)


def _break(config, progress):
    raise ZeroDivisionError("a defect")


def _die(config, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(config, progress):
    marker = os.environ["TOY_LOG"] + ".died"
    if config["variant"] == "soft" and config["seed"] == 1 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return run(config, progress)


def _toy(name, body, **kwargs):
    return Experiment(
        name=name,
        summary="a toy",
        variants=VARIANTS,
        presets={"smoke": 1, "default": 2, "paper": 4},
        configure=configure,
        run=body,
        columns=(
            Column("test_mse", "test MSE"),
            Column("weight_defect", "weight defect", ".2f"),
            Column("parameters", "parameters", ",d"),
            Column("curve", "curve"),
            Column("absent", "absent"),
        ),
        **kwargs,
    )


EXPERIMENTS = {
    "toy": _toy(
        "toy",
        run,
        published={"hard": "1.06 (median)", "diverges": "not given"},
        published_source="A Paper (2021), table 1",
        notes=("Everything here is made up.",),
    ),
    "toy-fails": _toy("toy-fails", _fail_at_second_seed),
    "toy-breaks": _toy("toy-breaks", _break),
    "toy-dies-once": _toy("toy-dies-once", _die_once),
    "toy-dies": _toy("toy-dies", _die),
}
