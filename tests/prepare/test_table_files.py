"""Delta and Iceberg tables, written by their own libraries, give the data of the same rows in Parquet."""

import json
import shutil
import struct
import sys
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.formats.table_files import table_files
from home_dist.prepare.generic.log_days import log_days
from tests.prepare.test_formats import files, written
from tests.prepare.test_going_on import DESCRIPTION, FIRST_DAY, describe, make_days, prepare

deltalake = pytest.importorskip("deltalake")
pytest.importorskip("pyiceberg")
BitMap = pytest.importorskip("pyroaring").BitMap
DAYS = 4
DELTA = 'format = { kind = "delta" }\n'
ICEBERG = 'format = { kind = "iceberg" }\n'


def days_of(folder, rows=200):
    make_days(folder, DAYS, rows=rows)
    tables = [pq.read_table(path) for path in files(folder)]
    shutil.rmtree(folder / "log")
    return tables


def described(folder, section, log="table"):
    return describe(folder, DAYS - 2, section, DESCRIPTION.replace('"log/*"', f'"{log}"'))


def expected(folder, tables, live):
    """What the table's live files give as a log in Parquet, partition columns included. These hold the rows of `tables`: their
    writers may change the order of rows."""
    (folder / "log").mkdir()
    found = []
    for number, path in enumerate(sorted(live)):
        table = pq.read_table(path, partitioning=None)
        for part in path.split("/"):
            name, is_partition, value = part.partition("=")
            if is_partition and name not in table.column_names:
                value = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
                table = table.append_column(name, pa.array([value] * len(table), pa.string()))
        found.append(table.select(tables[0].column_names))
        pq.write_table(found[-1], folder / "log" / f"{number:03d}.parquet")
    one, other = (sorted(map(str, pa.concat_tables(t).to_pylist())) for t in (found, tables))
    assert one == other
    path = folder / "mylog.toml"
    text = path.read_text()
    describe(folder, DAYS - 2)
    prepare(folder, "data")
    told = written(folder)
    (folder / "data").rename(folder / "expected")
    path.write_text(text)
    return told


def live_delta(folder, **options):
    return [uri.removeprefix("file://") for uri in deltalake.DeltaTable(str(folder / "table"), **options).file_uris()]


def live_iceberg(table):
    return [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]


def write_delta(folder, tables, **options):
    for table in tables:
        deltalake.write_deltalake(str(folder / "table"), table, mode="append", **options)


def iceberg(folder, tables, partition=None):
    """A catalog in SQLite, with the tables appended to log.clicks."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("here", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse")
    catalog.create_namespace("log")
    made = catalog.create_table("log.clicks", schema=tables[0].schema)
    if partition is not None:
        with made.update_spec() as update:
            update.add_identity(partition)
    for table in tables:
        made.append(table)
    return made


@pytest.mark.parametrize("options", [{}, {"partition_by": ["place"]}])
def test_a_delta_table(options, tmp_path):
    """With files that are no longer live: rows that were deleted, and a file that was replaced."""
    tables = days_of(tmp_path)
    extra = tables[0].set_column(0, "user", pa.array(["deleted"] * 200))
    write_delta(tmp_path, [*tables[:2], extra, *tables[2:]], **options)
    deltalake.DeltaTable(str(tmp_path / "table")).delete("user = 'deleted'")
    description = described(tmp_path, DELTA)
    assert list(log_days(description)) == [FIRST_DAY + day for day in range(DAYS)]
    told = expected(tmp_path, tables, live_delta(tmp_path))
    prepare(tmp_path, "data")
    assert written(tmp_path) == told
    assert len(list((tmp_path / "table").rglob("*.parquet"))) > len(
        table_files(tmp_path, "table", FormatSection(kind="delta")).files
    )


def test_a_version_of_a_delta_table(tmp_path):
    tables = days_of(tmp_path)
    write_delta(tmp_path, [*tables, tables[0].set_column(0, "user", pa.array(["later"] * 200))])
    described(tmp_path, f'format = {{ kind = "delta", version = {DAYS - 1} }}\n')
    told = expected(tmp_path, tables, live_delta(tmp_path, version=DAYS - 1))
    prepare(tmp_path, "data")
    assert written(tmp_path) == told
    described(tmp_path, 'format = { kind = "delta", version = 99 }\n')
    with pytest.raises(DataError, match=r"table: cannot be read as a Delta table at version 99"):
        prepare(tmp_path, "data2")


def test_a_delta_table_goes_on(tmp_path):
    tables = days_of(tmp_path)
    write_delta(tmp_path, tables[:3])
    path = describe(tmp_path, 1, DELTA, DESCRIPTION.replace('"log/*"', '"table"'))
    prepare(tmp_path, "data")
    write_delta(tmp_path, tables[3:])
    report = prepare(tmp_path, "next", "data")
    assert report["rows_in"] == 200
    assert path.is_file()


def test_columns_that_are_added_are_missing_before(tmp_path):
    tables = days_of(tmp_path)
    write_delta(tmp_path, [tables[0].drop_columns(["place"])])
    write_delta(tmp_path, tables[1:], schema_mode="merge")
    described(tmp_path, DELTA)
    report = prepare(tmp_path, "data")
    assert len(report["files_without_a_column"]["place"]) == 1


@pytest.mark.parametrize("partition", [None, "place"])
def test_an_iceberg_table(partition, tmp_path):
    tables = days_of(tmp_path)
    extra = tables[0].set_column(0, "user", pa.array(["deleted"] * 200))
    made = iceberg(tmp_path, [*tables[:2], extra, *tables[2:]], partition)
    made.delete("user = 'deleted'")
    described(tmp_path, ICEBERG, "warehouse/log/clicks")
    told = expected(tmp_path, tables, live_iceberg(made))
    prepare(tmp_path, "data")
    assert written(tmp_path) == told


def test_a_snapshot_and_a_metadata_file(tmp_path, monkeypatch):
    tables = days_of(tmp_path)
    made = iceberg(tmp_path, tables)
    from pyiceberg.utils.config import Config

    before = made.metadata_location.removeprefix(f"file://{tmp_path}/")
    snapshot = made.current_snapshot().snapshot_id
    (tmp_path / "mylog.toml").write_text("")
    told = expected(tmp_path, tables, live_iceberg(made))
    made.append(tables[0].set_column(0, "user", pa.array(["later"] * 200)))
    for number, (section, log) in enumerate(
        ((f'format = {{ kind = "iceberg", snapshot = {snapshot} }}\n', "warehouse/log/clicks"), (ICEBERG, before))
    ):
        described(tmp_path, section, log)
        prepare(tmp_path, "data")
        assert written(tmp_path) == told
        (tmp_path / "data").rename(tmp_path / f"before{number}")
    described(tmp_path, 'format = { kind = "iceberg", snapshot = 7 }\n', "warehouse/log/clicks")
    with pytest.raises(DataError, match=rf"has no snapshot 7; there are: .*{snapshot}"):
        prepare(tmp_path, "data2")
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which is read at the import
    described(tmp_path, f'format = {{ kind = "iceberg", catalog = "here", snapshot = {snapshot} }}\n', "log.clicks")
    prepare(tmp_path, "data")
    assert written(tmp_path) == told


def test_renamed_and_dropped_columns_of_iceberg_are_refused(tmp_path):
    made = iceberg(tmp_path, days_of(tmp_path))
    described(tmp_path, ICEBERG, "warehouse/log/clicks")
    with made.update_schema() as update:
        update.rename_column("place", "town")
    with pytest.raises(DataError, match=r"has column 'town' under its former name 'place'"):
        prepare(tmp_path, "data")
    with made.update_schema() as update:
        update.delete_column("town")
    from pyiceberg.types import StringType

    with made.update_schema() as update:
        update.add_column("place", StringType())
    with pytest.raises(DataError, match=r"has another column 'place', which was dropped from the table"):
        prepare(tmp_path, "data")


def test_renamed_fields_and_files_without_numbers_are_refused(tmp_path):
    """Read by names, their values would be null, and nothing would tell."""
    table = pa.table({"n": [1, 2], "seen": pa.array([[{"item": 1}], [{"item": 2}]])})
    made, where = iceberg(tmp_path, [table]), (tmp_path, "warehouse/log/clicks", FormatSection(kind="iceberg"))
    assert len(table_files(*where).files) == 1
    with made.update_schema() as update:
        update.rename_column("seen.element.item", "video")
    with pytest.raises(DataError, match=r"'seen\.element\.video' under its former name 'seen\.element\.item'"):
        table_files(*where)
    with made.update_schema() as update:
        update.rename_column("seen.element.video", "item")
    pq.write_table(table, tmp_path / "from_elsewhere.parquet")
    made.add_files([f"file://{tmp_path}/from_elsewhere.parquet"])
    assert len(table_files(*where).files) == 2
    with made.update_schema() as update:
        update.rename_column("n", "number")
    with pytest.raises(DataError, match=r"from_elsewhere\.parquet: has column 'number' under its former name 'n'"):
        table_files(*where)


def test_a_default_of_iceberg_is_refused(tmp_path):
    """A file that was written before the column was lacks it, but it is not null there. pyiceberg writes no defaults: the
    table's metadata get one."""
    from pyiceberg.types import LongType

    made = iceberg(tmp_path, [pa.table({"n": [1, 2]})])
    with made.update_schema() as update:
        update.add_column("price", LongType())
    metadata = tmp_path / made.metadata_location.removeprefix(f"file://{tmp_path}/")
    tree = json.loads(metadata.read_text())
    tree["schemas"][-1]["fields"][-1]["initial-default"] = 7
    section = FormatSection(kind="iceberg")
    assert len(table_files(tmp_path, str(metadata), section).files) == 1
    metadata.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"lacks column 'price', .* or which has a default"):
        table_files(tmp_path, str(metadata), section)


def test_rows_deleted_beside_the_files_are_refused(tmp_path, monkeypatch):
    """pyiceberg writes no delete files: what its plan would tell of them is told here."""
    iceberg(tmp_path, days_of(tmp_path))
    described(tmp_path, ICEBERG, "warehouse/log/clicks")
    from pyiceberg.table import DataScan

    plan = DataScan.plan_files

    def with_deletes(self):
        tasks = list(plan(self))
        tasks[1].delete_files.add(tasks[0].file)
        return tasks

    monkeypatch.setattr(DataScan, "plan_files", with_deletes)
    with pytest.raises(DataError, match=r"deleted rows beside its files, such as of .*parquet\. Rewrite its data files"):
        prepare(tmp_path, "data")


def add_to_log(folder, *actions):
    path = folder / "table/_delta_log" / f"{len(list((folder / 'table/_delta_log').iterdir())):020d}.json"
    path.write_text("".join(json.dumps(action) + "\n" for action in actions))


def z85(data):
    signs = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    words = struct.unpack(f">{-(-len(data) // 4)}I", data + bytes(-len(data) % 4))
    return "".join(signs[word // 85**place % 85] for word in words for place in (4, 3, 2, 1, 0))


def test_deletion_vectors_are_refused(tmp_path):
    """As Spark writes them: deltalake writes none."""
    tables = days_of(tmp_path)
    write_delta(tmp_path, tables)
    first = live_delta(tmp_path)[0].rpartition("/")[2]
    size = (tmp_path / "table" / first).stat().st_size
    rows = struct.pack("<IQI", 1681511377, 1, 0) + BitMap([3, 4, 7]).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": z85(rows), "sizeInBytes": len(rows), "cardinality": 3}
    add_to_log(
        tmp_path,
        {
            "protocol": {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            }
        },
        {"remove": {"path": first, "deletionTimestamp": 1, "dataChange": True}},
        {
            "add": {
                "path": first,
                "partitionValues": {},
                "size": size,
                "modificationTime": 1,
                "dataChange": True,
                "deletionVector": vector,
                "stats": '{"numRecords": 200}',
            }
        },
    )
    described(tmp_path, DELTA)
    with pytest.raises(DataError, match=rf"has deletion vectors, such as of .*{first}\. Remove them first"):
        prepare(tmp_path, "data")


@pytest.mark.parametrize(
    ("section", "log", "error", "told"),
    [
        (DELTA, "nowhere", DataError, r"nowhere: cannot be read as a Delta table"),
        (ICEBERG, "nowhere", DataError, r"nowhere: is no Iceberg table: it holds no metadata"),
        (DELTA, "s3://bucket/table", ConfigError, r"a delta table is read from a disk alone"),
        ('format = { kind = "csv", version = 1 }\n', "x", ConfigError, r"version is of kind = \"delta\" alone"),
        ('format = { kind = "delta", snapshot = 1 }\n', "x", ConfigError, r"snapshot is of kind = \"iceberg\" alone"),
        ('format = { kind = "delta", delimiter = ";" }\n', "table", ConfigError, r"delimiter is of csv alone"),
    ],
)
def test_what_cannot_be_read_is_told(section, log, error, told, tmp_path):
    write_delta(tmp_path, days_of(tmp_path, rows=20))
    described(tmp_path, section, log)
    with pytest.raises(error, match=told):
        prepare(tmp_path, "data")


@pytest.mark.parametrize(("section", "module"), [(DELTA, "deltalake"), (ICEBERG, "pyiceberg")])
def test_a_library_that_is_not_installed_is_named(section, module, tmp_path, monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    described(tmp_path, section)
    with pytest.raises(
        ConfigError, match=rf"needs {module}, which is not installed: pip install \"home_dist\[(delta|iceberg)\]\""
    ):
        prepare(tmp_path, "data")


def test_dates_of_a_partition_are_times(tmp_path):
    tables = days_of(tmp_path)
    dated = [
        t.append_column(
            "date", pc.cast(pc.add(pc.divide(pc.add(t["ms"], 8 * 3_600_000), DAY_MS), 0).cast(pa.int32()), pa.date32())
        )
        for t in tables
    ]
    write_delta(tmp_path, dated, partition_by=["date"])
    text = DESCRIPTION.replace('"log/*"', '"table"').replace('time = "ms"', 'time = "date"')
    path = describe(tmp_path, DAYS - 2, DELTA, text)
    assert list(log_days(path)) == [FIRST_DAY + day for day in range(DAYS)]
    prepare(tmp_path, "data")
    found = written(tmp_path)
    (tmp_path / "data").rename(tmp_path / "before")
    (tmp_path / "log").mkdir()
    for number, uri in enumerate(sorted(deltalake.DeltaTable(str(tmp_path / "table")).file_uris())):
        day = uri.partition("date=")[2].partition("/")[0]
        table = pq.read_table(uri, partitioning=None)
        column = pa.array([day] * len(table)).cast(pa.date32())
        pq.write_table(table.append_column("date", column), tmp_path / "log" / f"{number}.parquet")
    describe(tmp_path, DAYS - 2, text=DESCRIPTION.replace('time = "ms"', 'time = "date"'))
    prepare(tmp_path, "data")
    assert written(tmp_path) == found
