import json

import pytest

from softeq.errors import SofteqError
from softeq.experiments.engine import registry
from softeq.experiments.training import chosen
from softeq.experiments.training.arms import ARMS


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty file of choices in the place of the package's own."""
    own = tmp_path / "chosen.json"
    monkeypatch.setattr(chosen, "CHOSEN", own)
    return own


def entry(lr):
    return {"lr": lr, "prior": {"residual": 2.0}, "ending": "interior"}


def test_a_choice_comes_back_without_how_it_was_found(path):
    assert chosen.chosen_trial("toy", "smoke", "soft") is None
    chosen.write_chosen(path, "toy", "smoke", {"soft": entry(0.1)})
    assert chosen.chosen_trial("toy", "smoke", "soft") == {"lr": 0.1, "prior": {"residual": 2.0}}
    for other in (("toy", "smoke", "hard"), ("toy", "default", "soft"), ("other", "smoke", "soft")):
        assert chosen.chosen_trial(*other) is None


def test_a_new_choice_counts_at_once_and_others_stay(path):
    for arms, lr in ((("soft", "hard"), 0.1), (("soft",), 0.2)):
        chosen.write_chosen(path, "toy", "smoke", {arm: entry(lr) for arm in arms})
        assert chosen.chosen_trial("toy", "smoke", "soft")["lr"] == lr
    chosen.write_chosen(path, "toy", "default", {"soft": entry(0.3)})
    assert [chosen.chosen_trial("toy", *where)["lr"] for where in (("smoke", "hard"), ("smoke", "soft"))] == [0.1, 0.2]
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_file_is_named(path):
    path.write_text("{")
    with pytest.raises(SofteqError, match=r"chosen\.json is no JSON"):
        chosen.chosen_trial("toy", "smoke", "soft")


def test_what_is_chosen_is_of_comparisons_presets_and_arms_that_there_are():
    comparisons = registry.comparisons()
    for name, presets in json.loads(chosen.CHOSEN.read_text()).items():
        assert set(presets) <= set(comparisons[name].sizes)
        for arms in presets.values():
            assert set(arms) <= set(ARMS)
            assert all(entry["lr"] > 0 and "prior" in entry for entry in arms.values())
