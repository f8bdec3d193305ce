import pytest

from softeq.experiments.images.dial_points import DIALS, headers


def test_the_dial_goes_from_nothing_to_everything_and_then_breaks():
    for points in DIALS.values():
        assert points[0].reach == points[0].breaking == 0
        order = [(point.breaking, point.reach) for point in points]
        assert order == sorted(order)
        assert points[-1].breaking == 1
    assert {point.reach for point in DIALS["rotation"]} == {0, 45, 90, 180}


@pytest.mark.parametrize("kind", DIALS)
def test_no_two_columns_share_a_name_or_a_header(kind):
    found = headers(kind)
    assert len(found) == len(set(found.values())) == len(DIALS[kind]) * (2 if kind == "translation" else 1)


def test_columns_of_two_data_sets_say_which():
    assert headers("translation")["mnist-5000-shifted-all"] == "MNIST, shifted, p = 1"
