"""Columns in the names of folders are those of the same log with the columns in its files."""

from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from home_dist.errors import DataError
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.log_days import log_days
from tests.prepare.test_formats import written
from tests.prepare.test_going_on import DESCRIPTION, FIRST_DAY, QUIET, SPLIT, describe, make_days, prepare

DAYS = 4


def partitioned(folder, text=DESCRIPTION, suffix="parquet", keep_columns=False, place="log"):
    """Files by day and place, below folders such as date=2023-11-14/shop=place 3; `place` is in folders alone."""
    make_days(folder, DAYS, rows=200)
    paths = sorted((folder / "log").glob("*.parquet"))
    for number, path in enumerate(paths):
        table = pq.read_table(path)
        for shop in sorted(pc.unique(table["place"]).to_pylist(), key=str):
            rows = table.filter(pc.is_null(table["place"]) if shop is None else pc.equal(table["place"], shop))
            day = date.fromordinal(date(1970, 1, 1).toordinal() + FIRST_DAY + number)
            name = "__HIVE_DEFAULT_PARTITION__" if shop is None else shop.replace(" ", "%20")
            out = folder / place / f"date={day}" / f"place={name}" / f"0.{suffix}"
            out.parent.mkdir(parents=True)
            rows = rows if keep_columns else rows.drop_columns(["place"])
            pacsv.write_csv(rows, out) if suffix == "csv" else pq.write_table(rows, out)
        path.unlink()
    describe(folder, DAYS - 2, text=text)


def flat(folder, text=DESCRIPTION):
    """The same files in the same order, with the columns in them."""
    for number, path in enumerate(sorted((folder / "log").rglob("*.parquet"))):
        table = pq.read_table(path, partitioning=None)
        day, name = path.parts[-3].partition("=")[2], path.parts[-2].partition("=")[2].replace("%20", " ")
        place = pa.array([None if name == "__HIVE_DEFAULT_PARTITION__" else name] * len(table), pa.string())
        table = table.append_column("date", pa.array([date.fromisoformat(day)] * len(table)))
        table = table if "place" in table.column_names else table.append_column("place", place)
        pq.write_table(table, folder / f"{number:03d}.parquet")
    (folder / "flat").mkdir()
    for path in sorted(folder.glob("*.parquet")):
        path.rename(folder / "flat" / path.name)
    (folder / "flat.toml").write_text(SPLIT % (DAYS - 2) + text.replace('"log/*/*/*"', '"flat/*"'))
    prepare_log(folder / "flat.toml", folder / "data", QUIET, LogOptions(partitions=3))
    found = written(folder)
    (folder / "data").rename(folder / "data-flat")
    return found


HIVE = DESCRIPTION.replace('"log/*"', '"log/*/*/*"')
BY_DATE = HIVE.replace('time = "ms"', 'time = "date"')


@pytest.mark.parametrize("text", [HIVE, BY_DATE])
def test_folders_are_columns(text, tmp_path):
    partitioned(tmp_path, text)
    expected = flat(tmp_path, text)
    report = prepare(tmp_path, "data")
    assert written(tmp_path) == expected
    assert report["files_without_a_column"] == {}
    if text is BY_DATE:
        assert list(log_days(tmp_path / "mylog.toml")) == [FIRST_DAY + day for day in range(DAYS)]


def test_files_of_texts_have_folders_too(tmp_path):
    partitioned(tmp_path, HIVE, "csv")
    prepare(tmp_path, "data")
    found = written(tmp_path)
    other = tmp_path / "parquet"
    partitioned(other, HIVE)
    prepare(other, "data")
    assert found == written(other)


def test_a_split_by_folder(tmp_path):
    partitioned(tmp_path)
    first = str(date.fromordinal(date(1970, 1, 1).toordinal() + FIRST_DAY))
    split = (
        f'split = {{ by = "column", column = "date", train = [{first}], validation = ["2023-11-15"], test = [2023-11-16] }}\n'
    )
    (tmp_path / "mylog.toml").write_text(split + HIVE)
    report = prepare(tmp_path, "data")
    assert [part["rows"] for part in report["splits"].values()] == [200, 200, 200]
    assert report["rows_in_no_part"] == 200


def test_the_column_of_the_files_is_read(tmp_path):
    partitioned(tmp_path, HIVE, keep_columns=True)
    for path in list((tmp_path / "log").rglob("*.parquet")):
        path.parent.rename(path.parent.with_name(f"place=wrong{path.parent.name[-1]}"))
    expected = flat(tmp_path, HIVE)
    prepare(tmp_path, "data")
    assert written(tmp_path) == expected


def test_types(tmp_path):
    partitioned(tmp_path, HIVE)
    for number, path in enumerate(sorted((tmp_path / "log").glob("date=*"))):
        path.rename(path.with_name(f"date=0{number}"))
    described = (tmp_path / "mylog.toml").read_text().replace("id = [", 'id = [ { column = "date", min_count = 1 },', 1)
    (tmp_path / "mylog.toml").write_text(described)
    prepare(tmp_path, "data")
    assert pq.read_table(tmp_path / "data/vocabularies/date.parquet")["value"].to_pylist() == [0, 1]
    (tmp_path / "mylog.toml").write_text('types = { date = "text" }\n' + described)
    prepare(tmp_path, "texts")
    assert pq.read_table(tmp_path / "texts/vocabularies/date.parquet")["value"].to_pylist() == ["00", "01"]
    (tmp_path / "log/date=03").rename(tmp_path / "log/date=late")
    (tmp_path / "mylog.toml").write_text('types = { date = "integer" }\n' + described)
    with pytest.raises(DataError, match=r"date=late/.*: the folder's name says date = 'late', which is no int64"):
        prepare(tmp_path, "wrong")


def test_a_folder_without_the_column_is_told(tmp_path):
    partitioned(tmp_path, HIVE)
    (tmp_path / "log/date=2023-11-15/place=place%205").rename(tmp_path / "log/date=2023-11-15/elsewhere")
    report = prepare(tmp_path, "data")
    assert report["files_without_a_column"] == {"place": ["log/date=2023-11-15/elsewhere/0.parquet"]}


def test_folders_of_side_tables_are_columns(tmp_path):
    """But for one of the log's: it may only tell when the side table was written."""
    make_days(tmp_path, DAYS, rows=200)
    table = pacsv.read_csv(tmp_path / "video.csv")
    table = table.append_column("shop", pa.array([f"shop {n % 3}" for n in range(len(table))]))
    for shop in ("shop 0", "shop 1", "shop 2"):
        out = tmp_path / "side/place=x" / f"shop={shop}" / "0.csv"
        out.parent.mkdir(parents=True)
        pacsv.write_csv(table.filter(pc.equal(table["shop"], shop)).drop_columns(["shop"]), out)
    pacsv.write_csv(table, tmp_path / "shops.csv")
    found = []
    for pattern in ("shops.csv", "side/*/*/*"):
        text = DESCRIPTION.replace('files = "video.csv"', f'files = "{pattern}"')
        describe(tmp_path, DAYS - 2, text=text.replace("id = [", 'id = [\n  { column = "shop", min_count = 1 },', 1))
        prepare(tmp_path, "data")
        found.append(written(tmp_path))
        values = pq.read_table(tmp_path / "data/vocabularies/shop.parquet")["value"].to_pylist()
        assert set(values) == {"shop 0", "shop 1", "shop 2"}
        (tmp_path / "data").rename(tmp_path / f"data{len(found)}")
    assert found[0] == found[1]
