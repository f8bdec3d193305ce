"""One walk of a molecule on GFN2-xTB: its start, its Langevin dynamics by ase, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data.molecules import Frames
from softeq.experiments.data.xtb import EXTRA, FIELD_UNIT, Engine, calculator, embedded

MOLECULES = {"ethanol": "CCO", "malonaldehyde": "O=CC=CO", "aspirin": "CC(=O)Oc1ccccc1C(=O)O"}
"""SMILES by name; malonaldehyde as its enol."""


@dataclass(frozen=True)
class Sampling:
    """How a set is sampled.

    Args:
        walks: per set; each is a block.
        frames: kept of each walk.
        burn: steps before the first.
        thin: steps from one kept frame to the next.
        timestep: fs.
        temperature: K.
        friction: 1/fs.
        seed: of the minimum's conformer and of the walks.

    Raises:
        SofteqValueError: a value that is out of range.
    """

    walks: int = 40
    frames: int = 48
    burn: int = 400
    thin: int = 20
    timestep: float = 0.5
    temperature: float = 500.0
    friction: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"walks": 1, "frames": 1, "burn": 0, "thin": 1, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise SofteqValueError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for name in ("timestep", "temperature", "friction"):
            if not 0 < getattr(self, name) < np.inf:
                raise SofteqValueError(f"{name}: expected a finite number above 0, got {getattr(self, name)}")


def minimum(molecule: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions at the GFN2-xTB minimum (forces below 0.01 eV/Angstrom) next to a conformer.

    Raises:
        MissingExtraError: the engine is not installed.
        SofteqError: the search did not converge.
    """
    numbers, positions = embedded(MOLECULES[molecule], seed + 1)
    try:
        from ase import Atoms
        from ase.optimize import BFGS
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error
    atoms = Atoms(numbers, positions, calculator=calculator(Engine(numbers)))
    if not BFGS(atoms, logfile=None).run(fmax=0.01, steps=1000):
        raise SofteqError(f"{molecule}: the search for its minimum did not converge in 1000 steps")
    return numbers, atoms.positions - atoms.positions.mean(0)


def walk(numbers: np.ndarray, start: np.ndarray, field: float, sampling: Sampling, number: int) -> Frames:
    """One walk: its ``sampling.frames`` frames, all of block ``number``.

    Args:
        numbers, start: ``(n,)`` and ``(n, 3)``, Angstrom.
        field: along z, atomic units.
        sampling: how; ``walks`` is not looked at.
        number: which walk; it draws its own direction, velocities and noise.
    """
    try:
        from ase import Atoms, units
        from ase.constraints import FixCom
        from ase.md.langevin import Langevin
        from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error
    generator = np.random.default_rng([sampling.seed, number])
    along = np.array([0.0, 0.0, field * FIELD_UNIT])
    atoms = Atoms(numbers, start @ random_rotation(generator).T, calculator=calculator(Engine(numbers, along)))
    # From a minimum, half of the kinetic energy becomes potential energy.
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * sampling.temperature, rng=generator)
    Stationary(atoms)
    atoms.set_constraint(FixCom())
    dynamics = Langevin(
        atoms,
        sampling.timestep * units.fs,
        temperature_K=sampling.temperature,
        friction=sampling.friction / units.fs,
        rng=generator,
        fixcm=False,
    )
    dynamics.run(sampling.burn)
    kept, kinetic = [], []
    for _ in range(sampling.frames):
        dynamics.run(sampling.thin)
        kept.append(
            (
                atoms.positions - atoms.positions.mean(0),
                atoms.get_potential_energy(),
                atoms.get_forces(apply_constraint=False),
            )
        )
        kinetic.append(atoms.get_kinetic_energy())
    positions, energies, stacked = (np.array([entry[k] for entry in kept]) for k in range(3))
    # The centre of mass stands still, which leaves 3 n - 3 velocities.
    degrees = 3 * len(numbers) - 3
    heat = {"kinetic_temperature": 2 * float(np.mean(kinetic)) / (degrees * units.kB)}
    block = np.full(len(kept), number)
    return Frames("walk", numbers, positions, energies, stacked, block, along, heat)


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """Uniform over SO(3), ``(3, 3)``: a random unit quaternion's."""
    w, x, y, z = (q := generator.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
