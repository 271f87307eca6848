"""Requests in the columns of a described log are answered as those in the columns of prepared data."""

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from home_dist.config.serve import ServeSection
from home_dist.data.files import needed_inputs
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.scoring import open_version
from home_dist.serve.arrow_body import ARROW, arrow_body
from home_dist.serve.log_request import from_log, open_online
from home_dist.serve.request import RankingRequest
from home_dist.serve.version import ServedVersion
from tests.prepare.next_day import DAYS, OF_USER, next_day, prepared_rows
from tests.prepare.test_going_on import FIRST_DAY, describe, make_days, prepare
from tests.publish.trained import source
from tests.ranks import run
from tests.serve.server import body, same, served
from tests.serve.test_versions import wait_until

pytestmark = pytest.mark.distributed

COUNT = 20
"""Candidates of a request."""
OF_CANDIDATES = ["video", "author", "length", "tags", "seconds"]
CONFIG = """
run = { dir = "DIR/run" }
data = { path = "DIR/data", validation = "", test = "" }
sequence = [{ name = "seen", kind = "din" }, { name = "liked", kind = "din" }]
model = { kind = "mmoe", experts = 2, expert_hidden = [8], expert_dim = 8, tower_hidden = [8] }
embedding = { dim = 4 }
train = { batch_size = 64, max_steps = 6 }
checkpoint = { every_steps = 3 }
insight = { every_steps = 0 }
log = { tensorboard = false }
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(the folder with a log, data, a run and versions; rows of the log's next day; those rows as prepared data)"""
    folder = tmp_path_factory.mktemp("log")
    make_days(folder, DAYS, seed=5)
    describe(folder, DAYS - 2)
    prepare(folder, "data")
    (folder / "run.toml").write_text(CONFIG.replace("DIR", str(folder)))
    ended = run(1, "train", folder / "run.toml")
    assert ended.codes == [0], ended.text
    publish_checkpoint(source(folder / "run", 3), str(folder / "versions"), "fp32")
    rows = blocks_of_users(next_day(folder))
    return folder, rows, prepared_rows(folder, rows)


def blocks_of_users(rows):
    """Rows with a duration; each COUNT of them have the user and the place of their first one."""
    rows = rows.filter(pc.greater(rows["length"], 0))
    rows = rows.set_column(0, "id", pa.array(range(len(rows))))
    first = pa.array([at // COUNT * COUNT for at in range(len(rows))])
    for name in ("user", "place"):
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].take(first))
    return rows


def asked(rows, block):
    """(the user's columns, the candidates'), as they are in the log"""
    part = rows.slice(block * COUNT, COUNT)
    return part.slice(0, 1).select(list(OF_USER)), part.select(OF_CANDIDATES)


def opened(folder, version=None):
    model = open_version(str(folder / "versions"), version)
    return ServedVersion(model, ServeSection(), open_online(model.place / "meaning", needed_inputs(model.program.layout)))


def test_an_answer_is_that_of_prepared_rows(logged):
    folder, rows, prepared = logged
    version = opened(folder, "v000001")
    for block in range(len(rows) // COUNT):
        decoded = version.decode(from_log(version.online, RankingRequest(*asked(rows, block))))
        [found] = version.predict([decoded])
        expected = version.model.predict(prepared.slice(block * COUNT, COUNT))
        same({name: found[:, n].tolist() for n, name in enumerate(version.names)}, expected)


def test_a_server_answers_requests_of_the_log_also_after_a_delta(logged):
    folder, rows, prepared = logged
    with served(str(folder / "versions")) as server:
        assert server.health()["state"] == (FIRST_DAY + DAYS) * 86400 - 8 * 3600

        def answers(version):
            expected = open_version(str(folder / "versions"), version).predict(prepared.slice(COUNT, COUNT))
            answer = httpx.post(f"{server.url}/predict/log", json=body(*asked(rows, 1)), timeout=60).raise_for_status().json()
            assert answer["version"] == version
            same(answer["predictions"], expected)

        answers("v000001")
        user, candidates = asked(rows, 1)
        headers = {"Content-Type": ARROW, "Accept": "application/json"}
        answer = httpx.post(f"{server.url}/predict/log", content=arrow_body(user, candidates), headers=headers, timeout=60)
        same(
            answer.raise_for_status().json()["predictions"],
            open_version(str(folder / "versions")).predict(prepared.slice(COUNT, COUNT)),
        )
        counted = {n for n in server.metrics() if n.startswith("home_dist_ids_missing_total")}
        assert 'home_dist_ids_missing_total{feature="seen/seen_video"}' in counted
        assert 'home_dist_ids_missing_total{feature="hour"}' not in counted  # midnight is row 0, and no missing id
        wrong = body(*asked(rows, 1))
        del wrong["candidates"]["author"]
        answer = httpx.post(f"{server.url}/predict/log", json=wrong, timeout=60)
        assert (answer.status_code, answer.json()["column"]) == (422, "author")
        wrong = body(*asked(rows, 1))
        wrong["candidates"]["length"][3] = 0
        answer = httpx.post(f"{server.url}/predict/log", json=wrong, timeout=60)
        assert (answer.status_code, answer.json()["column"]) == (422, "length")  # the log's name, not the data's
        publish_checkpoint(source(folder / "run", 6), str(folder / "versions"), "fp32", delta=True)
        wait_until(lambda: server.health()["version"] == "v000002")
        answers("v000002")


def test_requests_of_the_log_can_be_left_out(logged, place):
    folder, rows, _ = logged
    for versions, options, why in (
        (str(folder / "versions"), {"log": "false"}, "serve.log is false"),
        (place, {}, "holds no state of a log's preparation"),
    ):
        with served(versions, **options) as server:
            answer = httpx.post(f"{server.url}/predict/log", json=body(*asked(rows, 1)), timeout=60)
            assert answer.status_code == 404
            assert why in answer.json()["error"]
            assert server.health()["state"] is None
