"""Other groups for a run than its data's, and groups proposed from its gradients, on real ranks."""

import numpy as np
import pytest

from home_dist.insight.grouping import propose
from home_dist.insight.run_figures import RunFigures
from home_dist.insight.store import InsightStore
from home_dist.schema import load_schema
from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed
QUICK = settings(train__epochs=1, data__validation="''", data__test="''", metrics__of_training="false")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=1600, files=2, row_group=60)


def test_one_rank_and_two_find_the_same(data, tmp_path):
    found = []
    for ranks in (1, 2):
        every = settings(insight__every_steps=1, insight__samples=8, insight__gradient_samples=64 // ranks)
        ended = run(ranks, "train", make_config(tmp_path, data, 64 // ranks, f"on{ranks}"), *QUICK, *every)
        assert ended.codes == [0] * ranks, ended.text
        found.append(tmp_path / f"on{ranks}")
    records = [InsightStore(folder / "insight").records() for folder in found]
    assert len(records[0]) == 25
    for one, two in zip(*records, strict=True):
        for name in ("input_norm", "input_cosine"):
            np.testing.assert_allclose(one.figures[name], two.figures[name], rtol=0.02, atol=0.005)
    one, two = (propose([RunFigures.open(folder)]) for folder in found)
    np.testing.assert_allclose(one.affinity.mean, two.affinity.mean, atol=0.005)
    assert one.clusters.tolist() == two.clusters.tolist()
    ended = run(1, "groups", found[0], found[1])
    assert ended.codes == [0], ended.text
    assert "of 2 runs" in ended.text
    assert (found[0] / "groups.html").is_file()


def test_groups_of_a_run_in_place_of_the_datas(data, tmp_path):
    config, other = make_config(tmp_path, data), settings(data__groups__follow="passive", run__dir=tmp_path / "other")
    ended = run(1, "train", config, *QUICK, *settings(insight__every_steps=5))
    changed = run(1, "train", config, *QUICK, *settings(insight__every_steps=5), *other)
    assert ended.codes == changed.codes == [0], changed.text
    assert ended.losses() != changed.losses()
    assert load_schema(data / "schema.toml").in_groups({"follow": "passive"}) == load_schema(tmp_path / "other" / "schema.toml")
    experts = [InsightStore(tmp_path / name / "insight").names().parts[0] for name in ("run", "other")]
    assert [part.gates for part in experts] == [["meta/interaction", "meta/passive", "meta/shared"]] * 2
    assert InsightStore(tmp_path / "other" / "insight").names().groups == ["interaction", "passive", "passive"]
    again = run(1, "train", config, *QUICK, *settings(insight__every_steps=5), *other)
    assert "run complete" in again.text
    evaluated = run(1, "evaluate", tmp_path / "other", "--data", data, "--split", "test")
    assert evaluated.codes == [0], evaluated.text
    taken_back = run(1, "train", config, *QUICK, *settings(run__dir=tmp_path / "other"))
    assert taken_back.codes == [2]
    assert "data.groups.follow: 'passive' there, 'not set' now" in taken_back.text


@pytest.mark.parametrize("command", ["train", "plan", "bench"])
def test_groups_of_unknown_tasks(command, data, tmp_path):
    more = ["--topology", "1xH100-80GB"] if command == "plan" else []
    ended = run(1, command, make_config(tmp_path, data), *more, *settings(data__groups__share="passive"))
    assert ended.codes == [2], ended.text
    assert "data.groups.share: no such task; there are: like, follow, watch" in ended.text
