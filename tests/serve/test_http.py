"""Requests and answers over HTTP, with a server that is started as a user starts it."""

import json
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from home_dist.serve.arrow_body import ARROW, arrow_body
from tests.serve.server import USER, ask, body, near, request_of, same, served

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def server(place):
    with served(
        place, score="'like + 2 * log1p(watch)'", max_candidates=300, max_events=500, max_body_mb=0.2, timeout_s=5
    ) as started:
        yield started


DIVISIONS = [USER, (), ("watched_video", "watched_level"), ("video", "user"), ("tab", "rate", "vector")]


@pytest.mark.parametrize("columns", DIVISIONS, ids="+".join)
def test_an_answer_is_what_the_version_predicts(server, model, rows, columns):
    for user, count in ((0, 1), (7, 5), (3, 140)):
        of_user, candidates, whole = request_of(rows, user, count, columns)
        answer = ask(server, body(of_user, candidates))
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["version"] == "v000001"
        assert told["units"] == {p["name"]: p["unit"] for p in model.predictions}
        expected = model.predict(whole)
        same(told["predictions"], expected)
        like, watch = (np.asarray(expected[n], np.float64) for n in ("like", "watch"))
        np.testing.assert_allclose(told["score"], like + 2 * np.log1p(watch), rtol=1e-12)


def test_unknown_and_missing_ids_are_answered_and_counted(server, model, rows):
    before = server.metrics()
    of_user, candidates, whole = request_of(rows, 2, 4)
    content = body(of_user, candidates)
    content["user"]["user"] = "never seen"
    content["candidates"]["video"][1] = None
    content["candidates"]["other"] = [1, 2, 3, 4]  # the model does not read it
    told = ask(server, content).json()
    whole = whole.set_column(whole.column_names.index("user"), "user", pa.array(["never seen"] * 4))
    videos = pa.array(content["candidates"]["video"])
    same(told["predictions"], model.predict(whole.set_column(whole.column_names.index("video"), "video", videos)))

    def more(name):
        return server.metrics()[name] - before.get(name, 0)

    assert more('home_dist_ids_total{feature="user"}') == more('home_dist_ids_missing_total{feature="user"}') == 1
    assert more('home_dist_ids_total{feature="video"}') == 4
    assert more('home_dist_ids_missing_total{feature="video"}') == 1
    events = len(content["user"]["watched_video"])
    assert more('home_dist_ids_total{feature="watched/watched_video"}') == events
    assert more("home_dist_candidates_total") == 4


def wrong(change, of_user, candidates):
    content = body(of_user, candidates)
    change(content["user"], content["candidates"])
    return content


WRONG = {
    "missing": (lambda u, c: c.pop("rate"), 422, "rate", "column 'rate' is missing: give it under user or candidates"),
    "twice": (lambda u, c: u.update(tab=1), 422, "tab", r"column 'tab' stands there 2 times \(user, candidates\)"),
    "text": (lambda u, c: c.update(rate=["a"] * 5), 422, "rate", "column 'rate' has type string, but numbers are needed"),
    "number": (lambda u, c: u.update(user=7), 422, "user", "column 'user' has type int64, but texts are needed"),
    "mixed": (lambda u, c: c.update(video=[1, "a", 2, 3, 4]), 422, "video", "column 'video': its values make no column"),
    "half": (lambda u, c: c.update(video=[1, 2, 3, 4, 5.5]), 422, "video", r"5.5 is no whole number.*row 4 of candidates"),
    "large": (lambda u, c: c.update(video=[2**70] * 5), 422, "video", "column 'video': its values make no column"),
    "infinite": (lambda u, c: c.update(rate=[float("1e308") * 10] * 5), 400, None, "Infinity is no number of JSON"),
    "nan": (lambda u, c: c.update(rate=[float("nan")] * 5), 400, None, "NaN is no number of JSON"),
    "null": (lambda u, c: u.update(age=None), 422, "age", "column 'age': null where a value is needed"),
    "list": (lambda u, c: u.update(tags=5), 422, "tags", "column 'tags' has type int64, but lists of whole numbers are needed"),
    "width": (lambda u, c: c.update(vector=[[1, 2]] * 5), 422, "vector", "lists of 3 numbers are needed"),
    "no list": (lambda u, c: c.update(tab=3), 422, "tab", "column 'tab': a list with one value per candidate is needed"),
    "lengths": (lambda u, c: c.update(tab=[1, 2]), 422, "tab", "column 'tab' has 2 values, but 'video' has 5"),
    "outside": (lambda u, c: c.update(tab=[9] * 5), 422, "tab", "id 9 is outside of table 'tab', whose rows are 0 to 4"),
    "history": (lambda u, c: u.update(watched_level=[1]), 422, "watched_level", "its lists differ in length"),
    "apart": (
        lambda u, c: c.update(watched_level=[u.pop("watched_level")] * 5),
        *(422, "watched_level", "the lists of 'watched' belong together"),
    ),
    "empty": (lambda u, c: c.update({name: [] for name in c}), 422, None, "candidates: there are none"),
    "none": (lambda u, c: c.clear(), 422, None, "candidates: there are none"),
    "long": (
        lambda u, c: u.update(watched_video=[1] * 600, watched_level=[1] * 600),
        *(413, "watched_video", r"a list of 600 values is longer than 500 \(serve.max_events\)"),
    ),
    "surrogate": (lambda u, c: u.update(user="\ud800"), 422, "user", "column 'user': its values make no column"),
    "extreme": (lambda u, c: u.update(age=1e39), 422, "age", "column 'age': 1e.39 makes predictions that are not finite"),
    "extreme place": (
        lambda u, c: c.update(vector=[[1, 2, 3]] * 4 + [[1, 1e300, 3]]),
        *(422, "vector", "column 'vector'"),
    ),
    "dict": (lambda u, c: u.update(user={"a": 1}), 422, "user", "column 'user' has type struct"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_column(server, rows, name):
    change, status, column, message = WRONG[name]
    of_user, candidates, _ = request_of(rows, 4)
    content = json.dumps(wrong(change, of_user, candidates))
    answer = httpx.post(f"{server.url}/predict", content=content, timeout=60)
    told = answer.json()
    assert answer.status_code == status, told
    assert told.get("column") == column
    assert told["version"] == "v000001"
    assert re.search(message, told["error"]), told["error"]


BODIES = {
    "cut": (b'{"user": {"us', 400, "the body is no JSON"),
    "nothing": (b"", 400, "the body is no JSON"),
    "bytes": (b"\xff\xfe\xfd", 400, "the body is no JSON"),
    "list": (b"[1]", 400, "has to be an object with the keys"),
    "key": (b'{"users": {}, "candidates": {}}', 400, "has to be an object with the keys"),
    "columns": (b'{"user": [], "candidates": {}}', 400, '"user" has to be an object of columns by name'),
    "twice": (b'{"user": {"a": 1, "a": 2}, "candidates": {}}', 400, "'a' stands there twice"),
    "name": (b'{"candidates": {"\\ud800": [1]}}', 400, r"candidates: '\ud800' is no column's name"),
    "user's name": (b'{"user": {"\\udfff": 1}, "candidates": {}}', 400, r"user: '\udfff' is no column's name"),
    "deep": (b"[" * 100_000, 400, "the body is no JSON"),
    "digits": (b'{"candidates": {"a": [' + b"9" * 5000 + b"]}}", 400, "the body is no JSON"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request(server, name):
    content, status, message = BODIES[name]
    answer = httpx.post(f"{server.url}/predict", content=content, timeout=60)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_limits(server, rows):
    of_user, candidates, _ = request_of(rows, 0, 100)
    content = body(of_user, pa.concat_tables([candidates] * 4))
    answer = ask(server, content)
    assert answer.status_code == 413
    assert "400 are more than 300 (serve.max_candidates)" in answer.json()["error"]
    large = b" " * 200_001
    for given in (large, iter([large[:150_000], large[150_000:]])):  # with its length, and in chunks
        answer = httpx.post(f"{server.url}/predict", content=given, timeout=60)
        assert answer.status_code == 413
        assert "more than 200,000 bytes (serve.max_body_mb)" in answer.json()["error"]
    assert httpx.post(f"{server.url}/predict", content=b"", headers={"Content-Type": "text/csv"}).status_code == 415
    assert httpx.get(f"{server.url}/predict").status_code == 405
    assert httpx.get(f"{server.url}/other").status_code == 404
    assert ask(server, body(of_user, candidates)).status_code == 200


def test_a_million_candidates_take_no_more_memory_than_their_body(place, rows):
    def peak():
        [line] = [x for x in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    of_user, candidates, _ = request_of(rows, 0, 1)
    many = candidates.select(["tab"]).take(pa.array(np.zeros(10**6, np.int64)))
    with served(place, max_body_mb=10) as server:
        assert ask(server, body(of_user, candidates)).status_code == 200
        before = peak()
        for content, kind in (
            (json.dumps({"user": {}, "candidates": many.to_pydict()}).encode(), "application/json"),
            (arrow_body(of_user, many), ARROW),
        ):
            answer = httpx.post(f"{server.url}/predict", content=content, headers={"Content-Type": kind}, timeout=60)
            assert answer.status_code == 413
            assert answer.json()["error"] == "candidates: 1,000,000 are more than 10,000 (serve.max_candidates)"
        assert peak() - before < 100e6
        assert ask(server, body(of_user, candidates)).status_code == 200


def opened(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(length):
    return f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_client_that_goes_and_one_that_is_slow(server, rows):
    of_user, candidates, _ = request_of(rows)
    content = json.dumps(body(of_user, candidates)).encode()
    before = server.metrics()
    for sent in (content[:20], content):  # a body cut off; a client that does not wait for its answer
        with opened(server) as connection:
            connection.sendall(head(len(content)) + sent)
    with opened(server) as connection:
        connection.sendall(head(len(content)) + content[:20])
        assert b" 408 " in connection.recv(1000)
    deadline = time.monotonic() + 10
    while server.metrics()["home_dist_requests_waiting"] and time.monotonic() < deadline:
        time.sleep(0.05)
    after = server.metrics()
    assert after["home_dist_requests_waiting"] == 0
    assert after['home_dist_requests_total{status="499"}'] >= before.get('home_dist_requests_total{status="499"}', 0) + 1
    assert after['home_dist_requests_total{status="408"}'] == 1
    assert ask(server, body(of_user, candidates)).status_code == 200
    assert "Traceback" not in server.text


def test_health_and_metrics(server, rows):
    of_user, candidates, _ = request_of(rows)
    ask(server, body(of_user, candidates))
    told, metrics = server.health(), server.metrics()
    assert told["version"] == "v000001"
    assert told["refused"] is None
    assert metrics["home_dist_version"] == metrics["home_dist_versions_taken_total"] == 1
    assert metrics["home_dist_version_step"] == told["step"] == 4
    assert abs(metrics["home_dist_newest_data_age_seconds"] - (time.time() - told["newest_data"])) < 30
    answered = metrics['home_dist_requests_total{status="200"}']
    assert metrics["home_dist_request_seconds_count"] == metrics['home_dist_request_seconds_bucket{le="+Inf"}'] == answered > 0


def test_requests_that_come_together_are_computed_together(place, model, rows):
    with served(place, batch_ms=200, batch_rows=50) as server:
        requests = [request_of(rows, user, count) for user, count in ((1, 3), (2, 1), (3, 20), (4, 7), (5, 60))]
        requests.append(request_of(rows, 6, 2, ()))  # another division into columns of the user and of candidates
        answers: dict[int, httpx.Response] = {}

        def send(n):
            answers[n] = ask(server, body(*requests[n][:2]))

        threads = [threading.Thread(target=send, args=(n,)) for n in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n, (_, _, whole) in enumerate(requests):
            near(answers[n].json()["predictions"], model.predict(whole))
        metrics = server.metrics()
        assert metrics["home_dist_batch_candidates_sum"] == sum(len(whole) for *_, whole in requests)
        assert metrics["home_dist_batch_candidates_count"] < len(requests)


def test_a_full_server_says_when_to_come_again(place, rows):
    of_user, candidates, _ = request_of(rows)
    with served(place, max_waiting=2, batch_ms=1000) as server:
        content, statuses = body(of_user, candidates), []
        threads = [threading.Thread(target=lambda: statuses.append(ask(server, content))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {a.status_code for a in statuses} == {200, 503}
        assert {a.headers.get("Retry-After") for a in statuses if a.status_code == 503} == {"1"}
        assert sum(a.status_code == 200 for a in statuses) >= 2
