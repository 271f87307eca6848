"""Vocabularies fitted out of core: the same bytes as from one table in memory, however little memory there is."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from home_dist.ids.keys import as_keys
from home_dist.ids.vocabulary import counted, merged, most_frequent
from home_dist.prepare import fitted_keys
from home_dist.prepare.fit.draft import DraftVocabulary
from home_dist.prepare.fit.vocabularies import write_vocabulary
from home_dist.prepare.fitted_keys import SpilledCounts
from home_dist.prepare.generic.log_sections import IdSection
from home_dist.prepare.generic.vocabularies import KeyCounts, fit_vocabulary, grow_vocabulary, write_rare
from home_dist.prepare.key_parts import SortedRuns

ROW_GROUP = 200
KINDS = {"text": pa.string(), "integer": pa.int64(), "unsigned": pa.uint64()}


# What prepare did before it fitted out of core: all in one table.


def written(kept: pa.Table, path: Path) -> None:
    kept = kept.set_column(1, "row", kept.column("row").cast(pa.int32()))
    pq.write_table(kept, path, compression="zstd", compression_level=19, store_schema=False, row_group_size=ROW_GROUP)


def fitted_in_memory(section, counts, unsigned, out):
    written(most_frequent(counts, section.min_count, max_rows=section.rows, unsigned=unsigned), out)


def grown_in_memory(section, before, rare, counts, kind, unsigned, out):
    table = pq.read_table(before)
    known = as_keys(table.column("value").combine_chunks(), kind)
    sums = merged([counts, *([] if rare is None else [pq.read_table(rare, columns=["value", "count"])])], kind)
    sums = sums.filter(pc.invert(pc.is_in(sums.column("value"), value_set=known.cast(sums.schema.field("value").type))))
    frequent = len(most_frequent(sums, section.min_count))
    room = frequent if section.rows is None else max(0, section.rows - 1 - len(table))
    first = 1 + len(table)
    new = most_frequent(sums, section.min_count, first, first + min(room, section.most_new or room), unsigned)
    parts = [table.select(["value", "row", "count"]), new] if len(new) else [table]
    if any(pa.types.is_uint64(part.schema.field("value").type) for part in parts):
        views = [[c if pa.types.is_uint64(c.type) else c.view(pa.uint64()) for c in p.column("value").chunks] for p in parts]
        parts = [p.set_column(0, "value", pa.chunked_array(v, pa.uint64())) for p, v in zip(parts, views, strict=True)]
    if len(new):
        whole = pa.concat_tables([p.set_column(1, "row", p.column("row").cast(pa.int64())) for p in parts])
        written(whole, out)
    else:
        out.write_bytes(before.read_bytes())
    return len(new), frequent - len(new) if room < frequent else 0


def rare_in_memory(vocabulary, counts, day, rare, kind, forget_days, out):
    seen = counts.append_column("day", pa.array(np.full(len(counts), day)))
    every = pa.concat_tables([seen] if rare is None else [pq.read_table(rare), seen]).group_by("value")
    every = every.aggregate([("count", "sum"), ("day", "max")])
    every = every.rename_columns({"count_sum": "count", "day_max": "day"}).select(["value", "count", "day"])
    keys = as_keys(pq.read_table(vocabulary, columns=["value"]).column("value").combine_chunks(), kind)
    kept = pc.invert(pc.is_in(every.column("value"), value_set=keys.cast(every.schema.field("value").type)))
    if forget_days is not None:
        kept = pc.and_(kept, pc.greater_equal(every.column("day"), day - forget_days))
    pq.write_table(every.filter(kept).sort_by("value"), out, compression="zstd", row_group_size=ROW_GROUP)


def keys(kind: str, rows: int, seed: int) -> pa.Array:
    rng = np.random.default_rng(seed)
    numbers = (rng.zipf(1.3, rows) % 3000).astype(np.uint64)
    if kind == "text":
        return pa.array([["", "é"][n] if n < 2 else f"key {n * 7919 % 1000} {n}" for n in numbers.tolist()])
    if kind == "integer":
        return pa.array(numbers.astype(np.int64) - 1000)
    return pa.array(numbers * np.uint64(2**53 + 1) * np.uint64(7))  # many of them from 2^63 on


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(fitted_keys, "ROW_GROUP", ROW_GROUP)


@pytest.mark.parametrize("memory", [1 << 30, 1 << 17])
@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_preparations_writes_the_same_bytes(kind, memory, small_groups, tmp_path):
    """memory: so much that all is one part, or so little that there are many parts and ranges."""
    key_type, unsigned = ("text", False) if kind == "text" else ("integer", kind == "unsigned")
    if memory < 1 << 20:
        assert fitted_keys.parts_for(4000, memory) > 1
    sections = [IdSection(column="c", **more) for more in ({}, {"rows": 4000}, {"most_new": 30}, {"rows": 10})]
    for number, section in enumerate(sections[:2]):
        before = {"now": None, "then": None}
        for day in range(3):
            files = []
            for part in range(3):
                files.append(tmp_path / f"{number}-{day}-{part}.parquet")
                pq.write_table(counted(keys(kind, 1500, 9 * day + part)), files[-1])
            counts = merged([pq.read_table(f) for f in files], key_type)
            now, then = ({n: tmp_path / f"{w}{number}{day}{n}.parquet" for n in ("v", "r")} for w in ("now", "then"))
            section = sections[number + 2] if day == 2 and number == 0 else section
            earlier = before["now"] or {"v": None, "r": None}
            there = [path for path in earlier.values() if path is not None]
            of = KeyCounts.of(files, key_type, unsigned, there, tmp_path / "fit", memory).with_rare(earlier["r"])
            if day == 0:
                fit_vocabulary(section, of, now["v"])
                fitted_in_memory(section, counts, unsigned, then["v"])
                assert len(pq.read_table(now["v"])) > ROW_GROUP / 2
            else:
                outcome = grow_vocabulary(section, earlier["v"], of, now["v"])
                told = grown_in_memory(section, before["then"]["v"], before["then"]["r"], counts, key_type, unsigned, then["v"])
                assert (outcome.new, outcome.without_room) == told
                assert outcome.new > 0
            forget = 1.0 if day == 2 else None
            write_rare(now["v"], of, 100 + day, forget, now["r"])
            rare_in_memory(then["v"], counts, 100 + day, (before["then"] or {"r": None})["r"], key_type, forget, then["r"])
            for name in ("v", "r"):
                assert pq.read_table(now[name]).equals(pq.read_table(then[name])), (day, name)
                assert now[name].read_bytes() == then[name].read_bytes(), (day, name)
            before = {"now": now, "then": then}


def test_a_vocabulary_without_room_for_new_keys_stays(tmp_path):
    pq.write_table(counted(keys("text", 900, 0)), tmp_path / "c.parquet")
    section = IdSection(column="c", rows=10)
    of = KeyCounts.of([tmp_path / "c.parquet"], "text", False, [], tmp_path / "fit", 1 << 20)
    fit_vocabulary(section, of, tmp_path / "v.parquet")
    assert pq.read_metadata(tmp_path / "v.parquet").num_rows == 9
    pq.write_table(counted(keys("text", 900, 1)), tmp_path / "c.parquet")
    of = KeyCounts.of([tmp_path / "c.parquet"], "text", False, [tmp_path / "v.parquet"], tmp_path / "fit", 1 << 20)
    outcome = grow_vocabulary(section, tmp_path / "v.parquet", of, tmp_path / "w.parquet")
    assert outcome.new == 0
    assert outcome.without_room > 0
    assert (tmp_path / "w.parquet").read_bytes() == (tmp_path / "v.parquet").read_bytes()


@pytest.mark.parametrize("memory", [1 << 30, 1 << 16])
@pytest.mark.parametrize("kind", KINDS)
def test_prepare_fit_writes_the_same_bytes(kind, memory, small_groups, tmp_path, monkeypatch):
    monkeypatch.setattr(fitted_keys, "_PARTS", 7)
    key_type = "text" if kind == "text" else "integer"
    counts, parts = SpilledCounts(key_type, tmp_path / "spilled", memory), []
    for seed in range(6):
        batch = keys(kind, 800, seed)
        counts.add(batch)
        parts.append(counted(batch))
    draft = DraftVocabulary(type=key_type, unknown_rows=3, max_rows=260)
    values, number = write_vocabulary(counts, draft, tmp_path, "t", memory)
    assert (tmp_path / "spilled" / "counts").exists() == (memory < 1 << 20)
    kept = most_frequent(merged(parts, key_type), 2, 4, 260, kind == "unsigned")
    options = {"compression": "zstd", "store_schema": False, "write_page_checksum": True, "row_group_size": ROW_GROUP}
    pq.write_table(kept, tmp_path / "expected.parquet", **options)
    assert number == len(kept) > ROW_GROUP
    assert (tmp_path / values.file).read_bytes() == (tmp_path / "expected.parquet").read_bytes()


@given(st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(1, 3)), max_size=30), max_size=5), st.integers(1, 40))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_are_sorted_as_one_table(tmp_path_factory, runs, rows):
    """Texts of any characters: their order is that of their bytes."""
    distinct: dict[str, int] = {}
    tables = []
    for run in runs:
        new = {text: count for text, count in run if text not in distinct}
        distinct |= new
        tables.append(pa.table({"value": pa.array(list(new), pa.string()), "count": pa.array(list(new.values()), pa.int64())}))
    order = [("count", "descending"), ("value", "ascending")]
    sorted_runs = SortedRuns(tmp_path_factory.mktemp("runs") / "r", order, rows)
    for table in tables:
        sorted_runs.add(table)
    found = [row for table in sorted_runs.tables() for row in table.to_pylist()]
    assert [(r["value"], r["count"]) for r in found] == sorted(distinct.items(), key=lambda x: (-x[1], x[0].encode()))


@pytest.mark.parametrize(("runs", "size"), [(900, 5), (60, 1500), (1, 30_000)])
@pytest.mark.parametrize("alike", [True, False])
def test_about_so_many_rows_are_read_at_a_time(alike, runs, size, tmp_path):
    """Of many short runs, and of runs of which each covers all values or a range of them."""
    rows, order = 640, [("count", "descending"), ("value", "ascending")]
    sorted_runs = SortedRuns(tmp_path / "r", order, rows)
    for run in range(runs):
        values = np.arange(size) * runs + run if alike else np.arange(size) + run * size
        sorted_runs.add(pa.table({"value": values, "count": np.ones(size, np.int64)}))
    sizes = [len(table) for table in sorted_runs.tables()]
    assert sum(sizes) == runs * size
    assert max(sizes) < 1.3 * rows


def test_a_vocabulary_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    counts = SpilledCounts("text", tmp_path / "spilled", 1 << 30)
    counts.add(pa.array(["a", "a"]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_vocabulary(counts, DraftVocabulary(type="text"), tmp_path, "t", 1 << 30)
    assert list((tmp_path / "vocabularies").iterdir()) == []
