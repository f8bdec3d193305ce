"""The affine directions that a Gram matrix's eigenvectors name."""

import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS
from softeq.measure.results.directions import affine_directions, rms_displacements

SIZE = (12, 20)


def gram_of(direction, b=4, floor=1e-3):
    """(B, 6, 6) of a model that answers to one direction (rescaled basis) and hardly to what is orthogonal to it."""
    scales = rms_displacements(SIZE)
    direction = direction / direction.norm()
    scaled = torch.outer(direction, direction) + floor * torch.eye(6, dtype=torch.float64)
    return (scaled * scales[:, None] * scales).expand(b, 6, 6).clone()


def test_displacements_are_those_of_the_flows_over_the_pixels():
    height, width = SIZE
    rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    r, c = torch.meshgrid(rows, columns, indexing="ij")
    expected = {"translation_x": torch.ones_like(r), "translation_y": torch.ones_like(r)}
    expected |= {"shear_x": r, "shear_y": c, "stretch_x": c, "stretch_y": r}
    found = dict(zip(GENERATORS, rms_displacements(SIZE).tolist(), strict=True))
    assert found == pytest.approx({name: float(v.square().mean().sqrt()) for name, v in expected.items()})


@pytest.mark.parametrize("name", FLOWS)
def test_a_model_that_answers_to_one_flow_alone_is_told_so_in_words(name):
    scaled = COEFFICIENTS[list(FLOWS).index(name)].double() * rms_displacements(SIZE)
    found = affine_directions(gram_of(scaled), SIZE)
    assert found.least.text.startswith(f"{name} (100%")
    assert found.least.value == pytest.approx(1.001)
    assert "5 directions that tie" in found.most.text
    assert sum(v * v for v in found.least.components.values()) == pytest.approx(1)


def test_directions_between_the_named_ones():
    slanted = torch.tensor([1.0, 1, 0, 0, 0, 0], dtype=torch.float64)
    assert affine_directions(gram_of(slanted), SIZE).least.text.startswith("translation at 45 degrees")
    across = torch.tensor([2.0, 0, 0, 0, -1, 0], dtype=torch.float64)
    assert affine_directions(gram_of(across), SIZE).least.text == "+0.89 translation_x -0.45 stretch_x (pixels RMS)"


def test_directions_leave_out_unmeasured_samples_and_motionless_generators():
    gram = gram_of(torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64))
    gram[1] = math.nan
    assert affine_directions(gram, SIZE).least.value == pytest.approx(1.001)
    flat = affine_directions(torch.eye(6, dtype=torch.float64), (1, 8))
    assert len(flat.eigenvalues) == 4
    assert flat.least.components["shear_x"] == flat.least.components["stretch_y"] == 0.0
    still = gram_of(torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64))
    still[:, 1], still[:, :, 1] = math.nan, math.nan
    assert len(affine_directions(still, SIZE).eigenvalues) == 5
    with pytest.raises(NotMeasurable, match="no sample"):
        affine_directions(torch.full((2, 6, 6), math.nan), SIZE)
    with pytest.raises(SofteqValueError, match="6, 6"):
        affine_directions(torch.eye(5), SIZE)
