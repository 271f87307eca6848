"""Run configurations: read back as written, refused with the key that is wrong."""

import re

import pytest

from home_dist.config import config_text, load_config, save_config
from home_dist.errors import ConfigError

MINIMAL = '[run]\ndir = "x"\n[data]\npath = "y"\n[[sequence]]\nname = "watched"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    return path


def test_a_resolved_configuration_reads_back_the_same(file, tmp_path):
    config = load_config(
        file, ["train.batch_size=4096", "data.path=a/b", "sequence.0.softmax=true", "embedding.tables.v.dim=8"]
    )
    assert config.train.batch_size == 4096
    assert config.data.path == "a/b"
    assert config.sequence[0].softmax
    assert config.embedding.tables["v"].dim == 8
    save_config(config, tmp_path / "resolved.toml")
    assert load_config(tmp_path / "resolved.toml") == config
    assert "window_rows" in config_text(config)  # defaults are written out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.bach=1", r"train\.bach: unknown key .*allowed here: seed, batch_size, epochs"),
        ("trian.seed=1", r"trian: unknown key.*allowed here: run, data, embedding"),
        ("sequence.0.width=1", r"sequence\.0\.width: unknown key.*allowed here: name, kind"),
        ("train.seed=-1", r"train\.seed: .*greater than or equal to 0 \(given: -1\)"),
        ("train.decay=slow", r"train\.decay: .*'none', 'linear' or 'cosine' \(given: 'slow'\)"),
        ("embedding.dim=10", r"embedding\.dim: .*multiple of 4"),
        ("sequence.3.softmax=true", r"sequence is a list of 1"),
        ("run.dir.x=1", r"run\.dir holds a value, not a section"),
        ("train.seed", r"write it as section\.key=value"),
        ("=3", r"write it as section\.key=value"),
        ('sequence=[{name="a"},{name="a"}]', r"sequence 'a' is listed twice"),
    ],
)
def test_what_is_wrong_is_named(file, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    assert re.search(message, str(caught.value)), caught.value


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "broken.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match=r"run: Field required(.|\n)*data: Field required"):
        load_config(tmp_path / "empty.toml")
