"""Run configurations: read back as written, refused with the key that is wrong."""

import re

import pytest

from home_dist.config import config_text, load_config, save_config
from home_dist.config.model import MODELS
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


HOME = MINIMAL + '[model]\nkind = "home"\nexpert_dim = 8\nshared_experts = 3\ngroup_experts = 4\n'


@pytest.mark.parametrize("kind", list(MODELS))
def test_another_kind_of_model_leaves_out_what_it_does_not_know(kind, tmp_path):
    file, notes = tmp_path / "run.toml", []
    file.write_text(HOME)
    config = load_config(file, [f"model.kind={kind}"], notes)
    assert config.model.kind == kind
    assert config.model.expert_dim == 8  # known to all
    if kind == "home":
        assert notes == []
        return
    assert len(notes) == 1
    assert "run.toml is for home" in notes[0]
    assert "group_experts" in notes[0]
    assert ("shared_experts" in notes[0]) == ("shared_experts" not in MODELS.section(kind).model_fields)
    assert getattr(config.model, "shared_experts", 3) == 3
    save_config(config, tmp_path / "resolved.toml")
    assert load_config(tmp_path / "resolved.toml") == config


def test_a_model_section_without_a_kind_is_home(file, tmp_path):
    file.write_text(HOME.replace('kind = "home"\n', ""))
    assert load_config(file).model.kind == load_config(tmp_path / "run.toml", ["model.kind=home"]).model.kind == "home"
    notes = []
    assert load_config(file, ["model.kind=omoe", "model.experts=5"], notes).model.experts == 5
    assert "is for home; left out of its [model]: shared_experts, group_experts" in notes[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.kind=moe"], r"model\.kind: must be one of 'single_task',.*'home'.*\(given: 'moe'\)"),
        (["model.kind=3"], r"model\.kind: must be one of .*\(given: 3\)"),
        (["model.layers=2"], r"model\.layers: unknown key .*allowed here: kind,.*hierarchy_mask"),
        (["model.kind=mmoe", "model.layers=2"], r"model\.layers: unknown key .*allowed here: kind,.*experts$"),
        (["model.kind=mmoe", "model.shared_experts=2"], r"model\.shared_experts: unknown key"),  # overridden, hence meant
        (['model={kind="cgc", hierarchy_mask=true}'], r"model\.hierarchy_mask: unknown key .*task_experts"),
        (["model.kind=mmoe", "model.experts=0"], r"model\.experts: .*greater than or equal to 1 \(given: 0\)"),
        (["model.kind=ple", "model.task_experts=0"], r"model\.task_experts: .*greater than or equal to 1"),
        (["model.group_experts=0"], r"model\.group_experts: .*greater than or equal to 1"),
        (["model.kind=adatt", "model.layers=0"], r"model\.layers: .*greater than or equal to 1"),
        (["model.kind=cross_stitch", "model.stitch=row"], r"model\.stitch: .*'layer' or 'unit' \(given: 'row'\)"),
        (["model.expert_hidden=[8,0]"], r"model\.expert_hidden\.1: .*greater than or equal to 1"),
        (["model=3"], r"model: .*\(given: 3\)"),
    ],
)
def test_what_is_wrong_with_a_model_is_named(overrides, message, file):
    file.write_text(HOME)
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_a_key_that_no_kind_knows_is_refused_even_when_the_kind_changes(file):
    file.write_text(HOME + "sharded_experts = 3\n")
    with pytest.raises(ConfigError, match=r"model\.sharded_experts: unknown key .*allowed here: kind"):
        load_config(file, ["model.kind=mmoe"])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "broken.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match=r"run: Field required(.|\n)*data: Field required"):
        load_config(tmp_path / "empty.toml")


@pytest.mark.parametrize("override", ["train.epochs=2", "train.decay=cosine", "data.sample={'a*'=0.5}", "data.train='date=*'"])
def test_following_needs_data_without_an_end(file, override):
    follows = ["data.follow=success", "train.decay=none"]
    assert load_config(file, follows).data.follow == "success"
    with pytest.raises(ConfigError, match=r"with data.follow: what is still to come has no end"):
        load_config(file, [*follows, override])
