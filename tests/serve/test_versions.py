"""New versions are taken while requests run; damaged ones are refused, and the old one stays."""

import gc
import json
import re
import shutil
import threading
import time
import weakref

import httpx
import pytest

from home_dist import load
from home_dist.config.serve import ServeSection
from home_dist.files.whole import WRITING
from home_dist.publish import of_checkpoint
from home_dist.publish.few_rows import FewRows
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import CURRENT
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.scoring import open_version
from home_dist.schema import load_schema, save_schema
from home_dist.serve.request import RankingRequest
from home_dist.serve.version import ServedVersion
from tests.publish.trained import CUT, source, trained_on
from tests.ranks import run
from tests.serve.server import ask, body, request_of, same, served

pytestmark = pytest.mark.distributed


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Load:
    """Clients that ask without a pause. Each answer is kept, with the number of its request."""

    def __init__(self, server, contents, clients):
        self.server, self.contents = server, contents
        self.answers = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, n):
        with httpx.Client(timeout=60) as client:
            while not self._ended.is_set():
                n = (n + 1) % len(self.contents)
                answer = client.post(f"{self.server.url}/predict", json=self.contents[n])
                self.answers.append((n, answer.status_code, answer.text))

    def end(self):
        self._ended.set()
        for thread in self._threads:
            thread.join()


def under_load(trained, rows, to, versions):
    """Publishes versions of two checkpoints in turns, full ones and deltas, while clients ask. Returns the numbers of answers
    by version."""
    models = {step: load(trained, step) for step in (2, 4)}
    requests = [request_of(rows, user, count) for user, count in ((0, 1), (5, 8), (9, 40))]
    publish_checkpoint(source(trained, 2), str(to), "fp32", golden=4)
    with served(to, poll_s=0.02) as server:
        clients = Load(server, [body(*r[:2]) for r in requests], clients=3)
        try:
            for number in range(2, versions + 1):
                step = 4 if number % 2 == 0 else 2
                publish_checkpoint(source(trained, step), str(to), "fp32", delta=number % 3 == 0, golden=4)
                wait_until(lambda n=number: server.health()["version"] == f"v{n:06d}")
            count = len(clients.answers)
            wait_until(lambda: len(clients.answers) > count + 5)
        finally:
            clients.end()
        assert server.metrics()["home_dist_versions_taken_total"] == versions
        assert server.health()["refused"] is None
    expected = {step: [model.predict(whole) for *_, whole in requests] for step, model in models.items()}
    by_version: dict[str, int] = {}
    for n, status, text in clients.answers:
        assert status == 200, text
        told = json.loads(text)
        by_version[told["version"]] = by_version.get(told["version"], 0) + 1
        same(told["predictions"], expected[4 if int(told["version"][1:]) % 2 == 0 else 2][n])
    return by_version


def test_versions_are_taken_under_load(trained, rows, tmp_path):
    by_version = under_load(trained, rows, tmp_path / "out", 6)
    assert len(by_version) >= 4


@pytest.mark.slow
def test_a_hundred_versions_are_taken_under_load(trained, rows, tmp_path):
    by_version = under_load(trained, rows, tmp_path / "out", 100)
    print(f"{sum(by_version.values()):,} answers of {len(by_version)} versions")
    assert len(by_version) >= 80


DAMAGES = (
    (lambda file: file.write_bytes(file.read_bytes()[:-8]), "it is incomplete"),
    (lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]), "it is damaged"),
    (lambda file: file.unlink(), "no such file"),
)


def test_what_is_damaged_or_unfit_is_refused_and_the_old_one_stays(trained, rows, tmp_path, monkeypatch):
    to, finish = tmp_path / "out", VersionsFolder.finish
    publish_checkpoint(source(trained, 2), str(to), "fp32", golden=40)
    of_user, candidates, whole = request_of(rows, 3, 6)
    expected = [load(trained, step).predict(whole) for step in (2, 4)]

    def publish(change=None):
        """change: of a file of rows, before `current` names the version. Returns the version's name."""

        def damaged(folder, manifest):
            if change is not None:
                change(to / f"{manifest.version}{WRITING}" / "rows-00000.bin")
            return finish(folder, manifest)

        monkeypatch.setattr(VersionsFolder, "finish", damaged)
        return publish_checkpoint(source(trained, 4), str(to), "fp32", golden=40).version

    def answered_by(version, predictions):
        told = ask(server, body(of_user, candidates)).json()
        assert told["version"] == version
        same(told["predictions"], predictions)

    with served(to, max_candidates=30) as server:  # fewer than golden requests have

        def refused(message, version=""):
            wait_until(lambda: message in (server.health()["refused"] or "") and version in server.health()["refused"])
            answered_by("v000001", expected[0])

        good = (to / CURRENT).read_text()
        (to / CURRENT).write_text("nonsense")
        refused("names no version")
        (to / CURRENT).write_text(f"v000007 {'0' * 64}\n")
        refused("the version is gone or incomplete")
        (to / CURRENT).write_text(good)
        wait_until(lambda: server.health()["refused"] is None)
        for change, message in DAMAGES:
            refused(message, publish(change))
        answers = of_checkpoint.golden_requests
        with monkeypatch.context() as patched:  # golden requests with the answers of another model
            other = FewRows.of(source(trained, 2))
            patched.setattr(of_checkpoint, "golden_requests", lambda _, *rest: answers(other, *rest))
            refused("its answers to the golden requests are up to", publish())
        assert server.metrics()["home_dist_versions_refused_total"] >= 6
        version = publish()
        wait_until(lambda: server.health()["version"] == version)
        assert server.health()["refused"] is None
        answered_by(version, expected[1])
        assert "v000001 stays, a newer one was refused: " in server.text


def other_data(folder, trained):
    """A run on the same rows, whose schema has no feature "rate"."""
    data = shutil.copytree(trained.parent / "data", folder / "data")
    schema = load_schema(data / "schema.toml")
    features = tuple(f for f in schema.feature if f.name != "rate")
    save_schema(schema.model_copy(update={"feature": features}), data / "schema.toml")
    return trained_on(1, data, CUT)


def test_a_version_of_another_schema_is_taken_and_asks_for_its_own_columns(trained, rows, tmp_path):
    to = tmp_path / "out"
    other = other_data(tmp_path / "other", trained)
    publish_checkpoint(source(other, 4), str(to), "fp32")
    of_user, candidates, whole = request_of(rows, 3, 6)
    full = body(of_user, candidates)
    less = body(of_user, candidates.drop_columns(["rate"]))
    with served(to) as server:
        for content in (full, less):  # a column that the version does not read is passed over
            same(ask(server, content).json()["predictions"], load(other, 4).predict(whole))
        publish_checkpoint(source(trained, 4), str(to), "fp32")
        wait_until(lambda: server.health()["version"] == "v000002")
        same(ask(server, full).json()["predictions"], load(trained, 4).predict(whole))
        answer = ask(server, less)
        assert (answer.status_code, answer.json()["column"]) == (422, "rate")


def test_a_server_that_ends_answers_what_has_begun(place, model, rows):
    of_user, candidates, whole = request_of(rows, 1, 5)
    answers = []
    with served(place, batch_ms=1000) as server:
        asking = threading.Thread(target=lambda: answers.append(ask(server, body(of_user, candidates))))
        asking.start()
        wait_until(lambda: server.metrics()["home_dist_requests_waiting"] == 1)
    asking.join()
    assert answers[0].status_code == 200
    same(answers[0].json()["predictions"], model.predict(whole))


def test_a_server_that_is_ended_as_soon_as_it_answers_ends(place):
    for _ in range(3):
        with served(place):
            pass  # SIGTERM comes at once, and must end it well


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "serve.score=like +"], r"serve.score = 'like \+': it is no formula"),
        (["--set", "serve.score=lik"], r"'lik' is no prediction; there are: like, follow, watch"),
        (["--set", "serve.batch_ms=-1"], r"serve.batch_ms: Input should be greater than or equal to 0 \(given: -1\)"),
        (["--set", "serve.batch=1"], r"serve.batch: unknown key"),
        (["--set", "train.lr=1"], r"--set train.lr=1: only keys of \[serve\] can be set here"),
        (["--host", "no.such.host.invalid"], r"--host no.such.host.invalid --port 8000: cannot be used"),
    ],
)
def test_what_cannot_be_served_is_told_at_the_start(place, options, message):
    ended = run(1, "serve", place, *options)
    assert ended.codes == [2], ended.text
    assert re.search(message, ended.text), ended.text


def test_a_folder_without_versions_is_told_at_the_start(tmp_path):
    ended = run(1, "serve", tmp_path, "--port", 0)
    assert ended.codes == [3], ended.text
    assert "holds no versions (no file `current`)" in ended.text


def test_a_version_that_nobody_uses_is_freed_at_once(place, rows):
    """Not by the collector of cycles, which may come late."""
    version = ServedVersion(open_version(place), ServeSection())
    of_user, candidates, _ = request_of(rows, 1, 5)
    version.predict([version.decode(RankingRequest(of_user, candidates))])
    scorer = weakref.ref(version.model.program.run)
    gc.collect()
    gc.disable()
    try:
        del version
        assert scorer() is None
    finally:
        gc.enable()
