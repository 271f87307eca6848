"""Every kind of model and of encoder, with tasks of every kind, weighted lists, pre-trained vectors, vocabularies and managed
ids: one server takes them, version after version, and answers as `open_version(...).predict`: to the bit, but for DIEN."""

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.export.source import Source
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.replay import replay
from home_dist.publish.scoring import open_version
from home_dist.serve.arrow_body import ARROW, arrow_body
from tests.distributed.test_models import RUNS
from tests.mixed_tasks import mixed_config, mixed_data
from tests.publish.raw_data import with_pretrained, with_raw_ids, with_weights
from tests.publish.trained import MANAGED
from tests.ranks import run_module
from tests.serve.server import USER, ask, body, request_of, same, served
from tests.serve.test_versions import wait_until

pytestmark = pytest.mark.distributed
COMMON = "train.max_steps=3 data.validation='' data.test='' metrics.of_training=false insight.every_steps=0"
FAST = ("home", "stem", "twin")
"""The fast tests' share."""
LISTS_OF_USER = ("tag_weights", "speech")


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """Folder of the runs of the kinds that the tests of this file ask for, by the names of RUNS."""
    items = [i for i in request.session.items if i.path == request.path and hasattr(i, "callspec")]
    asked = {i.callspec.params["kind"] for i in items}
    folder = tmp_path_factory.mktemp("kinds")
    data = with_pretrained(with_weights(with_raw_ids(mixed_data(folder / "data", rows=600, row_group=100))))
    config = mixed_config(folder, data, batch_size=32)
    managed = " ".join(option for option in MANAGED if option != "--set")
    run_module(1, "tests.distributed.train_kinds", config, *(f"{n} {COMMON} {managed} {RUNS[n]}".strip() for n in asked))
    return folder


@pytest.fixture(scope="module")
def server(trained):
    """(a server, where its versions are)"""
    place = str(trained / "versions")
    publish_checkpoint(Source.open(next((trained / "run").iterdir())), place, "fp32")
    with served(place) as found:
        yield found, place


def close(predictions, expected):
    assert list(predictions) == expected.column_names
    for name in expected.column_names:
        np.testing.assert_allclose(np.array(predictions[name], np.float32), np.asarray(expected[name]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in FAST else [pytest.mark.slow]) for k in RUNS])
def test_a_server_answers_as_its_version_predicts(kind, trained, server):
    found, place = server
    version = publish_checkpoint(Source.open(trained / "run" / kind), place, "fp32").version
    wait_until(lambda: found.health()["version"] == version or found.health()["refused"])
    assert found.health()["refused"] is None
    model = open_version(place)
    assert {"like", "seconds", "by_duration", "odds", "levels_watched"} < {p["task"] for p in model.predictions}
    assert model.manifest.tables["video"].key.kind == "managed"
    assert max(p.largest_difference for p in replay(place)[1]) < 1e-6  # as the trainer
    rows = pq.read_table(trained / "data" / "test", columns=model.columns).combine_chunks()
    for user, count, columns in ((0, 1, USER), (3, 7, (*USER, *LISTS_OF_USER)), (8, 40, ()), (5, 12, model.columns)):
        if "tags" in columns:
            columns = dict.fromkeys([*columns, *LISTS_OF_USER])
        of_user, candidates, whole = request_of(rows, user, count, tuple(columns))
        if not candidates.column_names:
            candidates = pa.table({"number": range(count)})
        expected = model.predict(whole)
        # DIEN's recurrences run once for the user: their products have another shape, and round otherwise.
        compare = close if kind == "dien" and "watched_video" in columns else same
        headers = {"Content-Type": ARROW}
        answer = httpx.post(f"{found.url}/predict", content=arrow_body(of_user, candidates), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        told = pa.ipc.open_stream(answer.content).read_all()
        assert told.schema.metadata[b"version"].decode() == version
        compare(told.to_pydict(), expected)
        told = ask(found, body(of_user if columns else pa.table({}), candidates))
        assert told.status_code == 200, told.text
        compare(told.json()["predictions"], expected)
