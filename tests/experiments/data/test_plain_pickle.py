"""Pickles read without running them: what comes back, and that nothing is called or imported whatever a file says."""

import os
import pickle
import sys

import numpy as np
import pytest

from softeq.errors import SofteqError
from softeq.experiments.data import plain_pickle
from softeq.experiments.data.plain_pickle import Call, Name, read_pickle

PLAIN = {"a": [1, -2, 3000, 10**30, 2.5], "b": ("x", ("y",), (), None, True, False), "c": {"d": [], "é": "ü"}, 7: {}}


def write(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(5))
def test_plain_data_come_back_as_pickle_has_them(tmp_path, protocol):
    assert read_pickle(write(tmp_path, pickle.dumps(PLAIN, protocol))) == PLAIN


@pytest.mark.parametrize("protocol", [3, 4])
def test_bytes_come_back(tmp_path, protocol):
    value = {b"data": b"\x00\xff" * 300}
    assert read_pickle(write(tmp_path, pickle.dumps(value, protocol))) == value


def test_one_object_in_two_places_stays_one(tmp_path):
    shared = [1]
    first, second = read_pickle(write(tmp_path, pickle.dumps([shared, shared], 2)))
    assert first is second


def test_a_permitted_call_is_described_and_not_made(tmp_path):
    names = {Name("os", "system"), Name("nowhere.to_be", "found")}
    content = b"\x80\x02cos\nsystem\nU\x04exit\x85R}U\x01k cnowhere.to_be\nfound\nsb."
    content = content.replace(b"k c", b"kc")
    call = read_pickle(write(tmp_path, content), names)
    assert call == Call(Name("os", "system"), ("exit",), {"k": Name("nowhere.to_be", "found")})
    assert "nowhere" not in sys.modules


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, protocol):
    harm = tmp_path / f"harm{protocol}"
    content = pickle.dumps({"data": Harm(harm)}, protocol)
    path = write(tmp_path, content)
    with pytest.raises(SofteqError, match="not read, as"):
        read_pickle(path, {Name("numpy", "dtype")})
    assert not harm.exists()
    pickle.loads(content)  # the control: it does harm when unpickled
    assert harm.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cbuiltins\neval\nU\x011\x85R.", "asks for builtins.eval"),
        (b"(S'1'\nibuiltins\neval\n.", "instruction INST"),
        (b"(cbuiltins\neval\nU\x011o.", "asks for builtins.eval"),
        (b"(U\x01xU\x011o.", "instruction OBJ"),
        (b"\x80\x02U\x01xU\x01y\x85\x81.", "instruction NEWOBJ"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "instruction STACK_GLOBAL"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"Pid\n.", "instruction PERSID"),
        (b"Pa\nQ.", "instruction PERSID"),
    ],
)
def test_every_instruction_that_could_fetch_or_call_is_refused(tmp_path, content, message):
    with pytest.raises(SofteqError, match=message):
        read_pickle(write(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b".",
        b"K\x01K\x02.",
        b"K\x01",
        b"U\xffabc.",
        b"T\xff\xff\xff\x7fabc.",
        b"e.",
        b"K\x01K\x02R.",
        b"K\x01K\x02b.",
        b"K\x01K\x02a.",
        b"](\x85.",
        b"h\x05.",
        b"q\x00.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"})K\x01s.",
        b"(dp0\nS'a.",
        b"(K\x01lt.",
        b"I12x\n.",
        pickle.dumps(PLAIN, 2)[:-1],
        pickle.dumps(PLAIN, 2)[:40],
        pickle.dumps(PLAIN, 0)[:40],
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    with pytest.raises(SofteqError, match=r"file: cut off, corrupt or no pickle") as caught:
        read_pickle(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_random_damage_gives_this_error_or_a_value_and_nothing_else(tmp_path):
    good = np.frombuffer(pickle.dumps(PLAIN, 2), dtype=np.uint8)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = good.copy()
        content[generator.integers(len(content), size=2)] = generator.integers(256, size=2)
        try:
            read_pickle(write(tmp_path, content.tobytes()))
        except SofteqError:
            refused += 1
    assert 30 < refused < 150


def test_nested_values_cannot_exhaust_time_or_memory(tmp_path):
    doubling = b"\x80\x02)" + b"q\x00h\x00\x86" * 60
    assert isinstance(read_pickle(write(tmp_path, doubling + b".")), tuple)
    with pytest.raises(SofteqError, match="neither a string nor a number"):
        read_pickle(write(tmp_path, b"\x80\x02}" + doubling[2:] + b"K\x01s."))


def test_absent_and_too_large_files(tmp_path, monkeypatch):
    with pytest.raises(SofteqError, match="cannot be read: No such file"):
        read_pickle(tmp_path / "none")
    with pytest.raises(SofteqError, match="cannot be read"):
        read_pickle(tmp_path)
    monkeypatch.setattr(plain_pickle, "LARGEST", 10)
    with pytest.raises(SofteqError, match="at most 10 bytes"):
        read_pickle(write(tmp_path, pickle.dumps(PLAIN, 2)))
