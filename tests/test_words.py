"""What a new user reads: help that nothing eats, and a folder by its whole name."""

import pytest
from pyarrow import fs
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.errors import DataError
from home_dist.files.listing import list_files
from home_dist.files.stores import Store


def test_help_is_whole():
    text = " ".join(CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"}).output.split())
    assert "a new run begins with; section checkpoint.warm_start says more." in text


def test_a_relative_folder_is_named_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"data/train \(that is {tmp_path}/data/train, .* working folder\): no such folder"):
        list_files(Store(fs.LocalFileSystem(), ""), "data/train")
