"""Published data sets, made in their published layout: prepared by their descriptions, and trained for a few steps."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.generic import LogOptions
from home_dist.schema import load_schema
from pipelines.published.fitting import aliexpress
from pipelines.published_data import prepare_published
from tests.prepare.test_going_on import QUIET
from tests.ranks import run

ROWS = 600


def make_vk_lsvd(raw):
    random = np.random.default_rng(0)
    splits = ["train"] * 3 + ["validation", "test"]
    items, users = np.arange(100, 160, dtype=np.uint32), np.arange(40, dtype=np.uint32)
    for week, split in zip((8, 9, 10, 25, 26), splits, strict=True):
        folder = raw / "interactions" / split
        folder.mkdir(parents=True, exist_ok=True)
        table = {
            "user_id": random.choice(users, ROWS),
            "item_id": random.choice(items, ROWS),
            **{n: random.integers(0, 5, ROWS).astype(np.uint8) for n in ("place", "platform", "agent")},
            "timespent": random.integers(0, 255, ROWS).astype(np.uint8),
        }
        for name in ("like", "dislike", "share", "bookmark", "click_on_author", "open_comments"):
            table[name] = random.random(ROWS) < 0.2
        pq.write_table(pa.table(table), folder / f"week_{week:02d}.parquet")
    (raw / "metadata").mkdir()
    rank = {"train_interactions_rank": np.arange(len(users), dtype=np.uint32)}
    facts = {"age": random.integers(18, 70, 40).astype(np.uint8), "gender": random.integers(0, 3, 40).astype(np.uint8)}
    facts |= {"geo": random.integers(0, 80, 40).astype(np.uint8)}
    pq.write_table(pa.table({"user_id": users, **facts, **rank}), raw / "metadata/users_metadata.parquet")
    rank = {"train_interactions_rank": np.arange(len(items), dtype=np.uint32)}
    facts = {"author_id": random.integers(0, 9, 60).astype(np.uint32), "duration": random.integers(5, 180, 60).astype(np.uint8)}
    pq.write_table(pa.table({"item_id": items, **facts, **rank}), raw / "metadata/items_metadata.parquet")
    vectors = random.normal(size=(60, 64)).astype(np.float16)
    np.savez(raw / "metadata/item_embeddings.npz", item_id=items, embedding=vectors)
    return raw


def make_kuairec(raw):
    random = np.random.default_rng(0)
    raw.mkdir()
    rows = 20 * ROWS
    seconds = np.sort(random.integers(0, 63 * 86_400, rows)) + 1_593_878_400  # 2020-07-05 at midnight in Shanghai
    local = ((seconds + 8 * 3600) * 1000 + random.integers(0, 1000, rows)).astype("datetime64[ms]")
    play, length = random.integers(0, 30_000, rows), random.integers(3_000, 60_000, rows)
    log = {
        "user_id": random.integers(0, 40, rows),
        "video_id": random.integers(0, 60, rows),
        "play_duration": play,
        "video_duration": length,
        "time": pa.array(local.astype(str)),
        "date": pa.array(np.char.replace(local.astype("datetime64[D]").astype(str), "-", "")),
        "timestamp": seconds.astype(np.float64),
        "watch_ratio": play / length,
    }
    pacsv.write_csv(pa.table(log), raw / "big_matrix.csv")
    users = {"user_id": np.arange(40), "user_active_degree": pa.array(["full_active", "high_active"] * 20)}
    users |= {n: random.integers(0, 90, 40) for n in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")}
    pacsv.write_csv(pa.table(users), raw / "user_features.csv")
    tags = pa.table({"video_id": np.arange(60), "feat": pa.array([str([int(v) % 7, 30][: 1 + v % 2]) for v in range(60)])})
    pacsv.write_csv(tags, raw / "item_categories.csv")
    days = pa.table(
        {
            "video_id": np.repeat(np.arange(60), 2),
            "date": np.tile([20200706, 20200705], 60),
            "author_id": np.repeat(np.arange(60) % 11, 2),
            "video_type": pa.array(["NORMAL", "AD"] * 60),
            "music_id": np.repeat(np.arange(60) % 13, 2),
            "play_cnt": np.arange(120),
        }
    )
    pacsv.write_csv(days, raw / "item_daily_features.csv")
    return raw


def make_tenrec(raw):
    random = np.random.default_rng(0)
    raw.mkdir()
    rows = 5 * ROWS
    columns = ["click", "follow", "like", "share"]
    table = {"user_id": np.sort(random.integers(1, 60, rows)), "item_id": random.integers(1, 90, rows)}
    table |= {n: (random.random(rows) < 0.2).astype(int) for n in columns}
    table |= {n: random.integers(0, 5, rows) for n in ("video_category", "watching_times", "gender", "age")}
    table |= {f"hist_{n}": random.integers(0, 90, rows) for n in range(1, 11)}
    pacsv.write_csv(pa.table(table), raw / "ctr_data_1M.csv")
    return raw / "ctr_data_1M.csv"


def make_aliexpress(raw):
    random = np.random.default_rng(0)
    raw.mkdir()
    for part, rows in (("train", 4 * ROWS), ("test", ROWS)):
        click = (random.random(rows) < 0.3).astype(int)
        table = {"search_id": np.arange(rows)}
        table |= {f"categorical_{n}": random.integers(0, 9, rows) for n in range(1, 17)}
        table |= {f"numerical_{n}": np.round(random.random(rows), 4) for n in range(1, 64)}
        table |= {"click": click, "conversion": click * (random.random(rows) < 0.2)}
        pacsv.write_csv(pa.table(table), raw / f"{part}.csv")
    return raw


MADE = {"vk_lsvd": make_vk_lsvd, "kuairec": make_kuairec, "tenrec": make_tenrec, "aliexpress": make_aliexpress}


def prepared(name, folder):
    report = prepare_published(name, MADE[name](folder / "raw"), folder / "data", LogOptions(partitions=2), QUIET)
    return report, load_schema(folder / "data/schema.toml")


def rows_of(folder, split):
    return pa.concat_tables([pq.read_table(p) for p in sorted((folder / "data" / split).glob("*.parquet"))])


def test_vk_lsvd(tmp_path):
    report, schema = prepared("vk_lsvd", tmp_path)
    assert {n: part["rows"] for n, part in report["splits"].items()} == {"train": 3 * ROWS, "validation": ROWS, "test": ROWS}
    weeks = [pq.read_table(p) for p in sorted((tmp_path / "raw/interactions").glob("*/*.parquet"), key=lambda p: p.name)]
    for split, week in (("validation", weeks[3]), ("test", weeks[4])):
        assert report["splits"][split]["positives"]["like"] == sum(week["like"].to_pylist())
    assert len(schema.task) == 7
    # What is known before the test week is that of all weeks before it.
    rows = rows_of(tmp_path, "test").sort_by("keep_item_id")
    longest = max(map(len, rows["seen_item_id"].to_pylist()))
    assert longest == 50
    vectors = np.load(tmp_path / "data/item_vectors/vectors.npy")
    assert np.array_equal(vectors, np.load(tmp_path / "raw/metadata/item_embeddings.npz")["embedding"])
    assert (tmp_path / "data.log/vk_lsvd.toml").is_file()


def test_kuairec(tmp_path):
    report, schema = prepared("kuairec", tmp_path)
    assert report["splits"]["train"]["days"] == ["2020-07-05", "2020-08-24"]
    assert report["splits"]["test"]["days"][1] == "2020-09-05"
    assert report["rows_without_a_row_in"] == {"users.csv": 0, "items.parquet": 0}
    assert [t.name for t in schema.task] == ["whole_view", "repeated_view", "watch_seconds"]
    values = pq.read_table(tmp_path / "data/vocabularies/video_type.parquet")["value"].to_pylist()
    assert values == ["AD"]  # that of a video's first day
    assert set(pq.read_table(tmp_path / "data/vocabularies/tags.parquet")["value"].to_pylist()) == {*range(7), 30}


def test_tenrec(tmp_path):
    report, _ = prepared("tenrec", tmp_path)
    assert sum(part["rows"] for part in report["splits"].values()) == 5 * ROWS
    assert report["splits"]["test"]["rows"] == pytest.approx(500 * ROWS / 1000, rel=0.3)


def test_aliexpress(tmp_path):
    report, schema = prepared("aliexpress", tmp_path)
    assert {n: p["rows"] for n, p in report["splits"].items()} == {"train": 2160, "validation": 240, "test": 600}
    assert schema.group_column is None
    assert len(schema.feature) == 16 + 63


def test_late_values_of_another_type(tmp_path):
    """Of a column whose first megabyte holds whole numbers."""
    raw = make_aliexpress(tmp_path / "raw")
    head, *rows = (raw / "test.csv").read_text().splitlines()
    place = head.split(",").index('"numerical_1"')
    whole = [",".join("3" if n == place else value for n, value in enumerate(row.split(","))) for row in rows]
    lines = [head, *(whole * (1 + (3 << 20) // len("\n".join(whole)))), *rows]
    (raw / "train.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    out.mkdir()
    aliexpress(raw, out)
    found = {part: (out / f"part={part}/train.csv").read_text().splitlines() for part in ("train", "validation")}
    assert found["validation"] == [head, *lines[1:][9::10]]
    assert found["train"] == [head, *(line for n, line in enumerate(lines[1:]) if n % 10 != 9)]


@pytest.mark.parametrize(
    ("name", "raw", "error", "told"),
    [
        ("movielens", ".", ConfigError, "no such data set; there are: vk_lsvd"),
        ("vk_lsvd", ".", DataError, "no interactions/.*week_"),
        ("kuairec", ".", DataError, "big_matrix.csv: no such file"),
        ("tenrec", "x.csv", DataError, "x.csv: no such file"),
    ],
)
def test_what_is_not_there_is_told(name, raw, error, told, tmp_path):
    with pytest.raises(error, match=told):
        prepare_published(name, tmp_path / raw, tmp_path / "data", LogOptions(), QUIET)
    assert not (tmp_path / "data.log").exists()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_run_trains_on_it(name, tmp_path):
    _, schema = prepared(name, tmp_path)
    sequence = f'sequence = [{{ name = "{schema.sequence[0].name}" }}]\n' if schema.sequence else ""
    (tmp_path / "run.toml").write_text(
        f'run = {{ dir = "{tmp_path / "run"}" }}\ndata = {{ path = "{tmp_path / "data"}" }}\n{sequence}'
        "embedding = { dim = 4 }\n"
        'model = { kind = "mmoe", experts = 2, expert_hidden = [16], expert_dim = 8, tower_hidden = [8] }\n'
        "train = { epochs = 1, batch_size = 256, lr = 0.01 }\nlog = { tensorboard = false }\n"
    )
    ended = run(1, "train", tmp_path / "run.toml", timeout=300)
    assert ended.codes == [0], ended.text
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]
    assert {t.name for t in schema.task} <= set(found)
