"""The KuaiRand pipeline: labels, statistics and histories against plain loops, and nothing from the future."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from home_dist.errors import DataError
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.kuairand import KuaiRandOptions, prepare_kuairand
from home_dist.schema import load_schema
from tests.prepare.raw import START_MS, make_log, side_tables, write_raw

OPTIONS = KuaiRandOptions(train_days=3, validation_days=1, test_days=1, history=5, train_files=2)
SPLITS = ("train", "validation", "test")


def prepare(raw: Path, out: Path, options: KuaiRandOptions = OPTIONS) -> tuple[list[dict], list[str]]:
    """All rows of all splits, and what was said."""
    said: list[str] = []
    prepare_kuairand(raw, out, options, said.append)
    rows = [{"split": s, **row} for s in SPLITS for row in pq.read_table(out / s).to_pylist()]
    return rows, said


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuairand")
    log = make_log()
    rows, _ = prepare(write_raw(folder / "raw", log), folder / "out")
    return folder / "out", log, rows


def merged(log: dict[str, np.ndarray]) -> list[dict]:
    """One entry per (time, user, video), in that order, by a loop over rows."""
    found: dict[tuple, dict] = {}
    for index in range(len(log["time_ms"])):
        row = {name: int(values[index]) for name, values in log.items()}
        key = (row["time_ms"], row["user_id"], row["video_id"])
        if key not in found:
            found[key] = row
            continue
        for name in row:
            if name.startswith("is_") or name in ("long_view", "play_time_ms"):
                found[key][name] = max(found[key][name], row[name])
    for row in found.values():
        play, duration = row["play_time_ms"], row["duration_ms"]
        row["known"] = duration > 0
        row["complete_view"] = int(row["known"] and play >= duration)
        row["effective_view"] = int(row["known"] and (play > 7000 or play >= duration))
        row["long_view"] = row["long_view"] if row["known"] else 0
    return [found[key] for key in sorted(found)]


def test_rows_and_labels(prepared):
    _, log, rows = prepared
    expected = {(r["time_ms"], r["user_id"]): [] for r in merged(log)}
    for r in merged(log):
        expected[r["time_ms"], r["user_id"]].append(r)
    labels = ("like", "follow", "comment", "forward", "profile_enter", "effective_view", "long_view", "complete_view")
    of_split = {"train": (1, 4), "validation": (4, 5), "test": (5, 6)}
    found = {}
    for row in rows:
        first, last = of_split[row["split"]]
        assert first <= (row["time_ms"] - START_MS) // DAY_MS < last
        found.setdefault((row["time_ms"], row["user_id"]), []).append(row)
    assert found.keys() == {k for k in expected if k[0] >= START_MS + DAY_MS}
    for key, group in found.items():
        mine = sorted((*(r[f"label_{n}"] for n in labels), r["watch_known"]) for r in group)
        assert mine == sorted((*(r.get(f"is_{n}", r.get(n)) for n in labels), int(r["known"])) for r in expected[key])


def test_statistics_are_counted_strictly_before_the_impression(prepared):
    out, log, rows = prepared
    raw = merged(log)
    steps = {}
    for name in ("user_count", "video_like", "user_long_view", "video_day_like", "user_tab_click", "user_gap", "user_like"):
        values = sorted({r[f"stat_{name}"] for r in rows if r[f"stat_{name}"] is not None})
        steps[name] = min(np.diff(values)) if len(values) > 1 else 1.0
    stored = {s["user_id"]: s for s in side_tables()["user_sequences"].to_pylist()}
    codes = _vocabulary(out, "video")
    checked = 0
    for row in rows:
        candidates = [r for r in raw if (r["time_ms"], r["user_id"]) == (row["time_ms"], row["user_id"])]
        mine = [r for r in candidates if codes.get(r["video_id"], 0) == row["video"] and r["tab"] == row["tab"]]
        if len(candidates) != 1 or len(mine) != 1:
            continue
        me, checked = mine[0], checked + 1
        before = [r for r in raw if r["time_ms"] < me["time_ms"]]
        of_user = [r for r in before if r["user_id"] == me["user_id"]]
        of_video = [r for r in before if r["video_id"] == me["video_id"]]

        def rate(events, name, strength, before=before):
            counted, everyone = (
                [r.get(f"is_{name}", r.get(name)) for r in some if name != "long_view" or r["known"]]
                for some in (events, before)
            )
            base, hits = (sum(everyone) + 1) / (len(everyone) + 100), sum(counted)
            if not counted:
                return None
            return math.log((hits + strength * base) / (len(counted) - hits + strength * (1 - base)))

        morning = START_MS + (me["time_ms"] - START_MS) // DAY_MS * DAY_MS
        recent = [r for r in of_video if r["time_ms"] >= me["time_ms"] - DAY_MS]
        gap = me["time_ms"] - of_user[-1]["time_ms"] if of_user else None
        expected = {
            "user_count": math.log1p(len(of_user)),
            "video_like": rate(of_video, "like", 20),
            # Interactions of a user: what was known when the local day began.
            "user_like": rate([r for r in of_user if r["time_ms"] < morning], "like", 5),
            "user_long_view": rate(of_user, "long_view", 5),
            "video_day_like": rate(recent, "like", 20),
            "user_tab_click": rate([r for r in of_user if r["tab"] == me["tab"]], "click", 5),
            "user_gap": None if gap is None else math.log1p(gap / 1000),
        }
        for name, value in expected.items():
            found = row[f"stat_{name}"]
            if value is None:
                assert found is None, name
            else:
                assert found == pytest.approx(value, abs=steps[name] / 2 + 1e-5), name

        history = []
        if me["user_id"] in stored and stored[me["user_id"]]["last_time_ms"] < me["time_ms"]:
            s = stored[me["user_id"]]
            history = [(s["last_time_ms"], codes.get(v, 0), 0) for v in s["watch_seq"]]
        for r in of_user:
            played = r["play_time_ms"] / max(r["duration_ms"], 1)
            bounds = (0.001, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0)
            share = 1 + sum(b <= played for b in bounds) if r["known"] else 0
            history.append((r["time_ms"], codes.get(r["video_id"], 0), share))
        history = sorted(history, key=lambda e: e[0])[-5:]
        if len({e[0] for e in history}) == len(history):  # else their order is free
            assert row["watched_video"] == [e[1] for e in history]
            assert row["watched_share"] == [e[2] for e in history]
        else:
            assert len(row["watched_video"]) == len(history)
    assert checked > 100


def _vocabulary(out: Path, name: str) -> dict:
    table = pq.read_table(out / "vocabularies" / f"{name}.parquet")
    return dict(zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True))


def test_nothing_looks_into_the_future(prepared, tmp_path):
    """What comes after a moment is replaced by something else: no input of an earlier impression may change."""
    out, log, rows = prepared
    moment = START_MS + 4 * DAY_MS + DAY_MS // 2  # within the validation day
    other = make_log(seed=7)
    later, kept = other["time_ms"] >= moment, log["time_ms"] < moment
    changed = {name: np.concatenate([values[kept], other[name][later]]) for name, values in log.items()}
    assert (~kept).sum() > 20
    assert later.sum() > 20
    again, _ = prepare(write_raw(tmp_path / "raw", changed), tmp_path / "out")

    def early(found):
        return sorted(json.dumps(r, sort_keys=True) for r in found if r["time_ms"] < moment)

    assert len(early(rows)) > 200
    assert early(rows) == early(again)
    # Buckets, scales, vocabularies and base rates come from the training part alone.
    assert load_schema(out / "schema.toml") == load_schema(tmp_path / "out" / "schema.toml")


def test_labels_of_the_impression_itself_do_not_enter_its_inputs(prepared, tmp_path):
    _, log, rows = prepared
    last = {name: values.copy() for name, values in log.items()}
    newest = last["time_ms"] == last["time_ms"].max()
    for name in last:
        if name.startswith("is_") or name == "long_view":
            last[name][newest] ^= 1
    last["play_time_ms"][newest] += 5000
    again, _ = prepare(write_raw(tmp_path / "raw", last), tmp_path / "out")

    def inputs(found):
        return sorted(json.dumps({k: v for k, v in r.items() if "label" not in k}, sort_keys=True) for r in found)

    assert inputs(rows) == inputs(again)
    assert rows != again


def test_schema_fits_the_files(prepared):
    out, _, rows = prepared
    schema = load_schema(out / "schema.toml")
    assert schema.groups == ("interaction", "watch")
    bounds = schema.table_rows()
    for feature in schema.feature:
        if feature.kind == "id":
            values = [r[feature.column] for r in rows]
            flat = values if feature.pooling == "none" else [v for row in values for v in row]
            assert 0 <= min(flat) <= max(flat) < bounds[feature.table], feature.name
        else:
            assert list(feature.boundaries) == sorted(set(feature.boundaries))
    training = [r for r in rows if r["split"] == "train"]
    for task in schema.task[:-1]:
        counted = [r[task.column] for r in training if not task.weight_column or r[task.weight_column]]
        assert task.base_rate == pytest.approx(np.mean(counted), abs=1e-6)
    assert not any("month" in f.name for f in schema.feature)


def test_watch_seconds_are_of_videos_whose_duration_is_known(prepared):
    out, log, rows = prepared
    task = load_schema(out / "schema.toml").task[-1]
    assert (task.name, task.kind, task.unit, task.group) == ("watch_seconds", "regression", "s", "watch")
    expected = sorted(
        (r["time_ms"], r["play_time_ms"] / 1000 if r["known"] else 0, r["duration_ms"] / 1000 if r["known"] else -1)
        for r in merged(log)
    )
    last = max(t for t, *_ in expected)
    found = sorted((r["time_ms"], r[task.column], -1 if r[task.duration] is None else r[task.duration]) for r in rows)
    assert found == [pytest.approx(e, rel=1e-6) for e in expected if e[0] >= found[0][0]]
    assert last == found[-1][0]
    known = [r[task.column] for r in rows if r["split"] == "train" and r[task.weight_column]]
    assert (task.values.mean, task.values.std) == pytest.approx((np.mean(known), np.std(known)), rel=1e-6)
    assert all(boundary in (5, 20, 90) for boundary in task.values.duration_boundaries)


def test_users_and_videos_that_side_tables_lack_are_unknown(prepared):
    _, _, rows = prepared
    assert {0} < {r["author"] for r in rows}
    assert {0} < {r["user_active_degree"] for r in rows}
    assert any(r["tags"] == [] for r in rows)
    assert any(len(r["tags"]) == 2 for r in rows)


def test_a_log_alone_is_enough(tmp_path):
    rows, said = prepare(write_raw(tmp_path / "raw", make_log(), side=False), tmp_path / "out")
    assert sum("left out" in line for line in said) == 3
    names = {f.name for f in load_schema(tmp_path / "out" / "schema.toml").feature}
    assert {"user", "video", "tab", "user_count", "video_like"} <= names
    assert not names & {"author", "music", "tags", "user_stored_count", "video_age"}
    assert all(r["watched_video"] is not None for r in rows)


def test_several_logs_are_one(tmp_path):
    log = make_log()
    half = log["time_ms"] < START_MS + 3 * DAY_MS
    whole, _ = prepare(write_raw(tmp_path / "whole", log), tmp_path / "out1")
    folder = write_raw(tmp_path / "parts", {n: v[half] for n, v in log.items()})
    other = write_raw(tmp_path / "other", {n: v[~half] for n, v in log.items()}, side=False)
    next(other.glob("log*")).rename(folder / "log_random_5_09.csv")
    parts, _ = prepare(folder, tmp_path / "out2")
    key = json.dumps
    assert sorted(key(r, sort_keys=True) for r in whole) == sorted(key(r, sort_keys=True) for r in parts)


def test_the_months_statistics_are_off_and_warned_of(tmp_path):
    raw = write_raw(tmp_path / "raw", make_log())
    options = KuaiRandOptions(train_days=3, validation_days=1, test_days=1, month_statistics=True)
    _, said = prepare(raw, tmp_path / "out", options)
    assert any("WARNING" in line and "future" in line for line in said)
    assert "month_show_cnt" in {f.name for f in load_schema(tmp_path / "out" / "schema.toml").feature}
    next(raw.glob("video_features_statistic*")).unlink()
    with pytest.raises(DataError, match=r"video_features_statistic_\*, which is not there"):
        prepare(raw, tmp_path / "other", options)


def break_log(change):
    def act(folder: Path) -> None:
        log = make_log()
        change(log)
        write_raw(folder, log)

    return act


def cut(folder: Path) -> None:
    path = next(folder.glob("user_sequences*"))
    path.write_bytes(path.read_bytes()[:200])


def doubled_user(folder: Path) -> None:
    path = next(folder.glob("user_features*"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")


def text_in_log(folder: Path) -> None:
    path = next(folder.glob("log_*"))
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[0], "someone", 1)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda f: [p.unlink() for p in f.glob("log_*")], ["no log_standard_"]),
        (lambda f: next(f.glob("log_*")).write_bytes(b""), ["log_standard", "empty (0 bytes)"]),
        (break_log(lambda log: log.pop("is_like")), ["log_standard", "column 'is_like' is missing"]),
        (break_log(lambda log: log["is_like"].__setitem__(4, 3)), ["'is_like'", "holds 3 in row 5", "0 or 1"]),
        (break_log(lambda log: log["duration_ms"].__setitem__(4, -3)), ["'duration_ms'", "-3 in row 5"]),
        (text_in_log, ["log_standard", "'user_id'", "whole numbers"]),
        (cut, ["user_sequences_small.parquet", "truncated"]),
        (doubled_user, ["user_features", "'user_id'", "holds 0 2 times"]),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(break_it, expected, tmp_path):
    raw = write_raw(tmp_path / "raw", make_log())
    break_it(raw)
    with pytest.raises(DataError) as error:
        prepare(raw, tmp_path / "out")
    for part in expected:
        assert part in str(error.value), error.value
    assert not (tmp_path / "out").exists()


def test_too_many_days_and_a_full_folder_are_refused(prepared, tmp_path):
    raw = write_raw(tmp_path / "raw", make_log())
    with pytest.raises(DataError, match="--train-days 0: the train part would hold no rows"):
        prepare(raw, tmp_path / "out", KuaiRandOptions(train_days=0, validation_days=1, test_days=1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="is there already"):
        prepare(raw, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
