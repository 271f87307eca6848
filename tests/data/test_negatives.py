"""A share of the rows without a positive label: the same ones on any number of ranks, weighed for those left out."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.config import RunConfig, load_config
from home_dist.config.data import NegativesSection
from home_dist.data.bad_rows import BadRowLog
from home_dist.data.files import open_files
from home_dist.data.inputs import open_inputs
from home_dist.data.negatives import find_kept
from home_dist.data.reader import Reader
from home_dist.errors import ConfigError
from home_dist.schema import Schema, build_layout, load_schema
from tests.factory import make_config, make_data

ROWS = 3000


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("negatives") / "data", rows=ROWS, files=3, row_group=170)


def readers(data, keep: float, tasks: tuple[str, ...], world: int, correct: str = "weight", seed: int = 0, **options: int):
    config = load_config(make_config(data.parent, data))
    schema = load_schema(data / "schema.toml")
    layout = build_layout(schema, config)
    files = open_files(data / "train", schema, layout)
    section = NegativesSection(keep=keep, tasks=tasks, correct=correct)
    kept = find_kept(files, keep, [t for t in schema.task if t.name in tasks], seed)
    given_options = {"batch_size": 64, "seed": 1, "lanes": 4, "window_rows": 200, **options}
    return schema, [
        Reader(files, schema, layout, rank=r, world_size=world, kept=kept, negatives=section, **given_options)
        for r in range(world)
    ]


def read(readers: list[Reader], epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """labels and weights of all rows, in an order of their own."""
    rows = [(b.labels[b.mask.bool()].numpy(), b.weights[b.mask.bool()].numpy()) for r in readers for b in r.epoch(epoch)]
    labels, weights = (np.concatenate(part) for part in zip(*rows, strict=True))
    order = np.lexsort(np.hstack([labels, weights]).T)
    return labels[order], weights[order]


def stored(data, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    table = pa.concat_tables([pq.read_table(p) for p in sorted((data / "train").glob("*.parquet"))])
    labels = np.stack([table[t.column].to_numpy() for t in schema.task], 1).astype(float)
    weights = np.stack(
        [np.ones(ROWS) if t.weight_column is None else table[t.weight_column].to_numpy() for t in schema.task], 1
    )
    return labels, weights


@given(
    keep=st.sampled_from([0.1, 0.5, 1.0]),
    tasks=st.sampled_from([("like",), ("like", "follow"), ("watch",)]),
    world=st.integers(1, 3),
    memory=st.sampled_from([1024.0, 0.05]),
)
@settings(max_examples=12, deadline=None)
def test_positives_are_all_kept_and_negatives_stand_for_others(data, keep, tasks, world, memory):
    schema, ranks = readers(data, keep, tasks, world, memory_mb=memory)
    labels, weights = read(ranks)
    all_labels, all_weights = stored(data, schema)
    columns = [k for k, t in enumerate(schema.task) if t.name in tasks]
    happened = ((labels[:, columns] == 1) & (weights[:, columns] != 0)).any(1)
    all_happened = ((all_labels[:, columns] == 1) & (all_weights[:, columns] != 0)).any(1)
    assert happened.sum() == all_happened.sum()
    negatives = (~all_happened).sum()
    assert abs((~happened).sum() - keep * negatives) <= 4 * np.sqrt(negatives * keep * (1 - keep))
    np.testing.assert_allclose(weights[happened], 1 * (weights[happened] > 0))
    np.testing.assert_allclose(weights[~happened], (1 / keep) * (weights[~happened] > 0), rtol=1e-6)
    again = read(readers(data, keep, tasks, 1)[1], epoch=3)  # another epoch, one rank, whole row groups
    assert all(np.array_equal(a, b) for a, b in zip((labels, weights), again, strict=True))
    assert len({r.steps(0) for r in ranks}) == 1
    assert ranks[0].steps(0) == -(-len(labels) // (64 * world))


def test_another_seed_keeps_other_negatives(data):
    one, two = (read(readers(data, 0.3, ("like",), 1, seed=seed)[1])[0] for seed in (0, 1))
    assert len(one) != len(two) or not np.array_equal(one, two)


def test_the_task_whose_logit_is_corrected_keeps_its_weights(data):
    schema, ranks = readers(data, 0.25, ("like",), 1, "logit")
    labels, weights = read(ranks)
    like = next(k for k, t in enumerate(schema.task) if t.name == "like")
    follow = next(k for k, t in enumerate(schema.task) if t.name == "follow")
    assert (weights[:, like] == 1).all()
    np.testing.assert_array_equal(weights[:, follow], np.where(labels[:, like] == 1, 1, 4))


def test_a_resumed_epoch_reads_the_rest(data):
    _, [whole] = readers(data, 0.2, ("like",), 1)
    batches = list(whole.epoch(0))
    _, [first] = readers(data, 0.2, ("like",), 1)
    _, [second] = readers(data, 0.2, ("like",), 1)
    second.resume(first.position(0, 3))
    rest = list(second.epoch(0))
    assert len(rest) == len(batches) - 3
    for a, b in zip(batches[3:], rest, strict=True):
        assert (a.labels == b.labels).all()
        assert (a.weights == b.weights).all()
    _, [other] = readers(data, 0.5, ("like",), 1)
    with pytest.raises(Exception, match="files changed"):
        other.resume(first.position(0, 3))


@pytest.mark.parametrize(
    ("section", "more", "message"),
    [
        ("{keep=0.1, tasks=['like', 'watch'], correct='logit'}", [], "exact for one task alone"),
        ("{keep=0.1, tasks=['like']}", ["data.sample={'*'=0.5}"], "does not go with data.sample"),
        ("{keep=0.1, tasks=['like']}", ["data.request='user'"], "does not go with data.request"),
        ("{keep=0.0, tasks=['like']}", [], "data.negatives.keep"),
    ],
)
def test_settings_that_do_not_go_together(section, more, message, data):
    with pytest.raises(ConfigError, match=message):
        load_config(make_config(data.parent, data), [f"data.negatives={section}", *more])


def test_tasks_that_have_no_negatives(data):
    for section, message in (("{keep=0.1, tasks=['loke']}", "no such task"), ("{keep=0.1, tasks=['like']}", "kind regression")):
        config: RunConfig = load_config(
            make_config(data.parent, data), [f"data.negatives={section}", "objective.like={kind='regression'}"]
        )
        with pytest.raises(ConfigError, match=message):
            open_inputs(config, load_schema(data / "schema.toml"))


def test_rows_that_are_skipped_do_not_stop_the_scan(data, tmp_path):
    bad = tmp_path / "data"
    shutil.copytree(data, bad)
    path = next(iter(sorted((bad / "train").glob("*.parquet"))))
    table = pq.read_table(path)
    weights = table["watch_weight"].to_pylist()
    weights[3] = None
    place = table.schema.get_field_index("watch_weight")
    pq.write_table(table.set_column(place, "watch_weight", pa.array(weights, pa.float32())), path, row_group_size=170)
    _, [reader] = readers(bad, 0.5, ("watch",), 1, bad_rows=BadRowLog())
    labels, _ = read([reader])
    assert len(labels) > 1000
    assert sum(reader.bad_rows.counts.values()) <= 1
