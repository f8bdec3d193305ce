"""The table of named groups that several tests go through, and what a test of a soft layer starts from."""

import importlib.util
from collections.abc import Callable

import pytest
import torch

from softeq import _cache as cache
from softeq import groups
from softeq.groups import Group

NAMED_GROUPS: dict[str, Callable[[], Group]] = {
    "Trivial(1)": lambda: groups.Trivial(1),
    "Trivial(3)": lambda: groups.Trivial(3),
    "SO(2)": lambda: groups.SO(2),
    "SO(3)": lambda: groups.SO(3),
    "SO(4)": lambda: groups.SO(4),
    "O(1)": lambda: groups.O(1),
    "O(2)": lambda: groups.O(2),
    "O(3)": lambda: groups.O(3),
    "O(4)": lambda: groups.O(4),
    "SO13": groups.SO13,
    "SO13p": groups.SO13p,
    "Lorentz": groups.Lorentz,
    "SOpq(1,1)": lambda: groups.SOpq(1, 1),
    "SOpq(2,1)": lambda: groups.SOpq(2, 1),
    "SOpq(2,2)": lambda: groups.SOpq(2, 2),
    "SOpq(0,3)": lambda: groups.SOpq(0, 3),
    "Opq(2,1)": lambda: groups.Opq(2, 1),
    "SOpqp(2,1)": lambda: groups.SOpqp(2, 1),
    "SO11": groups.SO11,
    "SO11p": groups.SO11p,
    "O11": groups.O11,
    "Parity": groups.Parity,
    "TimeReversal": groups.TimeReversal,
    "GL(2)": lambda: groups.GL(2),
    "Scaling(3)": lambda: groups.Scaling(3),
    "U(1)": lambda: groups.U(1),
    "U(2)": lambda: groups.U(2),
    "SU(1)": lambda: groups.SU(1),
    "SU(2)": lambda: groups.SU(2),
    "SU(3)": lambda: groups.SU(3),
    "Sp(2)": lambda: groups.Sp(2),
    "Sp(4)": lambda: groups.Sp(4),
    "SL(2)": lambda: groups.SL(2),
    "SL(3)": lambda: groups.SL(3),
    "Cyclic(1)": lambda: groups.Cyclic(1),
    "Cyclic(3)": lambda: groups.Cyclic(3),
    "Cyclic(8)": lambda: groups.Cyclic(8),
    "Dihedral(1)": lambda: groups.Dihedral(1),
    "Dihedral(3)": lambda: groups.Dihedral(3),
    "Dihedral(4)": lambda: groups.Dihedral(4),
    "Z(1)": lambda: groups.Z(1),
    "Z(4)": lambda: groups.Z(4),
    "Permutation(1)": lambda: groups.Permutation(1),
    "Permutation(2)": lambda: groups.Permutation(2),
    "Permutation(4)": lambda: groups.Permutation(4),
    "ZksZnxZn(4,1)": lambda: groups.ZksZnxZn(4, 1),
    "Cube": groups.Cube,
    "Embed(SO(2),4,1)": lambda: groups.Embed(groups.SO(2), 4, 1),
    "SO2eR3": groups.SO2eR3,
    "O2eR3": groups.O2eR3,
    "DkeR3(1)": lambda: groups.DkeR3(1),
    "DkeR3(4)": lambda: groups.DkeR3(4),
    "SO(2)*Permutation(2)": lambda: groups.SO(2) * groups.Permutation(2),
    "Z(3)*Dihedral(4)": lambda: groups.Z(3) * groups.Dihedral(4),
    "SL(2)*SL(2)": lambda: groups.SL(2) * groups.SL(2),
    "SO(2)+Permutation(3)": lambda: groups.separate(groups.SO(2), groups.Permutation(3)),
}

# Their tables name layers of escnn, which has no wheel for every supported Python.
collect_ignore = [] if importlib.util.find_spec("escnn") else ["test_contract.py", "test_layer_input.py"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The matrices are small: a second thread gains nothing, and on a busy machine it makes the first one wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=NAMED_GROUPS, ids=lambda name: name)
def group_id(request) -> str:
    """The id of every named group in turn."""
    return request.param


@pytest.fixture(scope="session")
def all_group_ids() -> list[str]:
    return list(NAMED_GROUPS)


@pytest.fixture
def group(group_id: str) -> Group:
    return NAMED_GROUPS[group_id]()


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty folder as the disk cache, and nothing in memory before and after."""
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path / "bases"))
    monkeypatch.setattr(cache, "_DISK_FROM", 0)
    cache.clear_memory_cache()
    yield tmp_path / "bases"
    cache.clear_memory_cache()


@pytest.fixture
def exact_wigner_matrices(monkeypatch):
    """e3nn makes Wigner matrices in the default dtype: 1e-7 off where that is float32, whatever they are cast to."""
    from e3nn import o3  # here, since most tests need no e3nn

    original = o3.Irreps.D_from_matrix

    def exact(self, matrix):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return original(self, matrix)
        finally:
            torch.set_default_dtype(before)

    monkeypatch.setattr(o3.Irreps, "D_from_matrix", exact)
