"""What makes a statistic or a dense feature another one: boundaries, mean, deviation; said in words."""

import pytest

from home_dist.config import RunConfig
from home_dist.schema import DenseFeature, Schema, StatisticFeature, build_layout
from home_dist.training.matching_features import changed_features, difference


def statistic(**values) -> StatisticFeature:
    return StatisticFeature(**({"name": "s", "column": "s", "boundaries": (0.0, 1.0), "mean": 3.2, "std": 2.0} | values))


def dense(**values) -> DenseFeature:
    return DenseFeature(**({"name": "d", "column": "d", "width": 3, "mean": (1.0, 2.0, 3.0), "std": 1.0} | values))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (statistic(), statistic(), ""),
        (statistic(), statistic(column="other"), ""),
        (statistic(), statistic(boundaries=(0.0, 2.0)), "its boundaries are others"),
        (statistic(), statistic(mean=3.4), "its mean was 3.2 and is 3.4"),
        (statistic(), statistic(std=2.5, mean=3.4), "its mean was 3.2 and is 3.4, its std was 2 and is 2.5"),
        (statistic(), statistic(boundaries=(), std=3.0), "its boundaries are others, its std was 2 and is 3"),
        (statistic(), statistic(mean=3.2000000001), "its mean was 3.2 and is 3.2000000001"),
        (dense(), dense(std=(1.0, 1.0, 1.0)), ""),
        (dense(), dense(mean=(1.0, 2.5, 3.0)), "its mean was 2 and is 2.5 at place 1"),
        (dense(), dense(mean=0.0), "its mean was 1 and is 0 at place 0, 2 more places differ"),
        (dense(mean=0.0), dense(mean=0.0, width=4), "its width was 3 and is 4"),
    ],
)
def test_differences_in_words(old, new, text):
    assert difference(old, new, True) == text


def test_mean_and_deviation_do_not_matter_where_buckets_alone_are_read():
    assert difference(statistic(), statistic(mean=0.0), False) == ""
    assert difference(statistic(), statistic(boundaries=()), False) == "its boundaries are others"

    def layout(mean: float, dense_statistics: bool):
        config = {"run": {"dir": "x"}, "data": {"path": "y"}, "embedding": {"dense_statistics": dense_statistics}}
        features = [statistic(mean=mean).model_dump(), dense(mean=mean).model_dump()]
        schema = Schema.model_validate({"feature": features, "task": [{"name": "like", "group": "g", "column": "like"}]})
        return build_layout(schema, RunConfig.model_validate(config))

    of_dense = "its mean was 1 and is 2 at place 0, 2 more places differ"
    assert changed_features(layout(1, True), layout(2, True)) == {"s": "its mean was 1 and is 2", "d": of_dense}
    for there, here in ((False, False), (True, False), (False, True)):
        assert changed_features(layout(1, there), layout(2, here)) == {"d": of_dense}
