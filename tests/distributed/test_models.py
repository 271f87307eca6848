"""Every kind of model and of encoder trains sharded by a change of its kind alone, and on two ranks as on one."""

import re

import pytest

from home_dist.config.model import MODELS
from tests.factory import make_config, make_data
from tests.ranks import Ended, run, run_module, settings

pytestmark = pytest.mark.distributed

# Pinned, so that one rank and two have the same tables sharded and data-parallel; without evaluation, which costs time.
COMMON = "embedding.tables.video.sharding=row_wise embedding.tables.tag.sharding=data_parallel data.validation='' data.test=''"
OPTIONS = {
    "single_task": "model.expert_norm=true",  # statistics over the samples of both ranks
    "cross_stitch": "model.stitch=unit",
    "l2_constrained": "model.alpha=0.01",
    # All experts are chosen: by the rounding of another batch size a choice may fall otherwise. Choices of few are compared in
    # float64, in tests/models/test_smes.py.
    "smes": "model.experts=4 model.shared_choices=3 model.expert_norm=true",
    "esmm": "model.after.follow=like",
    "pepnet": "model.domain_features=['tab'] model.prior_features=['user','rate']",
}
ENCODERS = {
    "dien": "sequence.0.auxiliary_weight=0.0",  # its loss draws from a rank's own batch
    "sim": "sequence.0.most=2",
    "sim_hard": "sequence.0.search=hard sequence.0.most=2",
    "twin": "sequence.0.most=2",
}
OWN = "examples.own_model.model:ResidualMmoe"
RUNS = {kind: f"model.kind={kind} {OPTIONS.get(kind, '')}" for kind in MODELS}
RUNS["own"] = f"model.kind={OWN}"
RUNS |= {name: f"sequence.0.kind={name.partition('_')[0]} {options}" for name, options in ENCODERS.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=960, files=3, row_group=60)


QUICK = ("single_task", "mmoe", "home", "pepnet", "dien", "sim")
"""The fast tests' share: each exchanges something else between ranks."""


@pytest.fixture(scope="module")
def curves(request, data, tmp_path_factory):
    """By number of ranks and kind: step -> loss, of the kinds that the tests of this file ask for."""
    found = {}
    items = [i for i in request.session.items if i.path == request.path and hasattr(i, "callspec")]
    asked = {kind for i in items for kind in [i.callspec.params.get("kind"), *i.callspec.params.get("kinds", [])]}
    runs = {name: options for name, options in RUNS.items() if name in asked}
    for ranks in (1, 2):
        config = make_config(tmp_path_factory.mktemp(f"ranks{ranks}"), data, batch_size=64 // ranks)
        lines = [f"{name} {COMMON} {options}".strip() for name, options in runs.items()]
        ended = run_module(ranks, "tests.distributed.train_kinds", config, *lines)
        _, *parts = re.split(r"^=== ", ended.outputs[0], flags=re.MULTILINE)
        for name, part in zip(runs, parts, strict=True):
            assert part.startswith(name + "\n")
            kind = OWN if name == "own" else name if name in MODELS else "home"
            assert f"model: {kind} |" in part
            found[ranks, name] = {s: float(loss) for s, loss in Ended([0], [part]).losses().items()}
    return found


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.slow]) for kind in RUNS])
def test_one_and_two_ranks_give_the_same_falling_loss_curve(kind, curves):
    one, two = curves[1, kind], curves[2, kind]
    assert one.keys() == two.keys() == set(range(1, 31))
    assert one == pytest.approx(two, abs=2e-4)  # fails for nan, too
    assert sum(two[s] for s in range(26, 31)) / 5 < two[1] - 0.2


@pytest.mark.parametrize("kinds", [QUICK, pytest.param(tuple(RUNS), marks=pytest.mark.slow)], ids=["quick", "all"])
def test_kinds_differ(kinds, curves):
    """So that what was compared was not one model many times."""
    losses = {curves[1, kind][10] for kind in kinds}
    assert len(losses) == len(kinds) > 1


@pytest.mark.slow
def test_one_task_alone_has_embeddings_of_its_own(data, tmp_path):
    config = make_config(tmp_path, data)
    alone = settings(model__kind="single_task", data__tasks="['follow']", train__max_steps=2, train__task_weights__like=2)
    ended = run(1, "train", config, *alone)
    assert ended.codes == [0], ended.text
    assert "tasks: interaction: follow\n" in ended.outputs[0]
    again = run(1, "evaluate", tmp_path / "run")
    assert again.codes == [0], again.text
    assert ["│ follow" in again.text, "│ like" in again.text] == [True, False]


@pytest.mark.slow
def test_the_command_line_changes_the_kind_and_tells_what_it_left_out(data, tmp_path):
    config = make_config(tmp_path, data)
    ended = run(1, "train", config, *settings(model__kind="adatt", train__max_steps=2))
    assert ended.codes == [0], ended.text
    assert "note: model.kind=adatt" in ended.text
    assert "left out of its [model]: feature_gate_rank" in ended.text
    again = run(1, "train", config, *settings(model__kind="mmoe", train__max_steps=2))
    assert again.codes != [0]
    assert "model.kind: 'adatt' there, 'mmoe' now" in again.text


@pytest.mark.slow
def test_a_checkpoint_is_not_read_into_a_model_without_all_of_its_tensors(data, tmp_path):
    """The stock model has the tensors of the own one but the path around its experts: it would score otherwise."""
    config = make_config(tmp_path, data)
    ended = run(1, "train", config, *settings(model__kind=OWN, train__max_steps=2, data__validation="''", data__test="''"))
    assert ended.codes == [0], ended.text
    written = tmp_path / "run" / "config.toml"
    written.write_text(written.read_text().replace(OWN, "mmoe"))
    again = run(1, "evaluate", tmp_path / "run", "--split", "train")
    assert again.codes == [4]
    assert "does not fit this model: the model has no dense/head.model.around.weight." in again.text
