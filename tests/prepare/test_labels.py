"""Labels that are numbers or classes: stored values and fitted facts against numpy over all training rows, and bad input."""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.cli import app
from home_dist.errors import ConfigError, DataError
from home_dist.insight.prepared_page import write_page
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.drift import drift
from home_dist.prepare.engine.spill import one_batch, write_batches
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.prepare.generic.label_summary import _tables
from home_dist.prepare.key_parts import pieces_of
from home_dist.prepare.label_values import PAIRS, ClassFacts, NumberFacts
from home_dist.prepare.progress import Progress
from home_dist.prepare.summary import part_lines
from home_dist.schema import LabelValues, load_schema
from tests.prepare.watch_log import FIRST_DAY, HEAD, LABELS, raw_rows, write_log

QUIET = Progress(lambda text: None)
POINTS = np.linspace(0, 1, 101)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    report = prepare_log(write_log(folder), folder / "out", QUIET, LogOptions(partitions=3))
    return folder, report


def tasks(out):
    return {t.name: t for t in load_schema(out / "schema.toml").task}


def changed(folder, name, place, value, kind=None):
    """Writes `value` into row `place` of log/2.parquet."""
    path = folder / "log/2.parquet"
    table = pq.read_table(path)
    values = table.column(name).to_pylist()
    values[place] = value
    kind = kind or table.schema.field(name).type
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values, kind)), path)


def training_numbers(folder, with_duration=True, cap=None):
    rows = [r for r in raw_rows(folder) if r["day"] < 3 and r["play_ms"] is not None]
    rows = [r for r in rows if not with_duration or (r["length_ms"] or 0) > 0]
    y = np.array([r["play_ms"] * 0.001 for r in rows]).astype(np.float32)
    return y if cap is None else np.minimum(y, np.float32(cap)), np.array([(r["length_ms"] or 0) / 1000 for r in rows])


@pytest.mark.parametrize(
    ("name", "cap", "count"), [("seconds", 60, 32), ("part", None, 32), ("odds", None, 32), ("level", None, 8)]
)
def test_facts_of_numbers_are_numpys(name, cap, count, prepared):
    folder, _ = prepared
    task = tasks(folder / "out")[name]
    y, _ = training_numbers(folder, name != "level", cap)
    y = y.astype(np.float64)
    facts = task.values
    assert (facts.mean, facts.std) == pytest.approx((y.mean(), y.std()), rel=1e-8)
    assert (facts.log_mean, facts.log_std) == pytest.approx((np.log1p(y).mean(), np.log1p(y).std()), rel=1e-8)
    wanted = np.unique(np.quantile(y[y > 0], 0.999 * np.arange(1, count + 1) / count, method="inverted_cdf"))
    assert np.float32(facts.thresholds).tolist() == np.float32(wanted).tolist()
    assert facts.above == pytest.approx([(y > t).mean() for t in wanted], abs=1e-9)
    assert (np.float32(facts.thresholds) > 0).all()
    assert task.unit == "s"


def test_quantiles_by_duration_are_numpys(prepared):
    folder, _ = prepared
    facts = tasks(folder / "out")["part"].values
    y, length = training_numbers(folder)
    assert len(facts.duration_boundaries) == 3
    assert list(facts.duration_boundaries) == np.quantile(length, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    group = np.searchsorted(facts.duration_boundaries, length, side="right")
    for number, quantiles in enumerate(facts.quantiles):
        wanted = np.quantile(y[group == number], POINTS, method="inverted_cdf")
        assert np.float32(quantiles).tolist() == wanted.tolist()


def test_shares_of_classes_are_counts(prepared):
    folder, _ = prepared
    rows = [r for r in raw_rows(folder) if r["day"] < 3]
    stars, tongue = (tasks(folder / "out")[n] for n in ("stars", "tongue"))
    known = [r["stars"] for r in rows if r["stars"] is not None]
    assert stars.values.shares == pytest.approx([known.count(c) / len(known) for c in range(1, 6)], abs=1e-9)
    tongues = [r["tongue"] for r in rows]
    assert tongue.values.shares == pytest.approx([tongues.count(c) / len(rows) for c in ("zh", "en", "de")], abs=1e-9)
    assert (stars.classes, tongue.classes, stars.weight_column, tongue.weight_column) == (5, 3, "known_stars", None)


def test_rows_hold_the_values_and_their_weights(prepared):
    folder, _ = prepared
    task = tasks(folder / "out")
    assert task["seconds"].duration == task["part"].duration == task["odds"].duration == "duration_seconds"
    assert task["seconds"].means == "play_ms * 0.001, cut to 60, beside the duration length_ms * 0.001"
    assert task["stars"].means == "class of stars, one of 1, 2, 3, 4, 5"
    found = [r for split in ("train", "validation", "test") for r in pq.read_table(folder / "out" / split).to_pylist()]
    schema = pq.read_schema(folder / "out/test/part-00000.parquet")
    assert (schema.field("label_seconds").type, schema.field("label_stars").type) == (pa.float32(), pa.int8())

    def told(row):
        long = (row["length_ms"] or 0) > 0
        played = None if row["play_ms"] is None else np.float32(row["play_ms"] * 0.001)
        return {
            "time_ms": row["ms"],
            "label_seconds": min(played, np.float32(60)) if long and played is not None else 0,
            "known_seconds": int(long and played is not None),
            "label_level": 0 if played is None else played,
            "known_level": int(played is not None),
            "duration_seconds": np.float32(row["length_ms"] * 0.001) if long else None,
            "label_stars": 0 if row["stars"] is None else row["stars"] - 1,
            "known_stars": int(row["stars"] is not None),
            "label_tongue": ("zh", "en", "de").index(row["tongue"]),
        }

    wanted = [told(r) for r in raw_rows(folder)]
    assert sorted([{k: r[k] for k in wanted[0]} for r in found], key=repr) == sorted(
        [{k: float(v) if isinstance(v, np.float32) else v for k, v in r.items()} for r in wanted], key=repr
    )


def test_facts_are_of_training_days_alone(prepared, tmp_path):
    """Wild values of the test day change nothing but that day."""
    folder, _ = prepared
    path = write_log(tmp_path)
    rows = raw_rows(tmp_path)
    for file, part in (("1", rows[:750]), ("2", rows[750:])):
        table = pq.read_table(tmp_path / f"log/{file}.parquet")
        play = [10**9 if r["day"] >= 3 else p for r, p in zip(part, table.column("play_ms").to_pylist(), strict=True)]
        stars = [5 if r["day"] >= 3 else s for r, s in zip(part, table.column("stars").to_pylist(), strict=True)]
        for name, values in (("play_ms", play), ("stars", stars)):
            table = table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))
        pq.write_table(table, tmp_path / f"log/{file}.parquet")
    report = prepare_log(path, tmp_path / "out", QUIET, LogOptions())
    assert {n: t.values for n, t in tasks(tmp_path / "out").items()} == {n: t.values for n, t in tasks(folder / "out").items()}
    assert report["numbers"]["odds"]["splits"]["test"]["quantiles"][-1] == 10**6


def test_a_million_rows_take_bounded_memory():
    draw = np.random.default_rng(0)
    facts = NumberFacts(has_duration=True)
    parts = []
    for _ in range(20):
        duration = np.round(draw.lognormal(3, 1, 50_000), 3)
        y = np.float32(np.where(draw.random(50_000) < 0.3, 0, duration * draw.beta(1, 2, 50_000))).astype(np.float64)
        facts.add(y, duration)
        parts.append((y, duration))
    assert facts._pairs.held < PAIRS * 6
    y, duration = (np.concatenate(c) for c in zip(*parts, strict=True))
    values = facts.values()
    assert (values.mean, values.std) == pytest.approx((y.mean(), y.std()), rel=1e-8)
    assert len(values.thresholds) == 32
    shares = np.diff([np.mean(y[y > 0] <= np.float32(t)) for t in (0, *values.thresholds)])
    assert np.abs(shares - 0.999 / 32).max() < 0.002
    assert np.abs(np.array(values.above) - [(y > np.float32(t)).mean() for t in values.thresholds]).max() < 0.002
    assert len(values.duration_boundaries) == 29
    group = np.searchsorted(values.duration_boundaries, duration, side="right")
    assert np.abs(np.bincount(group) / len(y) - 1 / 30).max() < 0.002
    for number, quantiles in enumerate(values.quantiles):
        own = np.sort(y[group == number])
        low, high = (np.searchsorted(own, np.float32(quantiles), side=side) / len(own) for side in ("left", "right"))
        assert np.maximum(low - POINTS, POINTS - high).max() < 0.04


def test_rows_come_in_blocks_however_the_log_was_cut(tmp_path):
    table = pa.table({"x": np.arange(750), "left out": np.arange(750), "y": np.arange(750) / 2})
    read = []
    for name, bounds in (("one", [0, 750]), ("many", [0, 0, 1, 99, 330, 640, 640, 750])):
        paths = [tmp_path / f"{name}-{number}.arrow" for number in range(len(bounds) - 1)]
        for path, (first, last) in zip(paths, pairwise(bounds), strict=True):
            write_batches(path, [one_batch(table.slice(first, last - first))], table.schema)
        read.append([block.to_pydict() for block in pieces_of(_tables(paths, ["x", "y"]), 100)])
    assert read[0] == read[1]
    assert [len(block["x"]) for block in read[0]] == [100] * 7 + [50]
    assert list(read[0][0]) == ["x", "y"]


def test_small_groups_of_durations_are_merged():
    facts = NumberFacts(has_duration=True)
    duration = np.repeat([1.0, 2.0, 3.0, 4.0], [60, 20, 70, 30])
    facts.add(np.arange(180.0), duration)
    values = facts.values(duration_groups=100)
    assert values.duration_boundaries == (2.0,)  # 60 rows; 20 + 70 + 30, as neither 20 nor 30 would do
    assert values.quantiles[0][-1] == 59
    few = NumberFacts(has_duration=True)
    few.add(np.arange(9.0), np.arange(1.0, 10.0))
    assert (few.values().duration_boundaries, len(few.values().quantiles)) == ((), 1)


def test_equal_labels_and_none():
    assert NumberFacts().values() is None
    assert ClassFacts(3).values() is None
    zeros, fives = NumberFacts(), NumberFacts()
    zeros.add(np.zeros(10))
    fives.add(np.full(10, 5.0))
    assert zeros.values() == LabelValues()
    assert (fives.values().mean, fives.values().std, fives.values().thresholds) == (5, 1, (5,))
    negative = NumberFacts()
    negative.add(np.array([-3.0, -1.0, 4.0]))
    assert (negative.values().log_mean, negative.values().log_std, negative.values().thresholds) == (0, 1, (4,))


def described(folder, change=("", "")):
    path = write_log(folder)
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ('kind = "ordinal"', 'kind = "ordinal", at_least = 3'),
            r"label 'level': at_least is for binary labels, not for kind ordinal",
        ),
        (
            ('column = "like"', 'column = "like", unit = "s"'),
            r"label 'like': unit is for labels that are numbers, not for kind binary",
        ),
        ((", classes = [1, 2, 3, 4, 5]", ""), r"label 'stars': kind multiclass needs `classes`"),
        (("[1, 2, 3, 4, 5]", "[1, 2, 2]"), r"label 'stars': classes: 2 stands twice"),
        (("thresholds = 8", "thresholds = [1, 2, 2]"), r"label 'level': thresholds must increase strictly"),
        (("thresholds = 8", "thresholds = [0, 2]"), r"label 'level': thresholds must be numbers above 0"),
        (("thresholds = 8", 'kind_ = "x"'), r"kind_"),
        (("scale = 0.001", "scale = 0"), r"scale: .*greater than 0"),
        (("thresholds = 8", "duration_groups = 3"), r"label 'level': duration_groups needs `duration`"),
        (
            ('kind = "ordinal", thresholds = 8', 'kind = "duration_quantile"'),
            r"label 'level': kind duration_quantile needs `duration`",
        ),
        (
            ("label = [", 'past = [{ by = ["video"], rates = ["like", "seconds"] }]\nlabel = ['),
            r"past by video: rates: label 'seconds' has kind regression, .* there are: like\.",
        ),
        (
            ("label = [", 'history = [{ fields = ["video"], outcomes = ["stars"] }]\nlabel = ['),
            r"history 'history': outcomes: label 'stars'",
        ),
        (
            ("label = [", 'history = [{ fields = ["video"], only = "level" }]\nlabel = ['),
            r"history 'history': only: label 'level'",
        ),
        (('name = "odds"', 'name = "odds", duration_scale = 1'), None),
    ],
)
def test_a_description_that_cannot_be_is_refused(change, says, tmp_path):
    path = described(tmp_path, change)
    if says is None:  # two durations: each has its column
        prepare_log(path, tmp_path / "out", QUIET)
        assert {t.duration for t in tasks(tmp_path / "out").values()} == {None, "duration_seconds", "duration_odds"}
        return
    with pytest.raises(ConfigError, match=says):
        prepare_log(path, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "kind", "says"),
    [
        (
            "play_ms",
            -1,
            None,
            r"log/2\.parquet: column 'play_ms' of label 'part' holds -1 in row 12; a finite number >= 0 is needed",
        ),
        (
            "play_ms",
            float("nan"),
            pa.float64(),
            r"column 'play_ms' of label 'seconds' holds nan in row 12; a finite number is needed",
        ),
        ("play_ms", float("inf"), pa.float64(), r"column 'play_ms' of label 'seconds' holds inf in row 12"),
        ("play_ms", 1e300, pa.float64(), r"holds 1e\+300 in row 12"),
        (
            "video",
            9,
            None,
            r"log/2\.parquet: column 'length_ms', the duration of label 'seconds', holds 0 in row 12; a number above 0",
        ),
        ("video", 77, None, r"column 'length_ms', the duration of label 'seconds', holds null in row 12"),
        (
            "stars",
            6,
            None,
            r"column 'stars' of label 'stars' holds 6 in row 12; one of 1, 2, 3, 4, 5 is needed\. .*bad = \"unknown\"",
        ),
        ("stars", 2.5, pa.float64(), r"column 'stars' of label 'stars' holds 2\.5 in row 12"),
        ("tongue", "fr", None, r"column 'tongue' of label 'tongue' holds 'fr' in row 12; one of 'zh', 'en', 'de' is needed"),
        ("tongue", None, None, None),
    ],
)
def test_bad_values_end_the_preparation_or_are_unknown(name, value, kind, says, tmp_path):
    path = described(tmp_path, (', bad = "unknown"', ""))
    side = (tmp_path / "video.csv").read_text().splitlines()
    (tmp_path / "video.csv").write_text("\n".join(line.replace(",0", ",5000") if line != "9,0" else line for line in side))
    rows = raw_rows(tmp_path)
    for number, row in enumerate(rows[750:]):  # rows of video 9 have no duration
        if row["video"] == 9 and row["play_ms"] is not None:
            changed(tmp_path, "play_ms", number, None)
    first = pq.read_table(tmp_path / "log/1.parquet")
    pq.write_table(first.filter(pa.array([v != 9 for v in first.column("video").to_pylist()])), tmp_path / "log/1.parquet")
    changed(tmp_path, "play_ms", 11, 4000)
    changed(tmp_path, "video", 11, 3)
    changed(tmp_path, name, 11, value, kind)
    if says is not None:
        with pytest.raises(DataError, match=says):
            prepare_log(path, tmp_path / "out", QUIET)
        assert not (tmp_path / "out").exists()
    text = path.read_text().replace('group = "', 'bad = "unknown", group = "')
    path.write_text(text.replace('bad = "unknown", group = "mark", column = "like"', 'group = "mark", column = "like"'))
    time = pq.read_table(tmp_path / "log/2.parquet").column("ms")[11].as_py()
    prepare_log(path, tmp_path / "out", QUIET)
    found = [r for split in ("train", "validation", "test") for r in pq.read_table(tmp_path / "out" / split).to_pylist()]
    (row,) = [r for r in found if r["time_ms"] == time]
    known = {n: row.get(f"known_{n}", 1) for n in ("seconds", "part", "odds", "level", "stars", "tongue")}
    spoiled = {"stars": {"stars"}, "tongue": {"tongue"}, "video": {"seconds", "part", "odds"}}.get(
        name, {"part", "odds", "level"} | ({"seconds"} if value != -1 else set())
    )
    assert {n for n, k in known.items() if not k} == spoiled | ({"stars"} if row["known_stars"] == 0 else set())
    assert all(row[f"label_{n}"] == 0 for n in spoiled)


def test_a_label_of_one_value_is_a_warning(tmp_path):
    path = described(tmp_path)
    for file in ("1", "2"):
        table = pq.read_table(tmp_path / f"log/{file}.parquet")
        rows = len(table)
        for name, values in (("play_ms", [0] * rows), ("stars", [3] * rows), ("tongue", [None] * rows)):
            table = table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))
        pq.write_table(table, tmp_path / f"log/{file}.parquet")
    report = prepare_log(path, tmp_path / "out", QUIET)
    lines = [line for line in part_lines(report) if line.startswith("WARNING")]
    assert "WARNING: label 'seconds' is 0 in all training rows that know it: nothing is learned of it" in lines
    assert "WARNING: label 'stars' is 3 in all training rows that know it: nothing is learned of it" in lines
    assert any("no training row knows label 'tongue'" in line for line in lines)
    assert tasks(tmp_path / "out")["tongue"].values is None


def test_like_keeps_the_facts_and_anew_fits_them(tmp_path):
    path = write_log(tmp_path)
    text = path.read_text()
    options = LogOptions(last_day=19_675 + 3)
    path.write_text(text.replace("train_days = 3", "train_days = 2"))
    prepare_log(path, tmp_path / "old", QUIET, options)
    path.write_text(path.read_text().replace("thresholds = 8", "thresholds = [1, 2]").replace(', bad = "unknown"', ""))
    with pytest.raises(DataError, match="the duration of label 'seconds'"):  # `bad` may differ
        prepare_log(path, tmp_path / "fails", QUIET, LogOptions(like=tmp_path / "old"))
    path.write_text(path.read_text().replace(NUMBER_WITHOUT_BAD, NUMBER_WITHOUT_BAD + ', bad = "unknown"'))
    prepare_log(path, tmp_path / "kept", QUIET, LogOptions(like=tmp_path / "old"))
    report = prepare_log(path, tmp_path / "anew", QUIET, LogOptions(like=tmp_path / "old", anew=("level", "stars")))
    old, kept, anew = (tasks(tmp_path / name) for name in ("old", "kept", "anew"))
    assert {n: t.values for n, t in kept.items()} == {n: t.values for n, t in old.items()}
    for name, task in anew.items():
        assert (task.values == old[name].values) == (name not in ("level", "stars"))
    assert anew["level"].values.thresholds == (1, 2)
    assert report["numbers"]["level"]["histogram"]["thresholds"] == [1, 2]
    with pytest.raises(ConfigError, match=r"--anew likes: no statistic of the description, nor a label that is not binary"):
        prepare_log(path, tmp_path / "no", QUIET, LogOptions(like=tmp_path / "old", anew=("likes",)))


NUMBER_WITHOUT_BAD = 'scale = 0.001, unit = "s", duration = "length_ms"'


def test_a_label_of_text_needs_texts(tmp_path):
    path = write_log(tmp_path, labels=LABELS.replace("[1, 2, 3, 4, 5]", '["1", "2"]'))
    with pytest.raises(
        DataError, match=r"column 'stars' has type int64, but texts, as the classes of label 'stars' are, are needed"
    ):
        prepare_log(path, tmp_path / "out", QUIET)
    path.write_text(HEAD + LABELS.replace('column = "play_ms"', 'column = "tongue"'))
    with pytest.raises(DataError, match=r"column 'tongue' has type string, but numbers are needed"):
        prepare_log(path, tmp_path / "out", QUIET)


def test_buckets_shows_thresholds_quantiles_and_shares(prepared, capsys):
    folder, _ = prepared
    app(["buckets", str(folder / "out"), "part", "stars"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    facts = tasks(folder / "out")["part"].values
    assert lines[0] == "part (duration_quantile, s, column label_part)"
    assert lines[2].split() == ["threshold", "rows", "above"]
    for line, threshold, above in zip(lines[3:], facts.thresholds, facts.above, strict=False):
        assert line.split() == [f"{threshold:g}", f"{above:.2%}"]
    table = lines[4 + len(facts.thresholds) :]
    assert table[0].split() == ["from", "below", "0%", "10%", "25%", "50%", "75%", "90%", "100%"]
    first, second = facts.duration_boundaries[:2]
    wanted = [first, second, *(facts.quantiles[1][p] for p in (0, 10, 25, 50, 75, 90, 100))]
    assert table[2].split() == [f"{value:g}" for value in wanted]
    assert table[5] == "stars (multiclass, column label_stars)"
    assert table[7].split() == ["0", f"{tasks(folder / 'out')['stars'].values.shares[0]:.3%}"]
    app(["buckets", str(folder / "out")], standalone_mode=False)
    told = capsys.readouterr().out
    assert all(f"{name} (" in told for name in ("length_ms", "seconds", "level", "tongue"))
    assert "like (" not in told


def test_drift_of_numbers_and_classes_is_told(tmp_path):
    """The last day's watch times are three times as long, half of its stars are 1, and many of its tongues are unknown."""
    path = write_log(tmp_path, rows=6000, labels=LABELS.replace('"de"]', '"de"], bad = "unknown"'))
    text = path.read_text()
    path.write_text(text.replace("train_days = 3", "train_days = 2"))
    before = prepare_log(path, tmp_path / "old", QUIET, LogOptions(last_day=FIRST_DAY + 3))
    same = prepare_log(path, tmp_path / "same", QUIET, LogOptions(like=tmp_path / "old"))["base"]
    assert same["warnings"] == []
    for file in ("1", "2"):
        table = pq.read_table(tmp_path / f"log/{file}.parquet")
        last = table["ms"].to_numpy() // DAY_MS == FIRST_DAY + 4
        odd = np.arange(len(table)) % 2 == 1
        for name, changed_to in (
            (
                "play_ms",
                [v if v is None or not at else 3 * v for v, at in zip(table["play_ms"].to_pylist(), last, strict=True)],
            ),
            ("stars", [1 if at else v for v, at in zip(table["stars"].to_pylist(), last & odd, strict=True)]),
            ("tongue", ["fr" if at else v for v, at in zip(table["tongue"].to_pylist(), last & odd, strict=True)]),
        ):
            column = pa.array(changed_to, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, tmp_path / f"log/{file}.parquet")
    report = prepare_log(path, tmp_path / "new", QUIET, LogOptions(like=tmp_path / "old"))
    found, folder = report["base"], tmp_path / "old"
    crossed = {n: e["crossed"] for kind in ("numbers", "classes") for n, e in found[kind].items()}
    both = ["mean", "psi"]
    assert crossed == {"seconds": both, "part": both, "odds": both, "level": both, "stars": ["psi"], "tongue": ["missing"]}
    old, new, entry = before["numbers"]["odds"], report["numbers"]["odds"], found["numbers"]["odds"]
    means = [r["splits"]["train"]["mean"] for r in (old, new)]
    assert entry["shift"] == pytest.approx((means[1] - means[0]) / old["splits"]["train"]["deviation"], abs=1e-5)
    shares = [np.maximum(np.array(r["histogram"]["buckets"]) / r["splits"]["train"]["known"], 1e-4) for r in (old, new)]
    assert entry["psi"] == pytest.approx(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum(), abs=1e-5)
    assert (
        f"label odds has the mean {means[1]:.4g}; in {folder}, {means[0]:.4g}, by {entry['shift']:.2f} deviations"
        in found["warnings"]
    )
    assert any(w.startswith("label stars has other values than in") for w in found["warnings"])
    write_page(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<td class="worse">1\.\d\d\d', page) or re.findall(r'<td class="worse">0\.\d\d\d', page)
    assert all(title in page for title in ("Labels that are numbers", "Labels that are classes"))
    assert drift({k: v for k, v in before.items() if k not in ("numbers", "classes")}, report, "older")["numbers"] == {}


@pytest.mark.parametrize("value", [33.3, 0.1, 236.1967, 1e6])
@pytest.mark.parametrize("rows", [3, 1000])
def test_a_constant_label_has_deviation_1(value, rows):
    facts = NumberFacts()
    facts.add(np.full(rows, value), None)
    values = facts.values()
    assert (values.std, values.log_std) == (1.0, 1.0)
