"""The README's commands on the sample, as a user starts them, for a few steps."""

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from home_dist.schema import load_schema
from tests import forked
from tests.ranks import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.distributed]

CHINA = datetime.timezone(datetime.timedelta(hours=8))
CONFIG = "configs/kuairand_pure.toml"
SHORT = ("train.max_steps=6", "log.every_steps=2", "data.validation=''", "train.batch_size=256")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-endpoint", "localhost:0"]
TORCHRUN += ["--rdzv-backend", "c10d", "-m", "home_dist.cli"]


def call(*command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return forked.run(list(command), cwd=REPOSITORY, env=environment, timeout=timeout, **pipes)


def train_with_torchrun(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = [part for o in (*SHORT, *more, f"run.dir={folder}") for part in ("--set", o)]
    return call(*TORCHRUN, "train", CONFIG, *options)


def losses(output: str) -> dict[str, str]:
    return dict(re.findall(r"step +(\d+)/\d+ .*?loss ([\d.]+)", output))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "run"
    ended = train_with_torchrun(folder)
    assert ended.returncode == 0, ended.stdout
    return folder, ended.stdout


def test_what_a_run_shows_and_in_which_order(trained):
    folder, output = trained
    signs = [
        r"devices: 2 ranks on CPU, .* \| backend: gloo \| expert kernel: \w+",
        r"sharding plan",
        r"table .*rows .*dim .*sharding .*rank .*bytes",
        r"video .*4,000 .*16 .*_wise .*0, 1 ",
        r"first step done \d+\.\d s after this process began",
        r"step +2/6 +33% \| loss [\d.]+ \| [\d,-]+ samples/s per rank, [\d,-]+ total \| waiting for data [\d.]+% \| ETA 0:0",
        r"step +6/6 +100%",
        r"evaluation: test",
        r"task .*positives .*AUC .*GAUC .*log loss .*calibration",
        r"effective_view .*12,503",
        r"mean ",
        rf"checkpoint: +{folder}/checkpoints/step-00000006",
        rf"tensorboard: +{folder}/tensorboard",
        rf"config: +{folder}/config.toml",
    ]
    assert output.count("first step done") == 1
    at = 0
    for sign in signs:
        found = re.compile(sign).search(output, at)
        assert found, f"{sign!r} is not where it should be in:\n{output[at:]}"
        at = found.end()
    assert (folder / "checkpoints" / "step-00000006" / "manifest.json").is_file()
    assert list((folder / "tensorboard").glob("events.*"))
    assert json.loads((folder / "evaluation.json").read_text())["step"] == 6


def test_torchx_does_the_same_job(trained, tmp_path):
    _, output = trained
    options = [f"--set={SHORT[0]}", *SHORT[1:], f"run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "torchx.cli.main", "run", "-cfg", f"log_dir={tmp_path / 'logs'}"]
    ended = call(*command, "launchers/components.py:train", "--config", CONFIG, "-j", "1x2", "--set", SHORT[0], *options[1:])
    assert ended.returncode == 0, ended.stdout
    assert losses(ended.stdout) == losses(output)
    assert len(losses(output)) == 3


def test_again_says_complete_and_changes_nothing(trained):
    folder, _ = trained
    before = {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").rglob("*")}
    ended = train_with_torchrun(folder)
    assert ended.returncode == 0, ended.stdout
    assert "run complete" in ended.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").rglob("*")}


@pytest.mark.slow
def test_more_steps_go_on_from_the_checkpoint(trained, tmp_path):
    folder, _ = trained
    subprocess.run(["cp", "-r", str(folder), str(tmp_path / "run")], check=True)
    ended = train_with_torchrun(tmp_path / "run", "train.max_steps=8")
    assert ended.returncode == 0, ended.stdout
    assert "step 6 of 8" in ended.stdout
    assert list(losses(ended.stdout)) == ["8"]


def test_evaluate_on_one_rank_gives_the_run_s_figures(trained):
    folder, output = trained
    ended = call(sys.executable, "-m", "home_dist.cli", "evaluate", str(folder), "--split", "test")
    assert ended.returncode == 0, ended.stdout

    def table(text: str) -> list[str]:
        return [line for line in text[text.index("evaluation: test") :].splitlines() if line.startswith("│")]

    assert table(ended.stdout) == table(output)
    assert len(table(output)) == 9


def test_doctor_finds_this_machine_fit():
    ended = call(sys.executable, "-m", "home_dist.cli", "doctor")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("0 problems")
    assert "PROBLEM" not in ended.stdout


def test_the_sample_is_what_its_report_says():
    folder = REPOSITORY / "examples" / "kuairand_pure"
    report = json.loads((folder / "report.json").read_text())
    schema = load_schema(folder / "schema.toml")
    assert schema.groups == ("interaction", "watch")
    assert [t.group for t in schema.task] == ["interaction"] * 5 + ["watch"] * 4
    assert list(report["splits"]) == ["train", "validation", "test"]
    for name, told in report["splits"].items():
        rows = pq.read_table(folder / name)
        assert told["rows"] == rows.num_rows
        assert told["users"] == len(rows[schema.group_column].unique())
        binary = [t for t in schema.task if t.kind == "binary"]
        assert told["positives"] == {t.name: pc.sum(rows[t.column]).as_py() for t in binary}
        watched = report["numbers"]["watch_seconds"]["splits"][name]
        known = rows.filter(pc.equal(rows["watch_known"], 1))["label_watch_seconds"].to_numpy().astype(float)
        assert (watched["known"], watched["mean"]) == (len(known), pytest.approx(known.mean()))
        assert told["watch_unknown"] == pc.sum(pc.equal(rows["watch_known"], 0)).as_py()
        ends = pc.min_max(rows[schema.time_column]).as_py()
        days = [datetime.datetime.fromtimestamp(ends[e] / 1000, CHINA).date().isoformat() for e in ("min", "max")]
        assert told["days"] == days
    assert "CC BY-SA 4.0" in report["source"]
    assert (folder / "LICENSE.txt").read_text().startswith("Attribution-ShareAlike 4.0 International")
