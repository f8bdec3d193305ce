import torch

from softeq.experiments.audit.configuration import hash_tensors, held
from softeq.experiments.engine import record


def test_the_hash_follows_names_shapes_types_and_values():
    base = hash_tensors({"a": torch.zeros(2, 3)})
    others = [{"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3).long()}, {"a": 0}]
    others += [{"a": torch.zeros(2, 3) + torch.eye(2, 3)}]
    assert base == hash_tensors({"a": torch.zeros(3, 2).T})
    assert len({base, *map(hash_tensors, others)}) == 6
    assert len(base) == 16


def one(layerwise=0, experiment="audit", **config):
    full = {"model": "cnn", "flow": "rotation", "layerwise": layerwise, **config}
    return record.make(experiment, "audit", "cnn/rotation", 0, config=full, metrics={}, provenance={})


def test_the_last_record_with_the_configuration_answers():
    records = [one(), one(), one(seed=1)]
    assert held(records, one()["config"]) is records[1]
    assert held(records, one(seed=2)["config"]) is None
    assert held([one(experiment="other")], one()["config"]) is None


def test_more_images_layer_by_layer_serve_one_who_asks_for_fewer_and_not_the_other_way():
    assert held([one(8)], one(0)["config"]) is not None
    assert held([one(8)], one(8)["config"]) is not None
    assert held([one(4)], one(8)["config"]) is None
