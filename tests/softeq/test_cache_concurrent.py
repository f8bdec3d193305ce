"""The cache of bases under many threads, and under processes at once."""

import textwrap
from concurrent.futures import ThreadPoolExecutor

from softeq import T, equivariant_basis, groups
from softeq._cache import cached_invariants, clear_memory_cache

from .test_cache import WORD


def test_many_threads_get_one_basis(fresh_cache):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_invariants(groups.O(3), WORD), range(16)))
    assert all(basis is found[0] for basis in found)


PROGRAM = """
    import os, sys, time, warnings
    warnings.simplefilter("error")
    from softeq import T, _cache, equivariant_basis, groups
    _cache._DISK_FROM = 0
    open("ready", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.001)
    for rep in (T(1), T(2), T(1, 1)):
        for group in (groups.SO(3), groups.SL(2), groups.Lorentz(), groups.Permutation(3)):
            print(len(equivariant_basis(rep(group), T(2)(group))))
"""


def test_two_processes_at_once_lose_nothing(fresh_cache, start, wait_for, tmp_path):
    """This one is the second."""
    other = start(textwrap.dedent(PROGRAM), cwd=tmp_path, SOFTEQ_CACHE=str(fresh_cache))
    wait_for((tmp_path / "ready").exists)
    (tmp_path / "go").touch()
    pairs = [
        (rep(group), T(2)(group))
        for rep in (T(1), T(2), T(1, 1))
        for group in (groups.SO(3), groups.SL(2), groups.Lorentz(), groups.Permutation(3))
    ]
    own = [len(equivariant_basis(*pair)) for pair in pairs]
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert [int(line) for line in out.split()] == own
    assert {path.suffix for path in fresh_cache.iterdir()} == {".basis"}
    clear_memory_cache()
    assert [len(equivariant_basis(*pair)) for pair in pairs] == own, "read back from what they wrote"
