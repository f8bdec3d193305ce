"""The cache of bases: believed only when it proves itself; anything else is ignored aloud and solved anew."""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softeq import SofteqWarning, Vector, _completeness, equivariant_basis, groups
from softeq import _cache as cache
from softeq._axes import axes_of
from softeq._cache import cached_invariants, clear_memory_cache
from softeq._cache_folder import cache_folder
from softeq._completeness import is_complete
from softeq._constraints import Constraints
from softeq._invariants import numeric_invariants
from softeq.reps import V

WORD = (V,) * 4


def group():
    return groups.SO(3)


@pytest.fixture
def expected():
    return numeric_invariants(axes_of(group(), WORD))


@pytest.fixture
def one_file(fresh_cache) -> Path:
    """A valid file of the disk cache, with the memory cleared after it was written."""
    cached_invariants(group(), WORD)
    clear_memory_cache()
    (file,) = fresh_cache.iterdir()
    return file


def forbid_solving(monkeypatch):
    def refuse(axes):
        raise AssertionError("solved although the cache had it")

    monkeypatch.setattr(cache, "numeric_invariants", refuse)


def test_a_basis_is_solved_once_per_process(fresh_cache, monkeypatch):
    first = cached_invariants(group(), WORD)
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    assert cached_invariants(groups.SO(3), WORD) is first


def test_a_file_is_read_back_exactly(one_file, expected, monkeypatch):
    forbid_solving(monkeypatch)
    assert torch.equal(cached_invariants(group(), WORD), expected)


def test_an_empty_basis_is_remembered_too(fresh_cache, monkeypatch):
    cached_invariants(groups.O(3), (V,))
    clear_memory_cache()
    forbid_solving(monkeypatch)
    assert cached_invariants(groups.O(3), (V,)).shape == (0, 3)


def parts(file):
    """The header and the numbers of a file."""
    first, _, data = file.read_bytes().partition(b"\n")
    return json.loads(first), np.frombuffer(data, "<f8")


def test_the_file_is_plain_numbers(one_file, expected):
    header, numbers = parts(one_file)
    assert set(header) == {"format", "key", "rank", "digest"}
    np.testing.assert_array_equal(numbers.reshape(header["rank"], -1), expected.numpy())


def test_no_temporary_file_is_left(one_file):
    assert [path.suffix for path in one_file.parent.iterdir()] == [".basis"]


def rewritten(file, basis=None, **changes):
    """The file with another basis, or other entries in its header; rank and digest fit unless they are given."""
    header, numbers = parts(file)
    data = numbers.tobytes() if basis is None else np.asarray(basis).tobytes()
    if basis is not None:
        header |= {"rank": len(basis), "digest": hashlib.sha256(data).hexdigest()}
    header = {name: value for name, value in (header | changes).items() if value is not None}
    file.write_bytes(json.dumps(header).encode() + b"\n" + data)


def one_number_changed(file):
    array = BASIS.copy()
    array[0, 0] += 1e-6
    rewritten(file, array, digest=parts(file)[0]["digest"])


def npz(file):
    with file.open("wb") as handle:
        np.savez(handle, basis=BASIS)


def fifo(file):
    file.unlink()
    os.mkfifo(file)


def bomb(file):
    """Far more than memory, without taking room on the disk."""
    with file.open("wb") as handle:
        handle.truncate(1 << 40)


def device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


BASIS = numeric_invariants(axes_of(group(), WORD)).numpy()
DAMAGE = {
    "truncated": lambda f: f.write_bytes(f.read_bytes()[:-100]),
    "cut in the middle": lambda f: f.write_bytes(f.read_bytes()[:400]),
    "empty": lambda f: f.write_bytes(b""),
    "text": lambda f: f.write_text("hello"),
    "pickle": lambda f: f.write_bytes(pickle.dumps({"basis": np.eye(81)[:3]})),
    "another format": npz,
    "a deep header": lambda f: f.write_bytes(b"[" * 1000 + b"\n"),
    "a long header": lambda f: f.write_bytes(b" " * 5000 + b"{}\n"),
    "an entry missing": lambda f: rewritten(f, digest=None),
    "no rank": lambda f: rewritten(f, rank=None),
    "a negative rank": lambda f: rewritten(f, rank=-3),
    "a rank of words": lambda f: rewritten(f, rank="3"),
    "another rank": lambda f: rewritten(f, rank=2),
    "another group's": lambda f: rewritten(f, key="abc"),
    "a number changed": one_number_changed,
    "float32": lambda f: rewritten(f, BASIS.astype(np.float32)),
    "another width": lambda f: rewritten(f, BASIS[:, :27].copy()),
    "not orthonormal": lambda f: rewritten(f, 2 * BASIS),
    "not invariant": lambda f: rewritten(f, np.eye(81)[:3]),
    "NaN": lambda f: rewritten(f, np.full_like(BASIS, np.nan)),
    "inf": lambda f: rewritten(f, np.full_like(BASIS, np.inf)),
    "one tensor missing": lambda f: rewritten(f, BASIS[:2].copy()),
    "all tensors missing": lambda f: rewritten(f, BASIS[:0].copy()),
    "a pipe": fifo,
    "a bomb": bomb,
    "a device": device,
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
    monkeypatch.setattr(cache, "_DISK_FROM", 0)
    small = groups.SO(2), (V, V)
    expected = numeric_invariants(axes_of(*small))
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
    monkeypatch.setattr(cache, "_DISK_FROM", 0)
    clear_memory_cache()
    with pytest.warns(SofteqWarning) as caught:
        found = cached_invariants(group(), WORD)
    clear_memory_cache()
    assert torch.equal(found, expected)
    assert any("cannot be written" in str(w.message) and "SOFTEQ_CACHE" in str(w.message) for w in caught)


def test_a_full_disk_warns_and_leaves_no_half_file(fresh_cache, monkeypatch, expected):
    def full(handle, mode):
        os.close(handle)
        return open("/dev/full", mode)

    monkeypatch.setattr(cache.os, "fdopen", full)
    with pytest.warns(SofteqWarning, match="No space left"):
        assert torch.equal(cached_invariants(group(), WORD), expected)
    assert list(fresh_cache.iterdir()) == []


def test_small_tensors_and_permutations_are_not_written(fresh_cache, monkeypatch):
    cached_invariants(groups.Permutation(4), WORD)
    assert not fresh_cache.exists()
    monkeypatch.setattr(cache, "_DISK_FROM", 1024)
    cached_invariants(group(), WORD)
    assert not fresh_cache.exists()


COMPLETE = {
    "a matrix": (groups.SO(3), (V,) * 4),
    "a finite group": (groups.Dihedral(3), (V,) * 6),
    "another group": (groups.SL(2), (V, V, V.dual, V.dual)),
    "no invariants": (groups.O(3), (V,) * 3),
}


@pytest.mark.parametrize("limit", [1024, 1], ids=["a factorisation", "subspace iteration"])
@pytest.mark.parametrize("case", COMPLETE)
def test_a_basis_that_lacks_a_tensor_is_told_from_a_whole_one(case, limit, monkeypatch):
    monkeypatch.setattr(_completeness, "_MATRIX_LIMIT", limit)
    axes = axes_of(*COMPLETE[case])
    constraints, basis = Constraints(axes), numeric_invariants(axes)
    assert is_complete(constraints, basis)
    if len(basis):
        assert not is_complete(constraints, basis[1:])
        assert not is_complete(constraints, basis[:0])


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
    for g, letters in ((groups.SL(2), (V, V.dual)), (groups.SL(2), (V, V)), (groups.Cyclic(3), (V, V))):
        cached_invariants(g, letters)
    assert len(list(fresh_cache.iterdir())) == 3
    clear_memory_cache()
    assert len(cached_invariants(groups.SL(2), (V, V.dual))) == 1
    eye = torch.eye(2, dtype=torch.float64).flatten() / 2**0.5
    assert abs(float(cached_invariants(groups.SL(2), (V, V.dual))[0] @ eye)) == pytest.approx(1)


def test_a_process_that_dies_while_writing_leaves_a_folder_that_works(fresh_cache, expected):
    fresh_cache.mkdir()
    (fresh_cache / "tmpabc.tmp").write_bytes(io.BytesIO(b"half").getvalue())
    assert torch.equal(cached_invariants(group(), WORD), expected)
    assert len(equivariant_basis(Vector(group()), Vector(group()))) == 1


def test_numbers_that_are_another_valid_basis_are_not_believed_under_the_old_digest(one_file, expected):
    rewritten(one_file, np.ascontiguousarray(-BASIS[::-1]), digest=parts(one_file)[0]["digest"])
    with pytest.warns(SofteqWarning, match="damaged"):
        found = cached_invariants(group(), WORD)
    assert torch.equal(found, expected)
