"""Whatever columns are given once per request, an answer is that of one row per candidate: for all kinds of features, histories
and tasks."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.config.serve import ServeSection
from home_dist.export.source import Source
from home_dist.prepare.synthetic import Sizes, write_synthetic
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.scoring import open_version
from home_dist.serve import version as of_version
from home_dist.serve.request import RankingRequest, RefusedRequest
from home_dist.serve.version import ServedVersion
from tests.mixed_tasks import mixed_config, mixed_data
from tests.ranks import run, settings
from tests.serve.server import request_of

pytestmark = pytest.mark.distributed

CONFIG = """
run = { dir = "DIR" }
data = { path = "DATA", validation = "", test = "" }
sequence = [{ name = "watched", kind = "din" }]
model = { kind = "mmoe", expert_hidden = [8], expert_dim = 8, tower_hidden = [8] }
train = { batch_size = 256, max_steps = 4 }
insight = { every_steps = 0 }
"""
KINDS = {
    "din": {},
    "managed": {"embedding__tables__item__managed": "lfu", "embedding__tables__item__keep_rows": 501},
    "newest": {"sequence__0__newest": 5},
    "sim_hard": {"sequence__0__kind": "sim", "sequence__0__search": "hard", "sequence__0__most": 5},
    "sim": {"sequence__0__kind": "sim", "sequence__0__most": 100},
    "twin": {"sequence__0__kind": "twin", "sequence__0__most": 5},
    "dien": {"sequence__0__kind": "dien"},
}
KINDS["sim_hard"]["sequence__0__category"] = "watched_category"
FAST = ("din", "mixed")


def opened(folder, config, options):
    ended = run(1, "train", config, *settings(**options))
    assert ended.codes == [0], ended.text
    publish_checkpoint(Source.open(folder / "run"), str(folder / "versions"), "fp32", golden=0)
    return open_version(str(folder / "versions"))


@pytest.fixture(
    scope="module", params=[pytest.param(k, marks=[] if k in FAST else [pytest.mark.slow]) for k in ("mixed", *KINDS)]
)
def served(request, tmp_path_factory):
    """(the version, rows of its data)"""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "mixed":
        mixed_data(folder / "data", 600)
        model = opened(folder, mixed_config(folder, folder / "data"), {"train__max_steps": 4})
    else:
        sizes = Sizes(rows=1000, users=100, items=2000, max_history=30, vector_width=8, rows_per_file=1000, seed=3)
        write_synthetic(folder / "data", sizes, lambda text: None)
        (folder / "run.toml").write_text(CONFIG.replace("DIR", str(folder / "run")).replace("DATA", str(folder / "data")))
        model = opened(folder, folder / "run.toml", KINDS[request.param])
    rows = pq.read_table(folder / "data" / "train", columns=model.columns).slice(0, 200).combine_chunks()
    return ServedVersion(model, ServeSection(batch_rows=100)), rows


def groups_of(version):
    """Columns that have to stand on one side."""
    layout = version.model.program.layout
    together = [{e.field.column for e in s.fields} for s in layout.sequences]
    together += [{i.column, i.weights} for i in layout.features if i.weights]
    alone = [{c} for c in version.uses if not any(c in group for group in together)]
    return [*together, *alone]


def divisions(version, count):
    """Everything but one column, the histories alone, and random choices."""
    groups, rng = groups_of(version), np.random.default_rng(0)
    yield set().union(*groups[:-1])
    yield set().union(*(g for g in groups if len(g) > 1))
    for _ in range(count):
        chosen = [g for g in groups if rng.random() < 0.5]
        yield set().union(*chosen) if len(chosen) < len(groups) else set()


def asked(version, rows, user, count, columns):
    of_user, candidates, whole = request_of(rows, user, count, [c for c in version.uses if c in columns])
    expected = version.model.predict(whole)
    return RankingRequest(of_user, candidates), np.stack([expected[n] for n in expected.column_names], 1)


def test_one_request_and_several_together(served):
    version, rows = served
    for n, columns in enumerate(divisions(version, 8)):
        requests = [asked(version, rows, user + n, count, columns) for user, count in ((1, 7), (2, 1), (3, 40))]
        decoded = [version.decode(request) for request, _ in requests]
        for one, (_, expected) in zip(decoded, requests, strict=True):
            np.testing.assert_allclose(version.predict([one])[0], expected, rtol=1e-5, atol=1e-6)
        for answer, (_, expected) in zip(version.predict(decoded), requests, strict=True):
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


def test_a_large_request_is_computed_in_parts(served, monkeypatch):
    version, rows = served
    columns = next(divisions(version, 0))
    request, expected = asked(version, rows, 5, 200, columns)
    decoded = version.decode(request)
    assert [count for count, _ in decoded.rows] == [100, 100]
    np.testing.assert_allclose(version.predict([decoded])[0], expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(of_version, "MOST_PAIRS", 30 * max(1, decoded.events))
    decoded = version.decode(request)
    assert max(count for count, _ in decoded.rows) == 30
    np.testing.assert_allclose(version.predict([decoded])[0], expected, rtol=1e-5, atol=1e-6)


def test_a_request_that_nobody_waits_for_is_given_up(served):
    version, rows = served
    request, _ = asked(version, rows, 5, 200, next(divisions(version, 0)))
    wanted = iter([True, False])
    with pytest.raises(RefusedRequest, match="given up"):
        version.predict([version.decode(request)], lambda: next(wanted))
    assert next(wanted, None) is None


def test_a_request_without_a_column_of_its_candidates(served):
    """The model reads all of its columns from the user's side; one that it does not read tells the number of candidates."""
    version, rows = served
    request, expected = asked(version, rows, 4, 3, set(version.uses))
    answer = version.predict([version.decode(RankingRequest(request.user, pa.table({"number": [1, 2, 3]})))])[0]
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
