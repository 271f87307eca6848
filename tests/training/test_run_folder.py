"""Who may write into a run's folder."""

import pytest

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.schema import load_schema
from home_dist.training.run_folder import RunFolder
from tests.factory import make_config, make_data


@pytest.fixture
def config_and_schema(tmp_path):
    config = load_config(make_config(tmp_path, make_data(tmp_path / "data", rows=20)))
    return config, load_schema(config.schema_path())


def test_a_second_command_on_a_running_run_changes_nothing(config_and_schema):
    config, schema = config_and_schema
    folder = RunFolder(config.run.dir)
    other = load_config(folder.path.parent / "run.toml", ["log.every_steps=77"])
    with folder.claimed(config, schema):
        before = folder.config.read_text()
        with pytest.raises(ConfigError, match="another process trains into it"), RunFolder(folder.path).claimed(other, schema):
            pass
        assert folder.config.read_text() == before
    with folder.claimed(other, schema):
        assert "every_steps = 77" in folder.config.read_text()


def test_a_run_with_other_settings_stays_what_it_is(config_and_schema):
    config, schema = config_and_schema
    folder = RunFolder(config.run.dir)
    with folder.claimed(config, schema):
        before = folder.config.read_text()
    other = load_config(folder.path.parent / "run.toml", ["train.lr=0.5"])
    with pytest.raises(ConfigError, match=r"other settings \(train.lr"), folder.claimed(other, schema):
        pass
    assert folder.config.read_text() == before


def test_what_a_kill_before_the_first_write_left_is_no_obstacle_and_files_of_others_are(config_and_schema):
    config, schema = config_and_schema
    folder = RunFolder(config.run.dir)
    folder.path.mkdir(parents=True)
    (folder.path / ".lock").touch()
    (folder.path / ".config.toml.01234567.writing").write_text("half")
    with folder.claimed(config, schema):
        assert folder.config.is_file()
    folder.config.unlink()
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no run of ours"), folder.claimed(config, schema):
        pass


def test_a_file_in_the_place_of_the_folder_is_told(config_and_schema, tmp_path):
    config, schema = config_and_schema
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="no run of ours"), RunFolder(tmp_path / "file").claimed(config, schema):
        pass
    with pytest.raises(ConfigError, match="cannot be written"), RunFolder(tmp_path / "file" / "run").claimed(config, schema):
        pass
