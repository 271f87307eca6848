"""The second day, as a user meets it: a log is prepared, trained and exported; then later days come."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tomli_w
from pyarrow import fs
from sklearn.metrics import roc_auc_score

from home_dist.files.hashes import file_sha256
from home_dist.schema import load_schema, save_schema
from home_dist.schema.meaning import without_told
from tests import forked
from tests.factory import CONFIG
from tests.files.test_stores import credentials, server  # noqa: F401
from tests.prepare.test_going_on import DESCRIPTION, describe, make_days
from tests.ranks import REPOSITORY, run, settings

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
BASE, DAYS = 5, 7


def call(folder: Path, *arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "home_dist.cli", *map(str, arguments)]
    ended = forked.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """day0: the first days; day1: two more, like day0; anew: all days, fitted anew; run and program: of day0."""
    folder = tmp_path_factory.mktemp("shop")
    make_days(folder, DAYS, rows=400)
    described = describe(folder, BASE - 2)
    last = np.datetime64(19_675 + BASE - 1, "D")
    call(folder, "prepare", described, folder / "day0", "--last-day", last, "--processes", 1)
    call(folder, "prepare", described, folder / "day1", "--like", folder / "day0", "--processes", 1)
    call(folder, "prepare", described, folder / "anew", "--processes", 1)
    config = CONFIG.format(run=folder / "run", data=folder / "day0", batch_size=64).replace('"watched"', '"seen"')
    (folder / "run.toml").write_text(config)
    ended = run(1, "train", folder / "run.toml", *settings(embedding__replicate_rows=20))
    assert ended.codes == [0], ended.text
    call(folder, "export", folder / "run", "--out", folder / "program", "--format", "program")
    return folder


def scores(folder: Path, *columns: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in sorted(folder.glob("*.parquet"))).select(columns or ["like", "view"])


def permuted(data: Path, out: Path) -> None:
    """The same data, as if its vocabularies had been fitted in another order."""
    shutil.copytree(data, out)
    tree, random = _schema(out), np.random.default_rng(0)
    rows = {}
    for table in tree["table"]:
        if "origin" not in table:
            continue
        path = out / table["origin"]["file"]
        vocabulary = pq.read_table(path)
        order = random.permutation(len(vocabulary)) + 1
        rows[table["name"]] = np.concatenate([[0], order])
        pq.write_table(
            vocabulary.set_column(1, "row", pa.array(rows[table["name"]][vocabulary.column("row").to_numpy()])), path
        )
        table["origin"] |= {"sha256": file_sha256(path), "grown_from": []}
    (out / "schema.toml").write_text(tomli_w.dumps(tree))
    tables = {f["column"]: f["table"] for f in tree["feature"] if f["kind"] == "id"}
    tables |= {e["column"]: e["table"] for s in tree["sequence"] for e in s["events"]}
    for path in out.rglob("*/part-*.parquet"):
        table = pq.ParquetFile(path).read()
        for name, of in tables.items():
            if of in rows:
                column = table.column(name).combine_chunks()
                if pa.types.is_list(column.type):
                    column = pa.ListArray.from_arrays(column.offsets, pa.array(rows[of][column.values.to_numpy()], pa.int32()))
                else:
                    column = pa.array(rows[of][column.to_numpy()], pa.int32())
                table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, path)


def test_rows_of_other_vocabularies_are_mapped_by_key_and_what_cannot_be_is_refused(shop, tmp_path):
    permuted(shop / "day1", tmp_path / "other_rows")
    for name, data in (("mine", shop / "day1"), ("theirs", tmp_path / "other_rows")):
        call(shop, "score", shop / "program", data / "train", "--out", tmp_path / name)
        call(shop, "evaluate", shop / "run", "--data", data, "--out", tmp_path / f"{name}.json")
    assert scores(tmp_path / "mine").equals(scores(tmp_path / "theirs"))
    assert (tmp_path / "mine.json").read_text() == (tmp_path / "theirs.json").read_text()

    other = (
        DESCRIPTION.replace("days = 1.5", "days = 2.5").replace("at_least = 3", "at_least = 4").replace("most = 5", "most = 7")
    )
    other = describe(_copied(shop, tmp_path / "other"), DAYS - 2, text=other)
    call(shop, "prepare", other, tmp_path / "other" / "data", "--processes", 1)
    told = call(shop, "score", shop / "program", tmp_path / "other/data/test", "--out", tmp_path / "no", code=3)
    assert "its numbers are not those that the model was trained on" in told
    assert "history seen: it is the newest 5 impressions" in told
    assert "statistic author_place_view: it is log-odds of view (seconds >= 3" in told
    assert "--like" in told
    assert not (tmp_path / "no").exists()


def _copied(shop: Path, to: Path) -> Path:
    shutil.copytree(shop / "log", to / "log")
    shutil.copy(shop / "video.csv", to)
    return to


def test_files_without_a_schema_are_not_scored_unseen(shop, tmp_path):
    shutil.copytree(shop / "day1" / "train", tmp_path / "files")
    told = call(shop, "score", shop / "program", tmp_path / "files", "--out", tmp_path / "out", code=3)
    assert "no schema.toml is in its folder or around it" in told
    call(shop, "score", shop / "program", tmp_path / "files", "--out", tmp_path / "out", "--schema", shop / "day1/schema.toml")
    call(shop, "score", shop / "program", shop / "day1/train", "--out", tmp_path / "same")
    assert scores(tmp_path / "out").equals(scores(tmp_path / "same"))


def test_a_raw_log_is_scored_with_the_numbers_and_the_past_of_the_export(shop, tmp_path):
    """As the prepared later days are, but for values that these have learned: to the model both are unknown."""
    raw = _copied(shop, tmp_path / "raw")
    for day in range(BASE):
        (raw / "log" / f"{day:02d}.parquet").unlink()
    for day in range(BASE, DAYS):  # what has not happened yet is not in the log
        path = raw / "log" / f"{day:02d}.parquet"
        pq.write_table(pq.read_table(path), path)
    described = describe(raw, 1)
    keep = ["--keep", "user", "--keep", "place", "--keep", "ms"]
    call(shop, "score", shop / "program", "--log", described, "--out", tmp_path / "out", *keep, "--processes", 1)
    raw_scores = scores(tmp_path / "out", "user", "place", "ms", "like", "view")
    logged = pa.concat_tables(pq.read_table(raw / "log" / f"{d:02d}.parquet") for d in range(BASE, DAYS))
    assert sorted(map(repr, raw_scores.select(["user", "place", "ms"]).to_pylist())) == sorted(
        map(repr, logged.select(["user", "place", "ms"]).to_pylist())
    )
    call(shop, "score", shop / "program", shop / "day1/train", "--out", tmp_path / "prepared", "--keep", "time_ms")
    prepared = scores(tmp_path / "prepared", "time_ms", "like", "view")
    assert np.array_equal(prepared.column("time_ms").to_numpy(), raw_scores.column("ms").to_numpy())
    for task in ("like", "view"):
        assert np.array_equal(prepared.column(task).to_numpy(), raw_scores.column(task).to_numpy())
    told = call(shop, "score", shop / "program", "--log", described, "--out", tmp_path / "x", "--keep", "sku", code=3)
    assert "--keep sku: no such column in the log" in told
    assert not (tmp_path / "x.writing").exists()

    # Without labels, which are not known yet: those of the rows themselves do not matter, only those of rows before them.
    for day in range(BASE, DAYS):
        path = raw / "log" / f"{day:02d}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["like", "seconds"]).append_column("seconds", pa.nulls(400)), path)
    call(shop, "score", shop / "program", "--log", described, "--out", tmp_path / "unlabelled", *keep, "--processes", 1)
    assert len(scores(tmp_path / "unlabelled")) == len(raw_scores)


def test_a_run_is_evaluated_on_later_days(shop, tmp_path):
    """Whether rows are the model's own or mapped: the figures are those of the scores."""
    told = call(shop, "evaluate", shop / "run", "--data", shop / "day1", "--out", tmp_path / "figures.json")
    assert "evaluation: train" in told
    figures = json.loads((tmp_path / "figures.json").read_text())
    call(shop, "score", shop / "program", shop / "day1/train", "--out", tmp_path / "scores", "--keep", "label_like")
    scored = scores(tmp_path / "scores", "label_like", "like")
    expected = roc_auc_score(scored.column("label_like").to_numpy(), scored.column("like").to_numpy())
    assert figures["train"]["like"]["auc"] == pytest.approx(expected, abs=1e-6)
    # Fitted anew, the same days mean the same by key.
    call(shop, "evaluate", shop / "run", "--data", shop / "anew", "--pooled", "--out", tmp_path / "anew.json")
    assert list(json.loads((tmp_path / "anew.json").read_text()))[2] == "train+validation+test"


def test_data_prepared_anew_in_the_place_of_the_runs_is_noticed(shop, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(shop / "day0", data)
    config = CONFIG.format(run=tmp_path / "run", data=data, batch_size=64).replace('"watched"', '"seen"')
    (tmp_path / "run.toml").write_text(config)
    assert run(1, "train", tmp_path / "run.toml", *settings(train__max_steps=4)).codes == [0]
    call(shop, "evaluate", tmp_path / "run", "--split", "train")
    shutil.rmtree(data)
    shutil.copytree(shop / "anew", data)
    told = call(shop, "evaluate", tmp_path / "run", "--split", "train", code=3)
    assert "table user (column 'user'): its vocabulary cannot be used" in told
    assert "is not the one that the schema was fitted with" in told
    ended = run(1, "train", tmp_path / "run.toml", *settings(train__max_steps=8))
    assert ended.codes == [2]
    assert "table user: vocabulary is" in ended.text
    told = call(shop, "export", tmp_path / "run", "--out", tmp_path / "export", code=4)
    assert "is not the vocabulary of table 'user'" in told
    assert not (tmp_path / "export").exists()


def test_a_schema_of_an_older_version_is_told_apart_by_what_the_run_recorded(shop, tmp_path):
    """Without origins, the same rows of other keys look alike: but not to evaluation, nor to a run that goes on."""
    data = tmp_path / "data"
    permuted(shop / "day0", tmp_path / "other_rows")
    shutil.copytree(shop / "day0", data)
    for folder in (data, tmp_path / "other_rows"):
        save_schema(without_told(load_schema(folder / "schema.toml")), folder / "schema.toml")
    config = CONFIG.format(run=tmp_path / "run", data=data, batch_size=64).replace('"watched"', '"seen"')
    (tmp_path / "run.toml").write_text(config)
    assert run(1, "train", tmp_path / "run.toml", *settings(train__max_steps=4)).codes == [0]
    shutil.rmtree(data)
    (tmp_path / "other_rows").rename(data)
    told = call(shop, "evaluate", tmp_path / "run", "--split", "train", code=3)
    assert "is not the vocabulary that it was trained with" in told
    ended = run(1, "train", tmp_path / "run.toml", *settings(train__max_steps=8))
    assert ended.codes == [3]
    assert "user.parquet: is not the vocabulary of table 'user' that the run was trained with" in ended.text


def test_a_label_that_later_days_do_not_always_know_is_measured_where_it_is_known(shop, tmp_path):
    """In the base all rows know "like"; later ones do not, and their data has a weight for it."""
    raw = _copied(shop, tmp_path / "raw")
    for day in range(BASE, DAYS):
        path = raw / "log" / f"{day:02d}.parquet"
        table = pq.read_table(path)
        known = np.random.default_rng(day).random(len(table)) < 0.4
        like = pa.array(table.column("like").to_numpy(), mask=~known)
        pq.write_table(table.set_column(table.column_names.index("like"), "like", like), path)
    shutil.copytree(shop / "day0", raw / "day0")
    call(shop, "prepare", describe(raw, 3), raw / "later", "--like", raw / "day0", "--processes", 1)
    call(shop, "evaluate", shop / "run", "--data", raw / "later", "--out", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())["train"]["like"]
    rows = pq.read_table(raw / "later/train")
    assert figures["samples"] == sum(rows.column("known_like").to_pylist()) < len(rows) * 0.5
    assert figures["positives"] == sum(rows.column("label_like").to_pylist())


def test_labels_and_histories_that_mean_something_else_begin_anew(shop, tmp_path):
    text = DESCRIPTION.replace("at_least = 3", "at_least = 1").replace("most = 5", "most = 9")
    described = describe(_copied(shop, tmp_path / "other"), DAYS - 2, text=text)
    call(shop, "prepare", described, tmp_path / "other/data", "--processes", 1)
    config = CONFIG.format(run=tmp_path / "run", data=tmp_path / "other/data", batch_size=64).replace('"watched"', '"seen"')
    (tmp_path / "run.toml").write_text(config)
    options = settings(train__max_steps=2)
    ended = run(1, "train", tmp_path / "run.toml", *options, "--from", shop / "run")
    assert ended.codes == [0], ended.text
    assert "label view: it was seconds >= 3, known where length > 0 and is seconds >= 1" in ended.text
    assert "history seen: it was the newest 5 impressions" in ended.text
    assert "dense head.features.encoders.seen.event.weight: its history has other events" in ended.text
    towers = next(line for line in ended.text.splitlines() if "dense head.towers.weights.0" in line)
    assert re.search(r"first values stay for .*task view, another label", towers)
    # A run that does not train the label is not asked for it.
    told = call(shop, "evaluate", shop / "run", "--data", tmp_path / "other/data", code=3)
    assert "label view" in told


def test_daily_training_keeps_rows_and_state_by_key(shop, tmp_path):
    config = CONFIG.format(run=tmp_path / "run", data=shop / "day1", batch_size=64).replace('"watched"', '"seen"')
    (tmp_path / "run.toml").write_text(config)
    options = settings(embedding__replicate_rows=20, data__validation='""', data__test='""')
    ended = run(1, "train", tmp_path / "run.toml", *options, "--from", shop / "run")
    assert ended.codes == [0], ended.text
    rows = {d: {t["name"]: t for t in _schema(shop / d)["table"]} for d in ("day0", "day1")}
    keys, size = rows["day0"]["user"]["origin"]["keys"], rows["day1"]["user"]["rows"]
    assert f"table user: {keys + 1:,} of {size:,} rows, by key, with their optimizer state" in ended.text
    assert "its boundaries are others" not in ended.text
    assert pc.max(pq.read_table(shop / "day1/train").column("user")).as_py() > keys  # new users have rows


def _schema(folder: Path) -> dict:
    return tomllib.loads((folder / "schema.toml").read_text())


def test_a_delta_is_of_the_same_rows(shop, tmp_path):
    """Between days whose vocabularies have grown from each other, and not between others."""
    options = settings(embedding__replicate_rows=20, data__validation='""', data__test='""', train__max_steps=2)
    for name, data in (("grown", "day1"), ("other", "anew")):
        config = CONFIG.format(run=tmp_path / name, data=shop / data, batch_size=64).replace('"watched"', '"seen"')
        (tmp_path / f"{name}.toml").write_text(config)
        ended = run(1, "train", tmp_path / f"{name}.toml", *options, "--from", shop / "run")
        assert ended.codes == [0], ended.text
    delta = ["--format", "delta", "--since", shop / "run"]
    told = call(shop, "export", tmp_path / "grown", "--out", tmp_path / "delta", *delta)
    assert "table user: " in told
    written = pq.read_table(tmp_path / "delta/vocabularies/user.parquet")  # new rows have keys
    assert len(written) == _schema(shop / "day1")["table"][0]["origin"]["keys"]
    told = call(shop, "export", tmp_path / "other", "--out", tmp_path / "none", *delta, code=4)
    assert "mean something else" in told
    assert "table user: vocabulary is" in told


@pytest.mark.usefixtures("credentials")
def test_an_export_of_data_in_a_store_has_its_vocabularies_and_state(shop, server, tmp_path):  # noqa: F811
    store = fs.S3FileSystem(
        access_key="someone", secret_key="secret", endpoint_override=server, region="us-east-1", allow_bucket_creation=True
    )
    store.create_dir("second-day")
    fs.copy_files(str(shop / "day0"), "second-day/day0", destination_filesystem=store)
    url = f"s3://second-day/day0?endpoint_override={server}&region=us-east-1"
    config = CONFIG.format(run=tmp_path / "run", data=url, batch_size=64).replace('"watched"', '"seen"')
    (tmp_path / "run.toml").write_text(config)
    ended = run(1, "train", tmp_path / "run.toml", *settings(train__max_steps=2, data__validation='""', data__test='""'))
    assert ended.codes == [0], ended.text
    call(shop, "export", tmp_path / "run", "--out", tmp_path / "export")
    for folder in ("vocabularies", "state"):
        mine, theirs = (
            {p.name: p.read_bytes() for p in (at / folder).iterdir()} for at in (tmp_path / "export", shop / "day0")
        )
        assert mine == theirs
