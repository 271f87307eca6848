"""Which files are data: hidden ones, globs, partitions, links."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import DataError
from home_dist.files.listing import Found, find_files, glob_files, list_files, matches
from home_dist.files.places import join
from home_dist.files.stores import Store
from home_dist.prepare.fit import fit_data


def test_what_is_not_written_yet_is_no_data(tmp_path):
    for name in ("a.parquet", ".b.parquet", "_c.parquet", "_temporary/d.parquet", "date=1/e.parquet", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [f.name for f in find_files(str(tmp_path))[1]] == ["a.parquet", "date=1/e.parquet"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("date=2024-01-0[12]", ["date=2024-01-01/a.parquet", "date=2024-01-02/a.parquet"]),
        ("date=2024-01-0?/a.parquet", ["date=2024-01-01/a.parquet", "date=2024-01-02/a.parquet"]),
        ("*02-*", ["date=2024-02-01/a.parquet"]),
    ],
)
def test_globs_of_folders_and_files(tmp_path, pattern, found):
    for date in ("2024-01-01", "2024-01-02", "2024-02-01"):
        (tmp_path / f"date={date}").mkdir()
        (tmp_path / f"date={date}" / "a.parquet").touch()
    assert [f.name for f in find_files(join(str(tmp_path), pattern))[1]] == found
    with pytest.raises(DataError, match=r"holds no \*.parquet files that matches"):
        find_files(join(str(tmp_path), "date=1999*"))


def test_a_folder_may_have_a_name_that_looks_like_a_glob(tmp_path):
    (tmp_path / "a[b]").mkdir()
    (tmp_path / "a[b]" / "c.parquet").touch()
    assert [f.name for f in find_files(str(tmp_path / "a[b]"))[1]] == ["c.parquet"]


def test_values_of_partitions():
    assert Found("x", "a=1/b=x%20y/c.parquet", 0).partition == {"a": "1", "b": "x y"}
    assert Found("x", "a=__HIVE_DEFAULT_PARTITION__/c=d.parquet", 0).partition == {"a": None}
    assert matches("a/b/c", "")
    assert not matches("a", "a/b")


def names(place):
    return [f.name for f in find_files(str(place))[1]]


def test_a_link_that_leads_round_reads_each_file_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x.parquet").touch()
    (tmp_path / "a" / "b" / "y.parquet").touch()
    (tmp_path / "a" / "b" / "round").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(".")
    assert names(tmp_path) == ["a/b/y.parquet", "a/x.parquet"]


def test_links_are_followed_and_a_file_of_several_names_is_read_once(tmp_path):
    elsewhere, train = tmp_path / "elsewhere", tmp_path / "train"
    (elsewhere / "day").mkdir(parents=True)
    train.mkdir()
    for name in ("day/a.parquet", "b.parquet"):
        (elsewhere / name).touch()
    (train / "c.parquet").touch()
    (train / "1-link.parquet").symlink_to("c.parquet")  # its own name counts
    (train / "date=1").symlink_to(elsewhere / "day")
    (train / "date=2").symlink_to(elsewhere / "day")
    (train / "d.parquet").symlink_to(elsewhere / "b.parquet")
    assert names(train) == ["c.parquet", "d.parquet", "date=1/a.parquet"]
    assert names(train / "date=2*") == ["date=2/a.parquet"]  # a glob that leaves out its other name
    (tmp_path / "whole").symlink_to(train)
    assert names(tmp_path / "whole") == ["c.parquet", "d.parquet", "date=1/a.parquet"]


@pytest.mark.parametrize("link", ["b.parquet", "date=2", "date=1/c.parquet"])
def test_a_link_that_leads_nowhere_is_an_error_that_names_it(tmp_path, link):
    (tmp_path / "date=1").mkdir()
    (tmp_path / "date=1" / "a.parquet").touch()
    (tmp_path / link).symlink_to("gone")
    for place in (tmp_path, tmp_path / "*"):
        with pytest.raises(DataError, match=rf"{link}: a link that leads nowhere \(gone\)"):
            names(place)
    assert names(tmp_path / "*1" / "a*") == ["date=1/a.parquet"]  # the glob leaves the link out
    (tmp_path / link).rename((tmp_path / link).with_name("_hidden"))
    assert names(tmp_path) == ["date=1/a.parquet"]


def test_a_link_to_itself_leads_nowhere(tmp_path):
    (tmp_path / "a.parquet").symlink_to("a.parquet")
    with pytest.raises(DataError, match="leads nowhere"):
        names(tmp_path)


def test_files_of_a_description(tmp_path):
    for name in ("raw/1.csv", "raw/_2.csv", "raw/.3.csv", "raw/_temporary/4.csv", "raw/deep/5.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    (tmp_path / "raw" / "6.csv").symlink_to("1.csv")

    def here(pattern: str) -> list[str]:
        return [str(p.relative_to(tmp_path / "raw")) for p in glob_files(tmp_path, pattern)]

    assert here("raw/*.csv") == ["1.csv"]
    assert here("raw/**/*.csv") == ["1.csv", "deep/5.csv"]
    assert here(str(tmp_path / "raw" / "*.csv")) == ["1.csv"]
    assert here("raw/_2.csv") == ["_2.csv"]
    assert here("raw/_*.csv") == ["_2.csv"]
    assert here("raw/nothing.csv") == []
    with pytest.raises(DataError, match=r"raw: is a folder. Name the files in it, such as raw/\*"):
        here("raw")
    os.symlink("gone", tmp_path / "raw" / "7.csv")
    for pattern in ("raw/*.csv", "raw/7.csv"):
        with pytest.raises(DataError, match=r"7.csv: a link that leads nowhere"):
            here(pattern)


def test_fit_does_not_read_what_is_not_written_yet(tmp_path):
    (tmp_path / "train" / "_temporary").mkdir(parents=True)
    pq.write_table(pa.table({"city": ["a", "a", "b"], "like": [0, 1, 1]}), tmp_path / "train" / "1.parquet")
    pq.write_table(pa.table({"city": ["z"] * 9, "like": [1] * 9}), tmp_path / "train" / "_temporary" / "2.parquet")
    (tmp_path / "draft.toml").write_text(
        """
        table = [{ name = "city", values = { kind = "vocabulary", type = "text", min_count = 1 } }]
        feature = [{ kind = "id", name = "city", column = "city", table = "city" }]
        task = [{ name = "like", group = "g", column = "like" }]
        """
    )
    fit_data(tmp_path / "draft.toml", tmp_path, lambda text: None)
    assert pq.read_table(tmp_path / "vocabularies" / "city.parquet").column("value").to_pylist() == ["a", "b"]


def test_files_that_are_no_data_are_listed(tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "_SUCCESS").touch()
    assert [(f.name, f.base_name) for f in list_files(Store(), str(tmp_path))] == [("day/_SUCCESS", "_SUCCESS")]
