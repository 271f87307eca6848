"""Temporary files that other users cannot have prepared."""

import os
import tempfile

import pytest

from home_dist.errors import DataError
from home_dist.files.private import private_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"home_dist-{os.getuid()}"


def test_it_is_this_user_s_alone(temporary):
    assert private_folder() == temporary == private_folder()
    assert temporary.stat().st_mode & 0o777 == 0o700


def test_one_that_others_may_write_into_is_refused(temporary):
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(DataError, match="another user owns it or may write into it"):
        private_folder()


def test_one_of_another_user_is_refused(temporary, monkeypatch):
    temporary.mkdir(mode=0o700)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    temporary.rename(temporary.with_name(f"home_dist-{owner + 1}"))
    with pytest.raises(DataError, match="another user owns it"):
        private_folder()


def test_a_link_is_refused(temporary, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o700)
    temporary.symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="another user owns it"):
        private_folder()


def test_a_folder_that_cannot_be_made_is_told(temporary):
    temporary.write_text("a file")
    with pytest.raises(DataError, match="Set TMPDIR"):
        private_folder()
