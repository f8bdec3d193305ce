"""A smooth pair potential in plain numpy, right in every respect, and the same broken in one at a time."""

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.cell import Cell

CUTOFF = 5.0


def wave(r):
    """Energy and slope of a pair: a well with a smooth end at the cutoff."""
    x = np.clip(r / CUTOFF, None, 1.0)
    end, slope = (1 - x**2) ** 3, -6 * x * (1 - x**2) ** 2 / CUTOFF
    well, down = np.exp(-2 * (r - 1.5)) - 2 * np.exp(-(r - 1.5)), -2 * np.exp(-2 * (r - 1.5)) + 2 * np.exp(-(r - 1.5))
    return 0.2 * well * end, 0.2 * (down * end + well * slope)


class Right(Calculator):
    """Energy, forces and stress; three pieces that a subclass may break: the cell, the pairs, the answer."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        own = self.atoms
        energy, forces, virial = self.summed(own.positions, self.cell_of(own), own.pbc, own.numbers)
        found = {"energy": energy, "forces": forces}
        if own.pbc.any() and own.cell.rank == 3:
            found["stress"] = (virial / own.get_volume()).ravel()[[0, 4, 8, 5, 2, 1]]
        self.results = self.answer(found, own)

    def cell_of(self, atoms):
        return atoms.cell.array

    def pairs(self, i, j, apart, r):
        """Which of the directed pairs count."""
        return r < CUTOFF

    def answer(self, found, atoms):
        return found

    def summed(self, positions, cell, pbc, numbers):
        i, j, apart, r = neighbours(positions, cell, pbc)
        kept = self.pairs(i, j, apart, r)
        i, j, apart, r = i[kept], j[kept], apart[kept], r[kept]
        strength = 1 + 0.1 * (numbers[i] + numbers[j])
        energy, slope = wave(r)
        push = (strength * slope / r)[:, None] * apart / 2
        forces = np.zeros_like(positions)
        np.add.at(forces, i, push)
        np.add.at(forces, j, -push)
        return float(0.5 * (strength * energy).sum()), forces, apart.T @ push


def neighbours(positions, cell, pbc):
    """Directed pairs: receiver, sender, vector from one to the other, distance; images up to two cells away."""
    ranges = [np.arange(-2, 3) if p else np.zeros(1, dtype=int) for p in pbc]
    steps = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    wrapped = positions
    if pbc.any():
        whole = Cell(cell).complete().array
        fraction = positions @ np.linalg.inv(whole)
        wrapped = (fraction - np.floor(fraction) * pbc) @ whole
    apart = wrapped[None, :, None] + (steps @ cell)[None, None] - wrapped[:, None, None]
    r = np.linalg.norm(apart, axis=-1)
    i, j, k = np.nonzero(r > 1e-9)
    return i, j, apart[i, j, k], r[i, j, k]


class Ordered(Right):
    """Keeps the first five neighbours in the order of the list."""

    def pairs(self, i, j, apart, r):
        return within(i, r, lambda rows: rows, 5)


class Nearest(Right):
    """Keeps the five nearest."""

    def pairs(self, i, j, apart, r):
        return within(i, r, lambda rows: rows[np.argsort(r[rows], kind="stable")], 5)


def within(i, r, sort, most):
    kept = np.zeros(len(i), dtype=bool)
    for atom in np.unique(i):
        kept[sort(np.flatnonzero((i == atom) & (r < CUTOFF)))[:most]] = True
    return kept


class Sharp(Right):
    """Ends at 4 Angstrom without a smooth end."""

    def pairs(self, i, j, apart, r):
        return r < 4.0


class Frozen(Right):
    """Takes the cell that it was given first."""

    first = None

    def cell_of(self, atoms):
        if self.first is None:
            self.first = atoms.cell.array.copy()
        return self.first


class Straight(Right):
    """Takes the lengths of the cell's vectors and lays them along x, y and z."""

    def cell_of(self, atoms):
        return np.diag(np.linalg.norm(atoms.cell.array, axis=1))


class Field(Right):
    """Charges in a uniform field along a direction."""

    field = np.array([0.0, 0.6, 0.8])

    def answer(self, found, atoms):
        charges = (atoms.numbers - atoms.numbers.mean()) * 0.05
        energy = -float(charges @ (atoms.positions @ self.field))
        return found | {"energy": found["energy"] + energy, "forces": found["forces"] + np.outer(charges, self.field)}


class Grid(Right):
    """An energy with the directions of a cube."""

    def answer(self, found, atoms):
        arms = atoms.positions - atoms.positions.mean(0)
        forces = -4e-3 * arms**3
        energy = 1e-3 * (arms**4).sum()
        return found | {"energy": found["energy"] + energy, "forces": found["forces"] + forces - forces.mean(0)}


class Place(Right):
    """A well about the origin."""

    def answer(self, found, atoms):
        energy = 1e-3 * (atoms.positions**2).sum()
        return found | {"energy": found["energy"] + energy, "forces": found["forces"] - 2e-3 * atoms.positions}


class Handed(Right):
    """The volume, with its sign, that three moments about the centre span; the order of like atoms does not matter."""

    implemented_properties = ["energy"]  # noqa: RUF012

    def answer(self, found, atoms):
        q = atoms.positions - atoms.positions.mean(0)
        r = np.linalg.norm(q, axis=1)
        moments = np.stack([q[atoms.numbers == 8].sum(0), q[atoms.numbers == 6].sum(0), r @ q])
        return {"energy": found["energy"] + 0.1 * float(np.linalg.det(moments))}


class Direct(Right):
    """Forces with an error of their own, which rotates with the atoms."""

    def answer(self, found, atoms):
        arms = atoms.positions - atoms.positions.mean(0)
        return found | {"forces": found["forces"] + 0.01 * arms * np.linalg.norm(arms, axis=1, keepdims=True)}


class Kilocalories(Right):
    """Forces in kcal/mol/Angstrom."""

    def answer(self, found, atoms):
        return found | {"forces": found["forces"] * 23.06}


class Pressure(Right):
    """Stress with the sign of a pressure."""

    def answer(self, found, atoms):
        return found | ({"stress": -found["stress"]} if "stress" in found else {})


class Unwrapped(Right):
    """Does not bring atoms back into the cell: sees the images two cells away and no others."""

    def summed(self, positions, cell, pbc, numbers):
        i, j, apart, r = unwrapped(positions, cell, pbc)
        energy, slope = wave(r)
        push = (slope / r)[:, None] * apart / 2 * (r < CUTOFF)[:, None]
        forces = np.zeros_like(positions)
        np.add.at(forces, i, push)
        np.add.at(forces, j, -push)
        return float(0.5 * energy[r < CUTOFF].sum()), forces, apart.T @ push


def unwrapped(positions, cell, pbc):
    ranges = [np.arange(-1, 2) if p else np.zeros(1, dtype=int) for p in pbc]
    steps = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    apart = positions[None, :, None] + (steps @ cell)[None, None] - positions[:, None, None]
    r = np.linalg.norm(apart, axis=-1)
    i, j, k = np.nonzero(r > 1e-9)
    return i, j, apart[i, j, k], r[i, j, k]


class Random(Right):
    """Dropout left on."""

    generator = np.random.default_rng(0)

    def answer(self, found, atoms):
        noise = self.generator.normal(size=found["forces"].shape)
        return found | {"energy": found["energy"] + 1e-3 * noise[0, 0], "forces": found["forces"] + 1e-3 * noise}


class Constant(Right):
    """Weights that were never loaded."""

    def answer(self, found, atoms):
        return {key: np.zeros_like(value) for key, value in found.items()}


class Single(Right):
    """Computed in float32, with the large energies that electrons have."""

    def answer(self, found, atoms):
        energy = float(np.float32(found["energy"] - 1000.0 * len(atoms)))
        return {k: np.asarray(v, dtype=np.float32).astype(np.float64) for k, v in found.items()} | {"energy": energy}


def cluster(seed=0):
    """Eight atoms of three kinds, without any symmetry."""
    places = np.random.default_rng(seed).normal(size=(8, 3)) * 0.15
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    return Atoms("OC2H5", 1.9 * corners + places)


def crystal():
    """Three atoms in a skewed cell."""
    cell = np.array([[4.1, 0.0, 0.0], [1.3, 3.9, 0.0], [-0.4, 0.7, 4.4]])
    return Atoms("OC2", [[0.1, 0.2, 0.1], [1.9, 1.8, 0.4], [0.6, 2.1, 2.5]], cell=cell, pbc=True)


def water():
    return molecule("H2O")
