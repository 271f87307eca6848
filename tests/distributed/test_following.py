"""A run that follows its data: folders count when they hold _SUCCESS, each row is read once, a stop changes nothing."""

import shutil
import signal
import time

import pyarrow.parquet as pq
import pytest
import torch

from home_dist.training.checkpoint.reading import open_stored
from tests.factory import make_config, make_data, make_rows
from tests.ranks import finish, run, settings, start

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
DAYS = {"day=1": 300, "day=2": 170}
FOLLOW = {"data__follow": "success", "data__follow_poll_seconds": 0.2, "train__decay": "none", "train__epochs": 1}
OPTIONS = settings(
    **FOLLOW, data__validation="''", data__test="''", data__follow_idle_minutes=0.25, log__every_steps=1, embedding__dropout=0.1
)


def prepared(folder):
    data = make_data(folder / "data", rows=10, files=1, splits=("train",))
    shutil.rmtree(data / "train")
    write(data, "day=1")
    (data / "train" / "day=1" / "_SUCCESS").touch()
    return data


def write(data, day):
    """Without telling that it is whole."""
    target = data / "train" / day
    target.mkdir(parents=True)
    number = list(DAYS).index(day)
    pq.write_table(make_rows(DAYS[day], seed=number, first_id=1000 * number), target / "part-0.parquet", row_group_size=50)


def read_until(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def followed_to_the_end(ranks, config, data):
    """The second day comes while the run waits; it counts once it is said to be whole."""
    processes = start(ranks, "train", config, *OPTIONS)
    told = read_until(processes[0], "waiting for new files")
    write(data, "day=2")
    time.sleep(1.5)
    (data / "train" / "day=2" / "_SUCCESS").touch()
    ended = finish(processes, timeout=120)
    assert ended.codes == [0] * ranks, told + ended.text
    return told + ended.text


def newest(folder):
    return open_stored(sorted((folder / "run" / "checkpoints").glob("step-*"))[-1])


def made(folder):
    folder.mkdir()
    data = prepared(folder)
    return data, make_config(folder, data, batch_size=16)


def test_a_stop_within_a_round_changes_nothing(tmp_path):
    data, config = made(tmp_path / "whole")
    text = followed_to_the_end(2, config, data)
    assert "round 0: 1 files, 300 rows, 10 steps to go" in text
    assert "round 1: 1 files, 170 rows, 6 steps to go" in text
    assert "nothing new in" in text
    stored, record = newest(tmp_path / "whole")
    assert (record.state.step, record.state.samples) == (16, 470)
    assert record.state.rounds == [["day=1/part-0.parquet"], ["day=2/part-0.parquet"]]

    data, config = made(tmp_path / "stopped")
    first = run(2, "train", config, *OPTIONS, *settings(train__max_steps=4))
    assert first.codes == [0, 0], first.text
    text = followed_to_the_end(2, config, data)
    assert "round 0: 1 files, 300 rows, 6 steps to go" in text
    again, _ = newest(tmp_path / "stopped")
    assert stored.tensors.keys() == again.tensors.keys()
    assert [n for n in stored.tensors if not torch.equal(stored.whole(n), again.whole(n))] == []

    data, config = made(tmp_path / "fewer")
    assert run(2, "train", config, *OPTIONS, *settings(train__max_steps=4)).codes == [0, 0]
    followed_to_the_end(1, config, data)
    assert newest(tmp_path / "fewer")[1].state.samples == 470


def test_a_signal_ends_the_wait(tmp_path):
    _, config = made(tmp_path / "waits")
    processes = start(2, "train", config, *OPTIONS, *settings(data__follow_idle_minutes=10))
    told = read_until(processes[0], "waiting for new files")
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes, timeout=60)
    assert ended.codes == [75, 75], told + ended.text
    assert "asked to leave while waiting for data" in ended.text


def test_a_folder_that_is_not_there_is_named(tmp_path):
    data, config = made(tmp_path / "refused")
    shutil.rmtree(data / "train")
    ended = run(1, "train", config, *OPTIONS)
    assert ended.codes == [3]
    assert "no such folder" in ended.text


def test_files_without_rows_end_no_run(tmp_path):
    """Alone in a look, at the start and later, and among others."""
    data = make_data(tmp_path / "data", rows=10, files=1, splits=("train",))
    shutil.rmtree(data / "train")
    for day in ("day=0", "day=1", "day=3"):
        (data / "train" / day).mkdir(parents=True)
    empty = make_rows(1).slice(0, 0)
    pq.write_table(empty, data / "train" / "day=0" / "a.parquet")
    (data / "train" / "day=0" / "_SUCCESS").touch()
    config, options = make_config(tmp_path, data), [*OPTIONS, *settings(data__follow_idle_minutes=0.1)]
    for _ in range(2):  # the same command ends the same way again
        alone = run(2, "train", config, *options)
        assert alone.codes == [0, 0], alone.text
        assert "1 files without rows have arrived, such as day=0/a.parquet: passed over" in alone.text
    write(data, "day=2")
    pq.write_table(empty, data / "train" / "day=2" / "empty.parquet")
    (data / "train" / "day=2" / "_SUCCESS").touch()
    together = run(2, "train", config, *options)
    assert together.codes == [0, 0], together.text
    assert f"3 files, {DAYS['day=2']} rows" in together.text
    (data / "train" / "day=3" / "_SUCCESS").touch()
    pq.write_table(empty, data / "train" / "day=3" / "b.parquet")
    again = run(2, "train", config, *options)
    assert again.codes == [0, 0], again.text
    assert "1 files without rows have arrived, such as day=3/b.parquet: passed over" in again.text
