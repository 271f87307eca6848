"""Requests are found by the keys of their rows, and refused if these do not follow each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from home_dist.config import load_config
from home_dist.data import Reader, open_files
from home_dist.data.request_keys import joined_keys, key_hashes
from home_dist.data.request_scan import find_requests
from home_dist.errors import DataError
from home_dist.files.stores import Store
from tests.data.numbered import numbers
from tests.data.with_requests import GROUPS, SIZES, Prepared
from tests.factory import make_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("requests"), SIZES, GROUPS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            [7, 7, 8, 9, 7, 1, 1, 2],
            r"request_id = 7 .* row 0 of row group 0 of .*part-0.parquet and again at row 1 of row group 1",
        ),
        (
            [5, 7, 8, 9, 9, 4, 7, 2],
            r"request_id = 7 .* row 1 of row group 0 of .*part-0.parquet and again at row 0 of row .*1.parq",
        ),
        (
            [5, 7, 8, 9, 9, 4, 4, 2],
            r"request_id = 4 .* row 2 of row group 1 of .*part-0.parquet and again at row 0 of row .*1.parq",
        ),
        (
            list("abcdebfg"),
            r"request_id = 'b' .* row 1 of row group 0 of .* and again at row 2 of row group 1 of .*0.parquet",
        ),
    ],
)
def test_a_request_whose_rows_are_apart_is_refused(tmp_path, keys, message):
    """Row groups of 3 rows in files of 6 and 2 rows."""
    with pytest.raises(DataError, match=message):
        Prepared(tmp_path, [[1] * 6, [1] * 2], [3, 3], column=lambda _: pa.array(keys))


def test_rows_without_a_key_are_requests_of_their_own(tmp_path):
    keys = [None, None, 1, 1, None, 2, 2, None, None, -1]
    made = Prepared(tmp_path, [[1] * 10], [2], column=lambda _: pa.array(keys, pa.int64()))
    assert made.requests.sizes.tolist() == [1, 1, 2, 1, 2, 1, 1, 1]
    for reader in (made.reader(batch_size=4), made.reader(batch_size=4, requests=None, seed=None)):
        found = {}
        for batch in reader.epoch(0):
            found |= zip(numbers(batch), batch.requests[batch.mask.bool()].tolist(), strict=True)
        assert found[2] == found[3]
        assert found[5] == found[6]
        assert len(set(found.values())) == 8
        assert -1 not in found.values()


def test_columns_of_a_key_do_not_stand_for_each_other():
    columns = [key_hashes(pa.array(values))[0] for values in ([1, 2, 1, 2, 3], [2, 1, 1, 2, 3])]
    assert len(set(joined_keys(columns).tolist())) == 5


def test_no_key_is_that_of_padding():
    assert joined_keys([np.array([2**64 - 1, 2**64 - 2, 5], np.uint64)]).tolist() == [-2, -2, 5]


@pytest.mark.parametrize(
    "column",
    [
        lambda r: pa.array([f"request {n}" for n in r]),
        lambda r: pa.array([f"request {n}" for n in r]).dictionary_encode(),
        lambda r: pa.array(r).cast(pa.uint64()),
        lambda r: pa.array(r).cast(pa.float64()),
    ],
    ids=["text", "dictionary", "unsigned", "float"],
)
def test_keys_of_any_type(tmp_path, column):
    made = Prepared(tmp_path, SIZES, GROUPS, column=column)
    assert made.requests.sizes.tolist() == made.sizes
    assert sorted(made.check(list(made.reader().epoch(0)))) == list(range(made.rows))


def test_several_columns_and_folders_of_partitions_name_a_request(prepared, tmp_path):
    """The same session of two users is two requests, and so is one of two days."""
    table = pq.read_table(prepared.files.paths[0]).slice(0, 8).drop_columns("request_id")
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        made = table.append_column("session", pa.array([1, 1, 1, 2, 2, 1, 1, 3]))
        made = made.append_column("who", pa.array(list("aabbbccc")))
        pq.write_table(made, tmp_path / f"day={day}" / "part.parquet", row_group_size=4)
    files = open_files(tmp_path, prepared.schema, prepared.layout, ("day", "who", "session"))
    requests = find_requests(files)
    assert requests.sizes.tolist() == [2, 1, 2, 2, 1] * 2
    reader = Reader(files, prepared.schema, prepared.layout, batch_size=6, seed=1, requests=requests)
    assert len({int(k) for b in reader.epoch(0) for k in b.requests[b.mask.bool()]}) == 10


def test_files_of_a_store_are_scanned_and_read_through_it(prepared):
    """The local file system under the name of a far one: files are opened as those of an object store are."""
    files = replace(prepared.files, store=Store(fs.LocalFileSystem(), "far://"))
    found = find_requests(files)
    assert found.place(0)[0].startswith("far:///")
    reader = Reader(files, prepared.schema, prepared.layout, batch_size=24, seed=3, requests=found)
    assert sorted(prepared.check(list(reader.epoch(0)))) == list(range(prepared.rows))


@pytest.mark.parametrize(
    ("given", "columns"), [("request_id", ("request_id",)), ('["who", "day"]', ("who", "day")), ("''", ()), ("[]", ())]
)
def test_the_key_of_the_configuration_is_a_column_or_a_list(tmp_path, given, columns):
    assert load_config(make_config(tmp_path, tmp_path), [f"data.request={given}"]).data.request_columns == columns
    assert load_config(make_config(tmp_path, tmp_path)).data.request_columns == ()


def test_a_missing_column_is_named(prepared):
    with pytest.raises(DataError, match=r"column 'session' is missing; the run's data.request needs it"):
        open_files(Path(prepared.files.paths[0]).parent, prepared.schema, prepared.layout, ("session",))


def test_huge_row_groups_are_scanned_in_pieces(prepared, monkeypatch):
    from home_dist.data import scanning

    monkeypatch.setattr(scanning, "_MOST_ROWS", 5)
    found = find_requests(prepared.files, threads=3)
    for name in ("sizes", "firsts", "heads"):
        assert (getattr(found, name) == getattr(prepared.requests, name)).all()
