"""A described log with a label of each kind: prepared, trained for a few steps, and scored without its labels."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from home_dist.prepare.days import DAY_MS
from home_dist.prepare.generic import LogOptions, prepare_log
from home_dist.schema import load_schema
from tests.prepare.test_labels import QUIET
from tests.prepare.watch_log import FIRST_DAY, write_log
from tests.ranks import run


@pytest.mark.distributed
@pytest.mark.slow
def test_a_run_learns_labels_of_every_kind(tmp_path):
    prepare_log(write_log(tmp_path, rows=6000), tmp_path / "data", QUIET, LogOptions(partitions=2))
    (tmp_path / "run.toml").write_text(
        f'run = {{ dir = "{tmp_path / "run"}" }}\ndata = {{ path = "{tmp_path / "data"}" }}\nembedding = {{ dim = 4 }}\n'
        'model = { kind = "mmoe", experts = 2, expert_hidden = [16], expert_dim = 8, tower_hidden = [8] }\n'
        "train = { epochs = 4, batch_size = 128, lr = 0.01 }\nlog = { tensorboard = false }\n"
    )
    ended = run(1, "train", tmp_path / "run.toml", timeout=300)
    assert ended.codes == [0], ended.text
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]
    schema = load_schema(tmp_path / "data/schema.toml")
    assert [t.name for t in schema.task if t.name not in found] == []
    # Videos differ in how long they are watched: better than chance.
    for name in ("seconds", "part", "odds", "level"):
        assert found[name]["xauc"] > 0.55, found[name]
    assert 0 < found["stars"]["log_loss"] < 2


def test_rows_to_be_scored_need_no_labels(tmp_path):
    path = write_log(tmp_path)
    prepare_log(path, tmp_path / "old", QUIET, LogOptions(last_day=FIRST_DAY + 3, hold_out=0.0))
    log = pa.concat_tables(pq.read_table(tmp_path / f"log/{n}.parquet") for n in ("1", "2"))
    new = log.filter(pc.greater_equal(log["ms"], (FIRST_DAY + 4) * DAY_MS))
    for file in (tmp_path / "log").iterdir():
        file.unlink()
    pq.write_table(new.drop_columns(["like", "play_ms", "stars", "tongue"]), tmp_path / "log/new.parquet")
    options = LogOptions(like=tmp_path / "old", for_scores=True, leave_state=False)
    report = prepare_log(path, tmp_path / "scored", QUIET, options)
    assert report["base"]["warnings"] == []
    rows, tasks = pq.read_table(tmp_path / "scored/train"), load_schema(tmp_path / "scored/schema.toml").task
    assert len(rows) == len(new)
    assert all(sum(rows[t.weight_column].to_pylist()) == 0 for t in tasks)
    assert tasks[1].values == load_schema(tmp_path / "old/schema.toml").task[1].values
    # Durations are there nevertheless, as predictions read them.
    assert rows["duration_seconds"].null_count < len(rows) / 5
