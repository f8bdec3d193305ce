"""Frames on disk, the published rMD17 format, and what is refused."""

import numpy as np
import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.data.molecules import KCAL_PER_MOL, Frames, load, load_rmd17, rmd17_file, save


def frames(count=4, atoms=3, **changes):
    generator = np.random.default_rng(0)
    parts = {
        "name": "md-test",
        "numbers": np.array([8, 1, 1])[:atoms],
        "positions": generator.normal(size=(count, atoms, 3)),
        "energies": generator.normal(size=count),
        "forces": generator.normal(size=(count, atoms, 3)),
        "block": np.arange(count),
        "field": np.array([0.0, 0.0, 1.0]),
        "about": {"engine": "none", "seed": 0},
    }
    return Frames(**(parts | changes))


def rmd17(path, **changes):
    generator = np.random.default_rng(1)
    arrays = {
        "nuclear_charges": np.array([6, 8], dtype=np.uint8),
        "coords": generator.normal(size=(5, 2, 3)),
        "energies": generator.normal(size=5),
        "forces": generator.normal(size=(5, 2, 3)),
        "old_indices": np.arange(5),
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def test_what_is_saved_is_read(tmp_path):
    own = frames()
    save(own, tmp_path / "deep" / "a.npz")
    again = load(tmp_path / "deep" / "a.npz")
    for name in ("numbers", "positions", "energies", "forces", "block", "field"):
        np.testing.assert_array_equal(getattr(again, name), getattr(own, name))
    assert (again.name, again.about) == (own.name, own.about)
    assert len(again.rows(slice(1, 3))) == 2


def test_the_published_format(tmp_path):
    arrays = rmd17(tmp_path / "rmd17_ethanol.npz")
    found = load_rmd17(tmp_path / "rmd17_ethanol.npz")
    assert found.name == "rmd17-ethanol"
    np.testing.assert_allclose(found.energies, arrays["energies"] * KCAL_PER_MOL)
    np.testing.assert_allclose(found.forces, arrays["forces"] * 0.0433641, rtol=1e-5)
    np.testing.assert_array_equal(found.positions, arrays["coords"])
    assert len(set(found.block)) == 5


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(SofteqError, match="no such file"):
        load(path)
    save(frames(), path)
    content = path.read_bytes()
    for cut in (content[:50], content[:-30], b"not an archive"):
        path.write_bytes(cut)
        with pytest.raises(SofteqError, match=r"a\.npz"):
            load(path)
    rmd17(path)
    with pytest.raises(SofteqError, match="lacks"):
        load(path)
    rmd17(path, coords=None)
    with pytest.raises(SofteqError, match="lacks coords"):
        load_rmd17(path)


class Trap:
    """Unpickling it would be seen."""

    run = False

    def __reduce__(self):
        return (setattr, (Trap, "run", True))


def test_pickled_arrays_are_refused_unread(tmp_path):
    path = tmp_path / "a.npz"
    rmd17(path, energies=np.array([Trap()] * 5, dtype=object))
    with pytest.raises(SofteqError, match="numbers alone"):
        load_rmd17(path)
    assert not Trap.run


def test_where_the_published_files_are(monkeypatch, tmp_path):
    monkeypatch.delenv("SOFTEQ_RMD17", raising=False)
    with pytest.raises(SofteqError, match="figshare"):
        rmd17_file("ethanol")
    monkeypatch.setenv("SOFTEQ_RMD17", str(tmp_path))
    with pytest.raises(SofteqError, match="rmd17_ethanol"):
        rmd17_file("ethanol")
    rmd17(tmp_path / "rmd17_ethanol.npz")
    assert rmd17_file("ethanol").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"energies": np.full(4, np.inf)},
        {"forces": np.full((4, 3, 3), np.nan)},
        {"positions": np.zeros((4, 2, 3))},
        {"field": np.zeros(2)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_frames_that_do_not_fit(changes):
    with pytest.raises(SofteqValueError, match=next(iter(changes))):
        frames(**changes)
    with pytest.raises(SofteqValueError, match="at least one"):
        frames(count=0)


def test_a_full_or_forbidden_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SofteqError, match="cannot be written"):
        save(frames(), tmp_path / "file" / "a.npz")
