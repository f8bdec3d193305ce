import errno
import fcntl
import json
import math
import os
import resource
import threading
import warnings

import numpy as np
import pytest
import torch

from softeq.errors import SofteqError, SofteqTypeError, SofteqWarning
from softeq.experiments.engine import record

APPEND_MANY = """
import pathlib, sys, time
from softeq.experiments.engine import record
path, mine, others = map(pathlib.Path, sys.argv[1:4])
mine.touch()
while not others.exists():
    time.sleep(0.001)
for seed in range(200):
    padding = {"pad": "x" * (seed * 37 % 5000)}
    line = record.make("toy", "smoke", mine.name, seed, config=padding, metrics={}, provenance={})
    record.append(path, line)
"""


def test_a_record_comes_back_as_it_was(tmp_path, make_record):
    path = tmp_path / "new" / "toy.jsonl"
    lines = [make_record(seed=s, config={"lr": 3e-3, "sizes": [1, 2]}, test_mse=0.1 * s) for s in range(3)]
    for line in lines:
        record.append(path, line)
    assert record.read(path) == lines
    assert path == record.record_path(tmp_path / "new", "toy")


def test_floats_that_are_not_finite_are_valid_json_and_come_back(tmp_path, make_record):
    path = tmp_path / "toy.jsonl"
    record.append(path, make_record(config={"p": math.inf}, test_mse=math.nan, curve=[1.0, -math.inf]))

    def refuse(token):
        raise ValueError(token)

    raw = json.loads(path.read_text(), parse_constant=refuse)
    assert raw["metrics"] == {"test_mse": "NaN", "curve": [1.0, "-Infinity"]}
    (back,) = record.read(path)
    assert math.isnan(back["metrics"]["test_mse"])
    assert back["metrics"]["curve"] == [1.0, -math.inf]
    assert back["config"] == {"p": math.inf}


def test_encode_takes_scalars_of_numpy_and_torch_and_tuples():
    value = {"a": np.float32(0.5), "b": torch.tensor(3), "c": (1, True, None), "d": np.float64("nan")}
    assert record.encode(value) == {"a": 0.5, "b": 3, "c": [1, True, None], "d": "NaN"}


@pytest.mark.parametrize("value", [torch.zeros(2), {1, 2}, object(), 1j], ids=["tensor", "set", "object", "complex"])
def test_encode_names_the_place_of_what_json_cannot_hold(value):
    with pytest.raises(SofteqTypeError, match=r"record\['metrics'\]\['x'\]\[0\] is a"):
        record.encode({"metrics": {"x": [value]}})


def test_encode_refuses_keys_that_are_no_text():
    with pytest.raises(SofteqTypeError, match="the key 3"):
        record.encode({3: 1})


def test_an_absent_file_holds_no_records(tmp_path):
    assert record.read(tmp_path / "toy.jsonl") == []


def test_a_cut_off_line_is_skipped_and_the_next_one_stands_alone(tmp_path, make_record):
    path = tmp_path / "toy.jsonl"
    for seed in range(2):
        record.append(path, make_record(seed=seed))
    path.write_bytes(path.read_bytes()[:-20])
    record.append(path, make_record(seed=2))
    with pytest.warns(SofteqWarning, match=r"toy\.jsonl, line 2: skipped, .* cut off") as caught:
        assert [r["seed"] for r in record.read(path)] == [0, 2]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(record.read(path, warn=False)) == 2


def _without(line, name, **changes):
    return json.dumps({k: v for k, v in line.items() if k != name} | changes).encode()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda line: b"\x00\x00\xff", "no JSON"),
        (lambda line: b"[" * 100_000, "no JSON"),
        (lambda line: b"[1, 2]", "no JSON object"),
        (lambda line: _without(line, "", schema=3), "its schema is 3"),
        (lambda line: _without(line, "schema"), "its schema is None"),
        (lambda line: _without(line, "", schema=True), "its schema is True"),
        (lambda line: _without(line, "metrics"), "'metrics' is not a dict"),
        (lambda line: _without(line, "", seed="0"), "'seed' is not a int"),
    ],
    ids=["bytes", "deep", "list", "schema", "no schema", "bool schema", "no metrics", "text seed"],
)
def test_a_line_that_is_no_record_is_skipped_with_a_warning(tmp_path, make_record, spoil, reason):
    path = tmp_path / "toy.jsonl"
    good = make_record()
    path.write_bytes(b"\n" + spoil(good) + b"\n" + json.dumps(good).encode())
    with pytest.warns(SofteqWarning, match=f"line 2: skipped, .*{reason}"):
        assert record.read(path) == [good]


def test_two_processes_append_to_one_file(tmp_path, start):
    path = tmp_path / "toy.jsonl"
    names = ("first", "second")
    pairs = [(tmp_path / a, tmp_path / b) for a, b in (names, reversed(names))]
    processes = [start(APPEND_MANY, path, *pair, cwd=tmp_path) for pair in pairs]
    assert [p.wait(120) for p in processes] == [0, 0]
    found = {(r["variant"], r["seed"]) for r in record.read(path)}
    assert found == {(name, seed) for name in names for seed in range(200)}
    assert len(path.read_bytes().splitlines()) == 400


def _no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _half(descriptor, line, write=os.write):
    return write(descriptor, line[: len(line) // 2])


@pytest.mark.parametrize(
    ("name", "fault"), [("write", _no_space), ("write", _half), ("fsync", _no_space)], ids=["none", "half", "fsync"]
)
def test_a_full_disk_harms_nothing(tmp_path, make_record, monkeypatch, name, fault):
    path = tmp_path / "toy.jsonl"
    record.append(path, make_record())
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fault)
        with pytest.raises(SofteqError, match=rf"{tmp_path}.*No space left") as caught:
            record.append(path, make_record(seed=1))
    assert "--out" in str(caught.value)
    assert path.read_bytes() == before
    record.append(path, make_record(seed=1))
    assert len(record.read(path)) == 2


def test_a_write_that_the_system_cuts_short_is_rolled_back(tmp_path, make_record):
    path = tmp_path / "toy.jsonl"
    record.append(path, make_record())
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(SofteqError, match="cannot append"):
            record.append(path, make_record(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path, make_record):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "runs"
    with pytest.raises(SofteqError, match=f"output folder {folder}"):
        record.check_writable(folder, "toy")
    with pytest.raises(SofteqError, match=f"cannot append to {folder}"):
        record.append(folder / "toy.jsonl", make_record())
    with pytest.raises(SofteqError, match="cannot read"):
        record.read(folder / "toy.jsonl")


def test_check_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    record.check_writable(tmp_path / "a" / "b", "toy")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_writable_looks_at_the_file_and_at_the_space(tmp_path, monkeypatch):
    (tmp_path / "toy.jsonl").mkdir()
    with pytest.raises(SofteqError, match=str(tmp_path)):
        record.check_writable(tmp_path, "toy")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(SofteqError, match="No space left"):
        record.check_writable(tmp_path / "other", "toy")


def test_reading_takes_no_lock(tmp_path, make_record, monkeypatch):
    path = tmp_path / "toy.jsonl"
    record.append(path, make_record(seed=1))

    def no_locks(descriptor, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(record.fcntl, "flock", no_locks)
    assert [r["seed"] for r in record.read(path)] == [1]
    with pytest.raises(SofteqError, match="No locks"):
        record.append(path, make_record(seed=2))


def test_appending_waits_for_the_lock(tmp_path, make_record):
    path, done = tmp_path / "toy.jsonl", threading.Event()
    record.append(path, make_record(seed=0))

    def append():
        record.append(path, make_record(seed=1))
        done.set()

    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=append, daemon=True)
        thread.start()
        assert not done.wait(0.1), "appended under another's lock"
        assert len(record.read(path)) == 1
        fcntl.flock(file, fcntl.LOCK_UN)
        assert done.wait(5)
    thread.join()
    assert [r["seed"] for r in record.read(path)] == [0, 1]


def test_a_line_under_way_is_looked_at_again(tmp_path, make_record, monkeypatch):
    path = tmp_path / "toy.jsonl"
    record.append(path, make_record(seed=0))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    monkeypatch.setattr(record.time, "sleep", lambda seconds: path.write_bytes(whole))
    assert [r["seed"] for r in record.read(path)] == [0]


def test_a_record_of_an_older_schema_says_what_nobody_wrote_down(tmp_path, make_record):
    path = tmp_path / "toy.jsonl"
    old = make_record(seed=3) | {"schema": 1, "provenance": {"threads": 2}}
    path.write_text(json.dumps(old) + "\n")
    (back,) = record.read(path)
    assert back["provenance"] == {"threads": 2, "processor": None, "precision": None, "interop_threads": None}
    assert back["seed"] == 3
    record.append(path, make_record(seed=4))
    assert "processor" not in record.read(path)[1]["provenance"], "a record of today is taken as it is"


@pytest.mark.parametrize("schema", [0, record.SCHEMA + 1, "1", True, None])
def test_an_unknown_schema_is_skipped(tmp_path, make_record, schema):
    path = tmp_path / "toy.jsonl"
    path.write_text(json.dumps(make_record() | {"schema": schema}) + "\n")
    with pytest.warns(SofteqWarning, match="schema"):
        assert record.read(path) == []
