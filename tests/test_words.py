"""What a new user reads: help that nothing eats, and a folder by its whole name."""

import importlib
import re
import subprocess

import pytest
from pyarrow import fs
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.distributed.preemption import Preempted
from home_dist.errors import DataError, UserError
from home_dist.files.listing import list_files
from home_dist.files.stores import Store
from home_dist.training.refusals import NotFinite
from tests.ranks import REPOSITORY


def test_help_is_whole():
    text = " ".join(CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"}).output.split())
    assert "a new run begins with; section checkpoint.warm_start says more." in text


def test_a_relative_folder_is_named_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"data/train \(that is {tmp_path}/data/train, .* working folder\): no such folder"):
        list_files(Store(fs.LocalFileSystem(), ""), "data/train")


def test_the_page_of_clusters_has_all_exit_codes():
    """Of every error that is meant for users, wherever it is defined."""

    def kinds(kind):
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    for path in (REPOSITORY / "home_dist").rglob("*.py"):
        if "UserError" in path.read_text() and path.stem != "__main__":
            importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    section = (
        (REPOSITORY / "docs" / "howto" / "cluster.md").read_text().partition("| exit code of a rank |")[2].partition("\n\n")[0]
    )
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert {NotFinite.exit_code, Preempted.exit_code} <= told
    assert told == {kind.exit_code for kind in kinds(UserError) if kind.__module__.startswith("home_dist.")}


def test_no_merge_is_half_done():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False).stdout.decode()
    paths = [REPOSITORY / name for name in listed.split("\0") if name] or list(REPOSITORY.rglob("*.md"))
    texts = [p for p in paths if p.suffix in (".md", ".py", ".toml", ".h", ".hpp", ".cpp", ".sh") and p.is_file()]
    assert len(texts) > 5
    assert [str(p) for p in texts if re.search(r"^(<{7}|>{7}) ", p.read_text(), re.MULTILINE)] == []
