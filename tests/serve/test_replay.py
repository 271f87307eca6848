"""`home-dist replay PLACE --url URL`: the golden requests, asked of a server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from home_dist.publish.of_checkpoint import publish_checkpoint
from tests.publish.trained import source
from tests.ranks import free_port, run
from tests.serve.server import served

pytestmark = pytest.mark.distributed


def replayed(place, url, *options):
    """(exit code, what is told)"""
    ended = run(1, "replay", place, "--url", url, *options)
    return ended.codes[0], ended.text


def test_our_server_answers_as_the_trainer(trained, tmp_path):
    to = tmp_path / "out"
    publish_checkpoint(source(trained, 2), str(to), "fp32", golden=12)
    with served(to, poll_s=1000) as server:
        for url in (server.url, f"{server.url}/", f"{server.url}/predict"):
            code, told = replayed(to, url)
            assert code == 0, told
            assert "v000001, 12 golden requests, fp32 rows, allowed 1e-05: as the trainer answers" in told
        assert server.metrics()["home_dist_candidates_total"] == 36
        publish_checkpoint(source(trained, 4), str(to), "fp32", golden=5)
        code, told = replayed(to, server.url)
        assert code == 3
        assert "answers with v000001, and the golden requests are of v000002" in told
        assert replayed(to, server.url, "--version", "v000001")[0] == 0


class Other(BaseHTTPRequestHandler):
    """A server of another kind."""

    answer: tuple[int, object]

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        status, told = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(told if isinstance(told, bytes) else json.dumps(told).encode())

    def log_message(self, *_):
        pass


PREDICTIONS = {"like": [0.5], "follow": [0.5], "watch": [0.5]}


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ((200, {"version": "v000001", "predictions": PREDICTIONS}), 1, "too far apart: like, follow, watch"),
        (
            (200, {"version": "v000001", "predictions": {"like": [0.5]}}),
            3,
            "its answer is none of docs/serve.md (KeyError: 'follow')",
        ),
        ((200, {"version": "v000001", "predictions": {**PREDICTIONS, "like": [1, 2]}}), 3, "none of docs/serve.md (ValueError"),
        ((200, [1]), 3, "its answer is none of docs/serve.md"),
        ((200, b"hello"), 3, "cannot be asked: Expecting value"),
        ((500, b"broken"), 3, "answers a golden request with status 500: broken"),
    ],
)
def test_other_servers_are_compared_or_their_answer_is_told(place, answer, code, message):
    server = HTTPServer(("127.0.0.1", 0), type("Answering", (Other,), {"answer": answer}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ended, told = replayed(place, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert ended == code, told
    assert message in told


def test_no_server(place):
    code, told = replayed(place, f"http://127.0.0.1:{free_port()}")
    assert code == 3
    assert "cannot be asked" in told
