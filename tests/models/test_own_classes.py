"""What is missing or wrong in a class of one's own is told with its file, its name and what was expected."""

import dataclasses
import uuid

import pytest
import torch

from home_dist.config import load_config
from home_dist.errors import ConfigError
from home_dist.models import TaskGroups, build_model
from home_dist.network import Head
from home_dist.objectives import Objectives
from home_dist.schema import EventInput, IdInput, Table, TaskSpec, build_layout
from home_dist.sequence import Encoded, EncoderInputs, History, build_encoder, encoded_by
from tests.factory import CONFIG, make_schema

MODEL = """
import torch
from home_dist import MultiTaskModel
from home_dist.config.model import ModelSection
class Section(ModelSection):
    pass
class Gated(MultiTaskModel):
    section = Section
    def __init__(self, config, in_dim, tasks):
        super().__init__()
        self.out_dim, self.tasks = config.expert_dim, tasks.tasks
        self.linear = torch.nn.Linear(in_dim, self.out_dim)
    def forward(self, v, mask=None):
        return self.linear(v).expand(self.tasks, -1, -1)
"""
ENCODER = """
import torch
from home_dist import Encoded, Encoder
from home_dist.config.sequence import SequenceSection
class Section(SequenceSection):
    pass
class Last(Encoder):
    section = Section
    def __init__(self, section, inputs):
        super().__init__()
        self.out_dim = inputs.target_dim
    def forward(self, history):
        return Encoded(history.targets)
"""
OBJECTIVE = """
import torch
from home_dist import Objective
from home_dist.config.objective import ObjectiveSection
class Section(ObjectiveSection):
    pass
class Least(Objective):
    section = Section
    def start(self, rates):
        return torch.zeros(len(rates), 1)
    def losses(self, z, y, durations):
        return (z.squeeze(2) - y).abs()
    def predicted(self, z, durations):
        return z
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(text, old, new) -> name of a new module with the text, changed."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(text: str, old: str = "", new: str = "") -> str:
        assert old in text
        name = f"mine_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(text.replace(old, new))
        return name

    return written


def config_of(tmp_path, *overrides: str):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(run="run", data="data", batch_size=8))
    return load_config(path, list(overrides))


MISSING = [
    (MODEL, "Gated", "    section = Section\n", "", "has no attribute `section`: .*subclass of .*ModelSection"),
    (MODEL, "Gated", "    section = Section\n", "    section = dict\n", "`section` is <class 'dict'>, which is no subclass of"),
    (MODEL, "Gated", "(MultiTaskModel)", "(torch.nn.Module)", "is no subclass of home_dist.models.base.MultiTaskModel: write"),
    (MODEL, "Gated", "def forward", "def call", "has no method `forward`: MultiTaskModel.forward in home_dist.models.base"),
    (ENCODER, "Last", "def forward", "def call", "has no method `forward`: Encoder.forward in home_dist.sequence.history"),
    (ENCODER, "Last", "def __init__", "def begin", "has no method `__init__`"),
    (OBJECTIVE, "Least", "def start", "def begin", "has no method `start`: Objective.start in home_dist.objectives.base"),
    (OBJECTIVE, "Least", "def losses", "def loss", "has no method `losses`"),
    (OBJECTIVE, "Least", "def predicted", "def predict", "has no method `predicted`"),
]
KEYS = {
    "Gated": ("model.kind", ["model.kind={}"]),
    "Last": ("sequence.0.kind", ["sequence.0.kind={}"]),
    "Least": ("objective.watch.kind", ["objective.watch.kind={}"]),
}


@pytest.mark.parametrize(("text", "name", "old", "new", "message"), MISSING)
def test_what_a_class_lacks_is_told_when_the_configuration_is_read(text, name, old, new, message, write, tmp_path):
    module = write(text, old, new)
    key, overrides = KEYS[name]
    with pytest.raises(ConfigError, match=rf"{key}: .*{module}\.py: {name}:? .*{message}"):
        config_of(tmp_path, *(o.format(f"{module}:{name}") for o in overrides))


def test_whole_classes_are_taken(write, tmp_path):
    """So that what the other tests find is what they changed."""
    texts = {"Gated": MODEL, "Last": ENCODER, "Least": OBJECTIVE}
    kinds = [override.format(f"{write(texts[name])}:{name}") for name, (_, [override]) in KEYS.items()]
    config, schema = config_of(tmp_path, *kinds), make_schema()
    head = Head(schema, build_layout(schema, config), config)
    assert head.logits(torch.randn(5, head.features.width), torch.randn(5, 5), None).shape == (5, 3)


def model_of(write, tmp_path, old, new):
    config = config_of(tmp_path, f"model.kind={write(MODEL, old, new)}:Gated")
    return build_model(config.model, 6, TaskGroups((0, 0, 1)))


def test_a_constructor_that_does_not_fit(write, tmp_path):
    message = r"mine_.*\.py: Gated\.__init__ does not take \(Section, int, TaskGroups\), which it is called with: too many"
    with pytest.raises(ConfigError, match=message):
        model_of(write, tmp_path, "config, in_dim, tasks", "config, in_dim")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("", r"mine_.*\.py: Gated has no attribute `out_dim`: set it in __init__ to the width"),
        ("self.out_dim = '8'", r"Gated has out_dim = '8': set it in __init__"),
    ],
)
def test_a_model_without_a_width(new, message, write, tmp_path):
    lines = (
        "self.out_dim, self.tasks = config.expert_dim, tasks.tasks\n        self.linear = torch.nn.Linear(in_dim, self.out_dim)"
    )
    with pytest.raises(ConfigError, match=message):
        model_of(write, tmp_path, lines, new or "pass")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("return self.linear(v)", r"Gated\.forward returned \(5, 8\) of torch\.float32; expected .*\(K, B, D\) = \(3, 5, 8\)"),
        ("return self.linear(v).expand(4, -1, -1)", r"returned \(4, 5, 8\) of torch\.float32; expected"),
        ("return self.linear(v).expand(self.tasks, -1, -1) > 0", r"returned \(3, 5, 8\) of torch\.bool; expected"),
        ("return None", r"mine_.*\.py: Gated\.forward returned a NoneType; expected is a tensor of floats"),
    ],
)
def test_a_models_result_of_another_shape(new, message, write, tmp_path):
    module = write(MODEL, "return self.linear(v).expand(self.tasks, -1, -1)", new)
    config, schema = config_of(tmp_path, f"model.kind={module}:Gated"), make_schema()
    head = Head(schema, build_layout(schema, config), config)
    with pytest.raises(ConfigError, match=message):
        head.logits(torch.randn(5, head.features.width), torch.randn(5, 5), None)


def history() -> History:
    return History(torch.randn(3, 4), torch.randn(3, 2), torch.randn(2, 4), torch.tensor([1, 2]))


def encoder_of(write, tmp_path, old, new):
    section = config_of(tmp_path, f"sequence.0.kind={write(ENCODER, old, new)}:Last").sequence[0]
    video = IdInput("video", "video", Table("video", 9, 4, replicated=True), False, "sum", "small", 9)
    fields = [EventInput(dataclasses.replace(video, key="e", is_list=True), video)]
    return build_encoder(section, fields, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "Encoded(history.targets)",
            "history.targets",
            r"Last\.forward returned a Tensor; expected is home_dist\.sequence\.Encoded",
        ),
        (
            "Encoded(history.targets)",
            "Encoded(history.events)",
            r"returned \(3, 4\) of .*; expected .*\(B, out_dim\) = \(2, 4\)",
        ),
        ("inputs.target_dim", "inputs.target_dim + 1", r"returned \(2, 4\) of .*; expected .*\(B, out_dim\) = \(2, 5\)"),
        ("self.out_dim = inputs.target_dim", "pass", r"mine_.*\.py: Last has no attribute `out_dim`"),
        ("section, inputs", "section", r"Last\.__init__ does not take \(Section, EncoderInputs\)"),
    ],
)
def test_an_encoders_result_of_another_shape(old, new, message, write, tmp_path):
    with pytest.raises(ConfigError, match=message):
        encoded_by(encoder_of(write, tmp_path, old, new), history())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("torch.zeros(len(rates), 1)", "torch.zeros(1)", r"Least\.start returned \(1,\) of .*; expected .*\(n, o\) = \(1, 1\)"),
        ("(z.squeeze(2) - y).abs()", "(z.squeeze(2) - y).abs().mean()", r"Least\.losses returned \(\) .*\(B, n\) = \(5, 1\)"),
        ("return z\n", "return z.squeeze(2)\n", r"Least\.predicted returned \(5, 1\) .*\(B, n, predictions\) = \(5, 1, 1\)"),
        ("def start", "def __init__(self):\n        pass\n    def start", r"Least\.__init__ does not take \(Section, list\)"),
    ],
)
def test_an_objectives_result_of_another_shape(old, new, message, write, tmp_path):
    module = write(OBJECTIVE, old, new)
    config = config_of(tmp_path, f"objective.watch.kind={module}:Least")
    tasks = [TaskSpec(name="watch", group="passive", column="watch", kind="regression")]
    z, y, none = torch.randn(5, 1), torch.rand(5, 1), torch.zeros(5, 0)

    def used() -> None:
        objectives = Objectives(tasks, config)
        objectives.start(torch.tensor([0.5]))
        objectives.losses(z, y, torch.ones(5, 1), none)
        objectives.predicted(z, none)

    with pytest.raises(ConfigError, match=rf"mine_.*\.py: {message}"):
        used()


def test_an_own_encoder_is_the_equation_of_its_docstring():
    from examples.own_model.encoder import Recency, RecencySection

    torch.manual_seed(0)
    lengths, rate = [2, 0, 3], 0.3
    events, contexts = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    encoder = Recency(RecencySection(name="h", kind="x", rate=rate), EncoderInputs(4, 2, ("video",), 3)).double()
    encoder.rate.data.fill_(rate)
    found = encoder(History(events, contexts, torch.zeros(3, 4), torch.tensor(lengths)))
    expected, at = [], 0
    for length in lengths:
        grown = [torch.exp(torch.tensor(-rate * (length - 1 - t), dtype=torch.float64)) for t in range(length)]
        whole = [torch.cat([events[at + t], contexts[at + t]]) for t in range(length)]
        weighted = [g / sum(grown) * x for g, x in zip(grown, whole, strict=True)]
        expected.append(sum(weighted, torch.zeros(6, dtype=torch.float64)))
        at += length
    assert isinstance(found, Encoded)
    torch.testing.assert_close(found.vector, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_an_own_objective_is_the_equation_of_its_docstring():
    from examples.own_model.objective import Poisson, PoissonSection

    facts = [{"mean": mean, "std": 1.0} for mean in (2.0, 30.0)]
    tasks = [
        TaskSpec.model_validate({"name": f"t{n}", "group": "g", "column": "c", "kind": "regression", "values": f})
        for n, f in enumerate(facts)
    ]
    poisson = Poisson(PoissonSection(kind="x"), tasks).double()
    z, y = torch.randn(4, 2, 1, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64) * 9
    losses, predicted = poisson.losses(z, y, torch.ones(4, 2)), poisson.predicted(z, torch.ones(4, 2))
    for row in range(4):
        for task, mean in enumerate((2.0, 30.0)):
            value = torch.exp(z[row, task, 0])
            torch.testing.assert_close(losses[row, task], value - y[row, task] / mean * z[row, task, 0])
            torch.testing.assert_close(predicted[row, task, 0], mean * value)
    with pytest.raises(ConfigError, match=r"task 'bare': kind Poisson needs `values\.mean`, which `prepare` fits"):
        Poisson(PoissonSection(kind="x"), [TaskSpec(name="bare", group="g", column="c", kind="regression")])
