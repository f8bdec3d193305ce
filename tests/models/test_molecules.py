"""The potential: forces, symmetry in each constraint, batches, fields, the contract of soft models, and bad input."""

from types import SimpleNamespace

import pytest
import torch
from e3nn import o3

from softeq import Prior, SofteqTypeError, fold, harden, prior_penalty, weight_defect
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential
from softeq.pathways import SoftLayer

CONSTRAINTS = ("hard", "soft", "none")
# Ethanol, Angstrom: two carbons, oxygen, six hydrogens.
ETHANOL = torch.tensor(
    [
        [1.168, -0.397, 0.0],
        [0.0, 0.560, 0.0],
        [-1.190, -0.213, 0.0],
        [-1.947, 0.380, 0.0],
        [2.116, 0.145, 0.0],
        [1.126, -1.037, 0.886],
        [1.126, -1.037, -0.886],
        [0.042, 1.204, 0.890],
        [0.042, 1.204, -0.890],
    ],
    dtype=torch.float64,
)
ATOMS = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1])
WATER = ETHANOL[[2, 3, 1]] * 1.1
SPECIES = (1, 6, 8)
FIELD = [0.2, -0.3, 0.5]


def build(constraint="hard", **options):
    torch.manual_seed(0)
    model = SoftPotential(SPECIES, constraint=constraint, **{"channels": 4, "lmax": 2, **options}).double()
    with torch.no_grad():
        model.shift.copy_(torch.tensor([-0.5, 1.0, 2.0]))
        model.scale.copy_(torch.tensor([0.8, 1.2, 0.5]))
        for layer in model.modules():  # far from the constraint, so that nothing hides in a small number
            if constraint == "soft" and isinstance(layer, SoftLayer):
                for parameter in layer.pathways["residual"].parameters():
                    parameter.mul_(100)
    return model.eval()


def batch(positions=ETHANOL, species=ATOMS, cutoff=4.5, field=None):
    return molecule_batch([species], [positions], cutoff=cutoff, field=field)


def results(model, positions=ETHANOL, field=None, species=ATOMS):
    return model.energy_and_forces(batch(positions, species, field=field))


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("field", [None, FIELD], ids=["vacuum", "field"])
def test_forces_are_minus_the_slope_of_the_energy(constraint, field):
    model = build(constraint, field=field is not None)
    _, forces = results(model, field=field)
    h = 1e-4
    frames = ETHANOL + h * torch.cat([torch.eye(27), -torch.eye(27)]).double().view(54, 9, 3)
    with torch.no_grad():
        energy = model(molecule_batch(ATOMS, frames, cutoff=4.5, field=field))
    expected = -(energy[:27] - energy[27:]).view(9, 3) / (2 * h)
    assert float((forces - expected).norm() / expected.norm()) < 1e-6
    assert float(expected.norm()) > 0.1


def test_the_slope_in_the_field_is_minus_a_dipole_moment():
    model, h = build("hard", field=True), 1e-5
    field = torch.tensor([FIELD], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model(batch(field=field)).sum(), field)
    steps = torch.tensor(FIELD) + h * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    with torch.no_grad():
        energy = model(molecule_batch(ATOMS, ETHANOL.expand(6, 9, 3), cutoff=4.5, field=steps))
    torch.testing.assert_close(slope[0], (energy[:3] - energy[3:]) / (2 * h), rtol=1e-6, atol=1e-9)
    assert float(slope.norm()) > 1e-3


def unequal(model, move, field=None, moved_field=None):
    """Relative change of the energy, and of the forces after undoing the move, under an element of O(3)."""
    energy, forces = results(model, field=field)
    moved_energy, moved_forces = results(model, ETHANOL @ move.T, moved_field)
    size = (energy - model.shift.detach()[[1, 1, 2, 0, 0, 0, 0, 0, 0]].sum()).abs()
    return (
        float((moved_energy - energy).abs() / size),
        float((moved_forces @ move - forces).norm() / forces.norm()),
    )


@pytest.fixture
def moves():
    torch.manual_seed(5)
    rotation = o3.rand_matrix(dtype=torch.float64)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    return {"rotation": rotation, "mirror": mirror, "both": rotation @ mirror}


@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
def test_hard_turns_with_the_molecule(lmax, moves):
    model = build("hard", lmax=lmax, layers=3)
    for move in moves.values():
        assert max(unequal(model, move)) < 1e-9


def test_the_checks_of_symmetry_see_a_broken_model(moves):
    """The control: one wrong sign in the harmonics of a hard model."""
    model = build("hard", layers=3)
    steps = {name: step.clone() for name, step in model.harmonics.constants.exact.items()}
    steps["degree_2"][:, 0] *= -1
    model.harmonics.constants = SimpleNamespace(on=lambda like: steps)
    assert min(unequal(model, moves["rotation"])) > 1e-4


@pytest.mark.parametrize("constraint", ["soft", "none"])
def test_a_residual_does_not_turn(constraint, moves):
    for move in moves.values():
        assert min(unequal(build(constraint), move)) > 1e-2


@pytest.mark.parametrize("lmax", [1, 2])
def test_hard_with_a_field_turns_when_the_field_turns_with_it(lmax, moves):
    model, field = build("hard", lmax=lmax, field=True), torch.tensor(FIELD, dtype=torch.float64)
    for move in moves.values():
        assert max(unequal(model, move, field, move @ field)) < 1e-9
        assert min(unequal(model, move, field, field)) > 1e-3


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_shifting_and_reordering_atoms_changes_nothing_in_any_model(constraint):
    model = build(constraint)
    energy, forces = results(model)
    shifted = results(model, ETHANOL + torch.tensor([3.0, -20.0, 0.7], dtype=torch.float64))
    order = torch.tensor([8, 2, 5, 0, 7, 1, 3, 6, 4])
    reordered = results(model, ETHANOL[order], species=ATOMS[order])
    torch.testing.assert_close(shifted, (energy, forces), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(reordered, (energy, forces[order]), rtol=1e-9, atol=1e-10)
    assert forces.sum(0).abs().max() < 1e-10


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_a_batch_of_different_sizes_equals_one_by_one(constraint):
    model = build(constraint, field=True)
    water, lone = torch.tensor([8, 1, 6]), torch.tensor([6])
    species, places = [ATOMS, lone, water, ATOMS], [ETHANOL, WATER[:1], WATER, 1.1 * ETHANOL]
    fields = torch.randn(4, 3, dtype=torch.float64)
    energy, forces = model.energy_and_forces(molecule_batch(species, places, cutoff=4.5, field=fields))
    single = [results(model, p, f, z) for z, p, f in zip(species, places, fields, strict=True)]
    torch.testing.assert_close(energy, torch.cat([e for e, _ in single]))
    torch.testing.assert_close(forces, torch.cat([f for _, f in single]))


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("field", [False, True], ids=["vacuum", "field"])
def test_one_atom_has_the_energy_of_its_shift_and_no_forces(constraint, field):
    model = build(constraint, field=field)
    for kind, number in enumerate(SPECIES):
        zero = [0.0, 0.0, 0.0] if field else None
        energy, forces = results(model, WATER[:1], zero, torch.tensor([number]))
        torch.testing.assert_close(energy, model.shift[kind : kind + 1].detach())
        assert forces.abs().max() == 0


def test_molecules_beyond_the_cutoff_do_not_feel_each_other():
    model = build("soft")
    far = torch.cat([ETHANOL, ETHANOL + 100])
    energy, forces = results(model, far, species=torch.cat([ATOMS, ATOMS]))
    alone = results(model)
    torch.testing.assert_close(energy, 2 * alone[0])
    torch.testing.assert_close(forces, torch.cat([alone[1], alone[1]]))
    # No pair at all: the empty neighbour list.
    spread = 10.0 * torch.arange(3, dtype=torch.float64)[:, None].expand(3, 3)
    energy, forces = results(model, spread, species=torch.tensor([8, 1, 1]))
    torch.testing.assert_close(energy[0], model.shift[[2, 0, 0]].sum())
    assert forces.abs().max() == 0


def test_the_energy_is_smooth_where_an_atom_crosses_the_cutoff():
    model = build("soft", cutoff=3.0)
    at = lambda d: results(model, torch.tensor([[0.0, 0, 0], [0, 0, d]]).double(), species=torch.tensor([8, 1]))
    assert (at(3 - 1e-4)[0] - at(3 + 1e-4)[0]).abs() < 1e-9
    assert at(3 - 1e-4)[1].abs().max() < 1e-5
    assert at(2.0)[1].abs().max() > 1e-3


def test_a_cutoff_beyond_the_molecule_lists_all_pairs_and_longer_lists_change_nothing():
    model = build("soft", cutoff=50.0)
    listed = batch(cutoff=50.0)
    assert listed.pairs.shape == (2, 72)
    torch.testing.assert_close(model(listed), model(batch(cutoff=500.0)))
    assert model.energy_and_forces(listed)[1].abs().max() > 0.1
    short = build("soft", cutoff=2.0)
    torch.testing.assert_close(short(batch(cutoff=2.0)), short(batch(cutoff=4.5)))
    assert batch(cutoff=2.0).pairs.shape[1] < batch(cutoff=4.5).pairs.shape[1]


@pytest.mark.parametrize("field", [False, True], ids=["vacuum", "field"])
def test_hardened_is_invariant_folded_is_the_same_and_the_penalty_counts_every_pathway(field, moves):
    model, given = build("soft", field=field), [0.0, 0.0, 0.0] if field else None
    assert max(unequal(harden(model), moves["both"], given, given)) < 1e-9
    folded = fold(model)
    assert not any(isinstance(module, SoftLayer) for module in folded.modules())
    torch.testing.assert_close(folded.energy_and_forces(batch(field=given)), results(model, field=given))
    inside = {id(p) for m in model.modules() if isinstance(m, SoftLayer) for p in m.parameters()}
    outside = {name for name, p in model.named_parameters() if id(p) not in inside}
    assert {name.split(".")[0] for name in outside} == {"radial", "scale", "shift"}
    residuals = [m.pathways["residual"] for m in model.modules() if isinstance(m, SoftLayer)]
    squares = sum(p.square().sum() for residual in residuals for p in residual.parameters())
    torch.testing.assert_close(prior_penalty(model, Prior(equivariant=0.0, residual=2.0)), squares)
    defects = weight_defect(model)
    assert {"embedding", "last", "interactions.1.product", "interactions.1.after"} <= set(defects)
    assert max(defects.values()) > 0.05
    assert max(weight_defect(harden(model)).values()) < 1e-12


def test_the_residual_can_learn_a_fixed_field_and_the_hard_model_cannot():
    torch.manual_seed(1)
    charges = torch.tensor([0.1, 0.1, -0.6, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0])
    frames = torch.einsum("bij,nj->bni", o3.rand_matrix(10), ETHANOL.float())
    frames = molecule_batch(ATOMS, frames, cutoff=4.5)
    push = torch.zeros(10, 9, 3)
    push[:, :, 2] = charges  # the forces of a field of 1 V/Angstrom along z
    left = {}
    for constraint in ("hard", "soft"):
        torch.manual_seed(0)
        model = SoftPotential(SPECIES, channels=8, layers=1, constraint=constraint)
        optimizer = torch.optim.Adam(model.parameters(), 3e-2)
        for _ in range(80):
            optimizer.zero_grad()
            loss = (model.energy_and_forces(frames)[1] - push.view(-1, 3)).square().mean()
            loss.backward()
            optimizer.step()
        left[constraint] = float(loss.detach() / push.square().mean())
    assert left["hard"] > 0.9
    assert left["soft"] < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(SofteqTypeError, match=f"batch.positions: expected .* got {dtype}"):
        build().to(dtype)(batch().to(dtype))


def test_a_loss_of_forces_reaches_every_parameter_but_the_shift():
    model = build("soft").train()
    _, forces = model.energy_and_forces(batch())
    forces.square().sum().backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert missing <= {"shift", "last.pathways.equivariant.bias", "last.pathways.residual.bias"}
    assert not results(model.eval())[1].requires_grad
    with torch.no_grad():
        assert not results(model.train())[1].requires_grad


def test_float32_agrees_with_float64_and_the_state_dict_goes_over():
    model = build("soft")
    single = SoftPotential(SPECIES, channels=4, lmax=2)
    single.load_state_dict(model.state_dict())
    energy, forces = single.energy_and_forces(batch(ETHANOL.float()))
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy.double(), results(model)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(forces.double(), results(model)[1], rtol=1e-3, atol=1e-3)
