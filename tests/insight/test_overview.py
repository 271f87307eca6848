"""Tables of many runs."""

import json
import shutil

import pytest
from rich.console import Console
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.insight.overview import entries, find_runs, runs_table
from tests.cli import light

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(watched, tmp_path_factory):
    """Two runs, one of them not evaluated yet, and folders that are no runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("done", "deep/training"):
        shutil.copytree(watched[0] / "run", folder / name, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    (folder / "deep" / "training" / "evaluation.json").unlink()
    (folder / "other").mkdir()
    (folder / "other" / "config.toml").write_text("")
    return folder


def shown(table) -> list[str]:
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text().splitlines()


def test_runs_with_their_figures(folder):
    paths = find_runs(folder)
    assert [str(p.relative_to(folder)) for p in paths] == ["deep/training", "done"]
    tree = json.loads((folder / "done" / "evaluation.json").read_text())
    lines = shown(runs_table(folder, entries(folder, paths)))
    [done] = [line for line in lines if "done" in line]
    mean = sum(m["auc"] for m in tree["test"].values()) / 3
    assert [c.strip() for c in done.split("│")[2:4]] == ["home", "22"]
    assert f"{mean:.4f}" in done
    [training] = [line for line in lines if "deep/training" in line]
    assert "22 so far" in training


def test_findings_are_not_counted_where_nothing_was_looked_at(folder, tmp_path):
    shutil.copytree(folder / "done", tmp_path / "looked")
    shutil.copytree(
        folder / "done", tmp_path / "never", ignore=shutil.ignore_patterns("*.npz", "tables.jsonl", "findings.jsonl")
    )
    lines = shown(runs_table(tmp_path, entries(tmp_path, find_runs(tmp_path))))
    rows = {line.split()[1]: line for line in lines if line.startswith("│")}
    assert rows["looked"].split("│")[-2].strip().isdigit()
    assert rows["never"].split("│")[-2].strip() == "-"


def test_commands(folder, tmp_path):
    ended = CliRunner().invoke(app, ["runs", str(folder)])
    assert ended.exit_code == 0
    page = tmp_path / "page.html"
    ended = CliRunner().invoke(app, ["inspect", str(folder / "done"), "--out", str(page)])
    assert ended.output.strip() == f"report: {page}"
    assert page.read_text().startswith("<!doctype html>")
    assert find_runs(tmp_path) == []


@pytest.mark.parametrize("arguments", [["runs"], ["checkpoints", "ls"], ["checkpoints", "prune", "--dry-run"]])
def test_what_only_lists_starts_without_torch(arguments, watched):
    folder = watched[0] / "run"
    process = light.ended(*arguments, folder)
    assert process.stdout.endswith("light\n"), process.stderr
    assert "step-" in process.stdout or "home" in process.stdout or "kept: " in process.stdout
