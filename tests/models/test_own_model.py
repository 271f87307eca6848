"""A kind may be package.module:Class: a user's own model, in one file outside of the library."""

import pytest

from home_dist.config import config_text, load_config
from home_dist.config.sequence import ENCODERS
from home_dist.errors import ConfigError
from tests.models.reference import GROUPINGS, compare, expert, gated, make

OWN = "examples.own_model.model:ResidualMmoe"
RUN = '[run]\ndir = "x"\n[data]\npath = "y"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_its_keys_are_read_checked_and_written_down(file, tmp_path):
    config = load_config(file, [f"model.kind={OWN}", "model.experts=3"])
    assert (config.model.kind, config.model.experts) == (OWN, 3)
    (tmp_path / "written.toml").write_text(config_text(config))
    assert load_config(tmp_path / "written.toml") == config
    with pytest.raises(ConfigError, match=r"model\.experts: .*greater than or equal to 1 \(given: 0\)"):
        load_config(file, [f"model.kind={OWN}", "model.experts=0"])
    with pytest.raises(ConfigError, match=r"model\.layers: unknown key.*allowed here: kind, .*experts"):
        load_config(file, [f"model.kind={OWN}", "model.layers=2"])


def test_another_kind_leaves_its_keys_out(file):
    file.write_text(f'{RUN}[model]\nkind = "{OWN}"\nexperts = 3\n')
    notes = []
    assert load_config(file, ["model.kind=home"], notes).model.kind == "home"
    assert "left out of its [model]: experts" in notes[0]


@pytest.mark.parametrize("group_of", GROUPINGS)
def test_it_is_the_equation_of_its_docstring(group_of):
    model, tasks = make(OWN, group_of, experts=3), len(group_of)

    def reference(v, mask):
        f = [expert(model.bank, e, v, mask) for e in range(3)]
        mixed = [gated(model.gates.weight[k], v, range(3), f) for k in range(tasks)]
        return [[z + model.around.weight @ x for z, x in zip(of_task, v, strict=True)] for of_task in mixed]

    compare(model, reference, tasks)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no.such_module:Model", r"model\.kind: no module 'no\.such_module' can be imported: .*PYTHONPATH \(given: 'no"),
        (
            "examples.own_model.model:Other",
            r"own_model/model\.py has no class 'Other'; its .*: ResidualMmoeSection, ResidualMmoe",
        ),
        ("examples.own_model.model:nn", r"own_model/model\.py: nn is no subclass of home_dist\.models\.base\.MultiTaskModel"),
        (
            "examples.own_model.encoder:Recency",
            r"encoder\.py: Recency is no subclass of .*write class Recency\(MultiTaskModel\)",
        ),
        (".own:Model", r"must be one of .*package\.module:Class"),
        (":Model", r"must be one of .*package\.module:Class"),
        ("own_model", r"must be one of 'single_task', .*package\.module:Class"),
    ],
)
def test_what_is_no_model_is_named(kind, message, file):
    with pytest.raises(ConfigError, match=message):
        load_config(file, [f"model.kind={kind}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_dependency\n", r"importing own_of_test failed: ModuleNotFoundError: .*no_such_dependency.*line 1\)"),
        ("\nint('x')\n", r"importing own_of_test failed: ValueError: .*own_of_test\.py, line 2\)"),
    ],
)
def test_a_module_that_fails_at_its_import_tells_where(text, message, file, tmp_path, monkeypatch):
    (tmp_path / "own_of_test.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_config(file, ["model.kind=own_of_test:Model"])


def test_a_model_of_ours_can_be_extended(file, tmp_path, monkeypatch):
    (tmp_path / "extended.py").write_text(
        "from home_dist.models.home import Home, HomeSection\n"
        "class Section(HomeSection):\n    extra: int = 1\n"
        "class Wider(Home):\n    section = Section\n"
        "class Same(Home):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    wider = load_config(file, ["model.kind=extended:Wider", "model.extra=2", "model.group_experts=3"]).model
    assert (wider.kind, wider.extra, wider.group_experts) == ("extended:Wider", 2, 3)
    assert load_config(file, ["model.kind=extended:Same"]).model.kind == "extended:Same"


def test_an_own_encoder_is_found_by_the_same_rule(file, tmp_path, monkeypatch):
    (tmp_path / "own_encoder.py").write_text(
        "from home_dist.config.sequence import SequenceSection\n"
        "from home_dist.sequence import Encoder\n"
        "class Section(SequenceSection):\n    width: int = 2\n"
        "class Mean(Encoder):\n    section = Section\n"
        "    def __init__(self, section, inputs): super().__init__()\n"
        "    def forward(self, history): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(file, ['sequence=[{name="h",kind="own_encoder:Mean",width=3}]'])
    assert (config.sequence[0].kind, config.sequence[0].width) == ("own_encoder:Mean", 3)
    assert ENCODERS.find(config.sequence[0].kind).__name__ == "Mean"
