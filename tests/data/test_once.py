"""Inputs that a request's rows share: read once per request, they are those of the plain layout."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from home_dist.config import load_config
from home_dist.data import Batch, Reader, chunked, open_files
from home_dist.data.bad_rows import BadRowLog
from home_dist.data.request_scan import find_requests
from home_dist.errors import ConfigError, DataError
from home_dist.schema import build_layout
from home_dist.schema.once import once_per_request
from tests.data.numbered import numbers
from tests.data.with_shared import ONCE, make_shared, write_shared
from tests.factory import make_config, make_schema


def reader_of(folder: Path, once: tuple[str, ...], together: bool, **changes: object) -> Reader:
    """together: requests are kept together, as in training; else rows come in the files' order, as in evaluations."""
    schema = make_schema()
    layout = once_per_request(build_layout(schema, load_config(make_config(folder, folder))), once)
    files = open_files(folder / "train", schema, layout, ("request_id",))
    options = {"batch_size": 12, "window_rows": 40, "lanes": 4, **changes}
    if together:
        options |= {"seed": 3, "requests": find_requests(files)}
    else:
        options |= {"lanes": 1}
    return Reader(files, schema, layout, **options)


def per_sample(ids: KeyedJaggedTensor, batch: Batch, shared: set[str]) -> dict[str, list[list[float]]]:
    """By key, the list of each sample; of a shared input that of the first sample of its request."""
    holder = torch.arange(batch.size)
    if len(batch.firsts):
        sizes = torch.diff(batch.firsts, append=torch.tensor([batch.size]))
        holder = batch.firsts.repeat_interleave(sizes)
    found = {}
    for key, jagged in ids.to_dict().items():
        values = jagged.weights_or_none() if jagged.weights_or_none() is not None else jagged.values()
        lists = [x.tolist() for x in values.split(jagged.lengths().tolist())]
        if key.split("/")[0] in shared and len(batch.firsts):
            assert all(not x for n, x in enumerate(lists) if n != holder[n])
            lists = [lists[n] for n in holder.tolist()]
        found[key] = lists
    return found


def same(plain: Batch, shared: Batch, once: tuple[str, ...]) -> None:
    """That two batches hold the same samples."""
    for field in fields(Batch):
        one, other = getattr(plain, field.name), getattr(shared, field.name)
        if isinstance(one, KeyedJaggedTensor):
            assert per_sample(one, plain, set(once)) == per_sample(other, shared, set(once))
        elif field.name == "firsts":
            assert not len(one)
            ends = [*other.tolist()[1:], shared.size]
            for first, end in zip(other.tolist(), ends, strict=True):
                assert len(set(shared.requests[first:end].tolist())) == 1
        elif isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        else:
            assert one == other


@pytest.mark.parametrize("together", [True, False])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    group=st.sampled_from([1, 7, 50]),
    once=st.sets(st.sampled_from(ONCE), min_size=1),
    world=st.sampled_from([1, 2]),
    compiled=st.booleans(),
)
def test_batches_hold_the_samples_of_the_plain_layout(tmp_path_factory, together, sizes, group, once, world, compiled):
    folder, names = tmp_path_factory.mktemp("once"), tuple(sorted(once))
    write_shared(folder / "train", sizes, group)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(chunked, "native", lambda: None)
        for rank in range(world):
            readers = [reader_of(folder, n, together, world_size=world, rank=rank) for n in ((), names)]
            batches = [list(r.epoch(0)) for r in readers]
            assert len(batches[0]) == len(batches[1]) > 0
            for plain, shared in zip(*batches, strict=True):
                same(plain, shared, names)
            if together and world == 1:
                requests = sum(len(b.firsts) - int(b.mask[-1] == 0) for b in batches[1])
                assert requests == len(sizes)  # once each


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=st.lists(st.integers(1, 12), min_size=8, max_size=30), stop=st.integers(0, 3), world=st.sampled_from([1, 2]))
def test_a_position_is_one_of_the_plain_layout(tmp_path_factory, sizes, stop, world):
    """A run may be resumed with or without the setting."""
    folder = tmp_path_factory.mktemp("position")
    write_shared(folder / "train", sizes, 20)
    plain = reader_of(folder, (), True)
    whole = list(plain.epoch(0))
    stop = min(stop, len(whole) - 1)
    resumed = reader_of(folder, ONCE, True)
    resumed.resume(plain.position(0, stop))
    left = list(resumed.epoch(0))
    assert len(left) == len(whole) - stop
    for one, other in zip(whole[stop:], left, strict=True):
        same(one, other, ONCE)


def changed(folder: Path, column: str, row: int) -> None:
    """Writes rows of requests of 3, 4 and 2 rows into row groups of 5, and gives a row another value."""
    table = make_shared([3, 4, 2])
    values = table.column(column).to_pylist()
    values[row] = [3] * (len(values[row]) + 1) if isinstance(values[row], list) else (values[row] + 1) % 4
    kind = table.schema.field(column).type
    table = table.set_column(table.schema.get_field_index(column), column, pa.array(values, kind))
    (folder / "train").mkdir()
    pq.write_table(table, folder / "train" / "part-0.parquet", row_group_size=5)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("column", ["user", "tab", "tags", "levels"])
def test_a_row_that_differs_from_its_request_is_refused(tmp_path, monkeypatch, column, compiled):
    if not compiled:
        monkeypatch.setattr(chunked, "native", lambda: None)
    changed(tmp_path, column, 6)
    assert sum(int(b.mask.sum()) for b in reader_of(tmp_path, (), True).epoch(0)) == 9
    where = (
        rf"part-0.parquet: column '{column}': differs from the first row of its request.*first in row 1 of its row group; 1 in"
    )
    with pytest.raises(DataError, match=where):
        list(reader_of(tmp_path, ONCE, True).epoch(0))
    others = tuple(n for n in ONCE if n != column)
    assert len(list(reader_of(tmp_path, others, True).epoch(0))) == 1


def test_a_row_that_differs_is_left_out_with_skip(tmp_path):
    changed(tmp_path, "tags", 6)
    log = BadRowLog(None)
    [batch] = reader_of(tmp_path, ONCE, True, bad_rows=log).epoch(0)
    assert sorted(numbers(batch)) == [0, 1, 2, 3, 4, 5, 7, 8]
    changed_first = tmp_path / "first"
    changed_first.mkdir()
    changed(changed_first, "tags", 3)  # the first row of its request: the rows after it differ from it
    [batch] = reader_of(changed_first, ONCE, True, bad_rows=BadRowLog(None)).epoch(0)
    assert sorted(numbers(batch)) == [0, 1, 2, 3, 7, 8]


def test_rows_without_a_key_are_requests_of_their_own(tmp_path):
    table = make_shared([4, 3])
    keys = pa.array([None, None, 0, 0, None, 1, 1])
    table = table.set_column(table.schema.get_field_index("request_id"), "request_id", keys)
    users = np.array([1, 2, 3, 3, 4, 5, 5], np.int32)
    table = table.set_column(table.schema.get_field_index("user"), "user", [users])
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "part-0.parquet")
    for together in (True, False):
        [plain], [shared] = (list(reader_of(tmp_path, once, together).epoch(0)) for once in ((), ("user",)))
        same(plain, shared, ("user",))
        assert len(shared.firsts) == 5 + 1


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("usr",), "'usr' is no feature of ids or history of this run; there are: user, tab, tags, levels, watched"),
        (("video",), "'video' is the target of sequence 'watched'"),
        (("age",), "'age' holds numbers"),
        (("rate",), "'rate' holds numbers"),
    ],
)
def test_names_are_checked(tmp_path, names, problem):
    layout = build_layout(make_schema(), load_config(make_config(tmp_path, tmp_path)))
    with pytest.raises(ConfigError, match=problem):
        once_per_request(layout, names)


def test_it_needs_requests(tmp_path):
    with pytest.raises(ConfigError, match="once_per_request: name the column of requests"):
        load_config(make_config(tmp_path, tmp_path), ["data.once_per_request=['user']"])
