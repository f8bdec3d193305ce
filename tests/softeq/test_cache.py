"""The cache of bases: believed only when it proves itself; anything else is ignored aloud and solved anew."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softeq import SofteqWarning, T, Vector, equivariant_basis, groups
from softeq import _cache as cache
from softeq._cache import cache_folder, cached_invariants, clear_memory_cache
from softeq._invariants import invariant_tensors

WORD = (True,) * 4


def group():
    return groups.SO(3)


@pytest.fixture
def expected():
    return invariant_tensors(group(), WORD)


@pytest.fixture
def one_file(fresh_cache) -> Path:
    """A valid file of the disk cache, with the memory cleared after it was written."""
    cached_invariants(group(), WORD)
    clear_memory_cache()
    (file,) = fresh_cache.iterdir()
    return file


def forbid_solving(monkeypatch):
    def refuse(group, word):
        raise AssertionError("solved although the cache had it")

    monkeypatch.setattr(cache, "invariant_tensors", refuse)


def test_a_basis_is_solved_once_per_process(fresh_cache, monkeypatch):
    first = cached_invariants(group(), WORD)
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    assert cached_invariants(groups.SO(3), WORD) is first


def test_a_file_is_read_back_exactly(one_file, expected, monkeypatch):
    forbid_solving(monkeypatch)
    assert torch.equal(cached_invariants(group(), WORD), expected)


def test_an_empty_basis_is_remembered_too(fresh_cache, monkeypatch):
    cached_invariants(groups.O(3), (True,))
    clear_memory_cache()
    forbid_solving(monkeypatch)
    assert cached_invariants(groups.O(3), (True,)).shape == (0, 3)


def test_the_file_is_plain_numbers(one_file, expected):
    with np.load(one_file, allow_pickle=False) as file:
        assert set(file.files) == {"key", "digest", "basis"}
        np.testing.assert_array_equal(file["basis"], expected.numpy())


def test_no_temporary_file_is_left(one_file):
    assert [path.suffix for path in one_file.parent.iterdir()] == [".npz"]


def rewritten(file, **changes):
    """The file's entries with some of them replaced, and the digest made to fit unless it is given."""
    with np.load(file) as stored:
        entries = {name: stored[name] for name in stored.files} | changes
    if "digest" not in changes and entries["basis"] is not None:
        array = entries["basis"]
        entries["digest"] = np.array(hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest())
    np.savez(file, **{name: value for name, value in entries.items() if value is not None})


def pickled(file):
    file.write_bytes(pickle.dumps({"basis": np.eye(81)[:3]}))


def npz_with_objects(file):
    rewritten(file, basis=np.array([{"a": 1}], dtype=object), digest=np.array("0"))


def other_format(file):
    np.save(file.with_suffix(".npy"), np.eye(81)[:3])
    os.replace(file.with_suffix(".npy"), file)


def one_number_changed(file):
    with np.load(file) as stored:
        array, digest = stored["basis"].copy(), stored["digest"]
    array[0, 0] += 1e-6
    rewritten(file, basis=array, digest=digest)


BASIS = invariant_tensors(group(), WORD).numpy()
DAMAGE = {
    "truncated": lambda f: f.write_bytes(f.read_bytes()[:-100]),
    "cut in the middle": lambda f: f.write_bytes(f.read_bytes()[:400]),
    "empty": lambda f: f.write_bytes(b""),
    "text": lambda f: f.write_text("hello"),
    "pickle": pickled,
    "objects inside": npz_with_objects,
    "a bare array": other_format,
    "an entry missing": lambda f: rewritten(f, digest=None),
    "no basis": lambda f: rewritten(f, basis=None),
    "another group's": lambda f: rewritten(f, key=np.array("1:abc:++++")),
    "a number changed": one_number_changed,
    "float32": lambda f: rewritten(f, basis=BASIS.astype(np.float32)),
    "flat": lambda f: rewritten(f, basis=BASIS.ravel()),
    "another width": lambda f: rewritten(f, basis=BASIS[:, :27].copy()),
    "not orthonormal": lambda f: rewritten(f, basis=2 * BASIS),
    "not invariant": lambda f: rewritten(f, basis=np.eye(81)[:3]),
    "NaN": lambda f: rewritten(f, basis=np.full_like(BASIS, np.nan)),
    "inf": lambda f: rewritten(f, basis=np.full_like(BASIS, np.inf)),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_file_that_does_not_prove_itself_is_ignored_aloud_and_solved_anew(case, one_file, expected):
    DAMAGE[case](one_file)
    with pytest.warns(SofteqWarning, match=f"{one_file.name} is ignored"):
        found = cached_invariants(group(), WORD)
    assert torch.equal(found, expected)
    clear_memory_cache()
    assert torch.equal(cached_invariants(group(), WORD), expected), "the good file took the bad one's place"


def test_a_folder_in_the_place_of_the_file_is_ignored_and_left_alone(one_file, expected):
    one_file.unlink()
    one_file.mkdir()
    with pytest.warns(SofteqWarning) as caught:
        assert torch.equal(cached_invariants(group(), WORD), expected)
    assert ["ignored" in str(w.message) for w in caught] == [True, False]
    assert one_file.is_dir()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_no_damaged_byte_crashes_or_changes_the_basis(data, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path))
    small = groups.SO(2), (True, True)
    expected = invariant_tensors(*small)
    clear_memory_cache()
    for file in tmp_path.iterdir():
        file.unlink()
    cached_invariants(*small)
    clear_memory_cache()
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    torch.testing.assert_close(cached_invariants(*small), expected, atol=1e-9, rtol=0)
    clear_memory_cache()


def test_a_folder_that_cannot_be_written_warns_and_the_work_goes_on(tmp_path, monkeypatch, expected):
    """Below a file: that holds for root as well, whom permissions do not stop."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path / "file" / "bases"))
    clear_memory_cache()
    with pytest.warns(SofteqWarning) as caught:
        found = cached_invariants(group(), WORD)
    clear_memory_cache()
    assert torch.equal(found, expected)
    assert any("cannot be written" in str(w.message) and "SOFTEQ_CACHE" in str(w.message) for w in caught)


def test_a_full_disk_warns_and_leaves_no_half_file(fresh_cache, monkeypatch, expected):
    def full(file, **entries):
        file.write(b"PK half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    with pytest.warns(SofteqWarning, match="No space left"):
        assert torch.equal(cached_invariants(group(), WORD), expected)
    assert list(fresh_cache.iterdir()) == []


def test_the_disk_can_be_turned_off(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    clear_memory_cache()
    cached_invariants(group(), WORD)
    assert cache_folder() is None
    assert list(tmp_path.iterdir()) == []


def test_where_the_folder_is(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("SOFTEQ_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "softeq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "softeq"


def test_words_and_groups_have_files_of_their_own(fresh_cache):
    for g, letters in ((groups.SL(2), (True, False)), (groups.SL(2), (True, True)), (groups.Cyclic(4), (True, True))):
        cached_invariants(g, letters)
    assert len(list(fresh_cache.iterdir())) == 3
    clear_memory_cache()
    assert len(cached_invariants(groups.SL(2), (True, False))) == 1
    eye = torch.eye(2, dtype=torch.float64).flatten() / 2**0.5
    assert abs(float(cached_invariants(groups.SL(2), (True, False))[0] @ eye)) == pytest.approx(1)


def test_many_threads_get_one_basis(fresh_cache):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_invariants(groups.O(3), WORD), range(16)))
    assert all(basis is found[0] for basis in found)


PROGRAM = """
    import sys, time, warnings
    import torch
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    from softeq import T, equivariant_basis, groups
    print("ready", flush=True)
    sys.stdin.readline()
    for rep in (T(1), T(2), T(1, 1)):
        for group in (groups.SO(3), groups.SL(2), groups.Lorentz(), groups.Permutation(3)):
            print(len(equivariant_basis(rep(group), T(2)(group))))
"""


def test_two_processes_at_once_lose_nothing(fresh_cache):
    environment = os.environ | {"SOFTEQ_CACHE": str(fresh_cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert {path.suffix for path in fresh_cache.iterdir()} == {".npz"}
    for rep, g, line in zip(
        [T(1)] * 4,
        (groups.SO(3), groups.SL(2), groups.Lorentz(), groups.Permutation(3)),
        results[0][0].split(),
        strict=False,
    ):
        assert len(equivariant_basis(rep(g), T(2)(g))) == int(line), "read back from what they wrote"


def test_a_process_that_dies_while_writing_leaves_a_folder_that_works(fresh_cache, expected):
    fresh_cache.mkdir()
    (fresh_cache / "tmpabc.tmp").write_bytes(io.BytesIO(b"half").getvalue())
    assert torch.equal(cached_invariants(group(), WORD), expected)
    assert len(equivariant_basis(Vector(group()), Vector(group()))) == 1


def test_numbers_that_are_another_valid_basis_are_not_believed_under_the_old_digest(one_file, expected):
    with np.load(one_file) as stored:
        array, digest = stored["basis"], stored["digest"]
    rewritten(one_file, basis=np.ascontiguousarray(-array[::-1]), digest=digest)
    with pytest.warns(SofteqWarning, match="damaged"):
        found = cached_invariants(group(), WORD)
    assert torch.equal(found, expected)
