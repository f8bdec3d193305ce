import pytest

from softeq.experiments.phenomena import widths


@pytest.fixture(scope="module")
def found():
    return {arm: widths.run(widths.configure("smoke", arm, 0), lambda done, total: None) for arm in ("hard", "none")}


def test_a_hard_network_has_no_dimensions_off_the_symmetry(found):
    assert found["hard"]["dimension_rest@8"] == 0
    assert found["none"]["dimension_rest@8"] > 0
    assert found["hard"]["dimension_equivariant@8"] > 0


def test_dimensions_are_at_most_those_of_the_subspaces(found):
    for width in (1, 8):
        equivariant, all_of_them = 75 * width + 10, 300 * width + 10
        assert found["hard"][f"parameters@{width}"] == equivariant
        assert found["none"][f"parameters@{width}"] == all_of_them
        assert found["none"][f"dimension_rest@{width}"] < all_of_them - equivariant
    assert found["none"]["final_error"] == found["none"]["test_error@8"]


def test_only_soft_has_a_prior():
    assert [arm for arm in widths.ARMS if widths.configure("default", arm, 0)["prior"]] == ["soft"]
