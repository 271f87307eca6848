"""A server takes versions from a real S3 server, answers on while the store is away, and goes on once it is back."""

import itertools
import time

import numpy as np
import pytest

from home_dist import load
from home_dist.publish.of_checkpoint import publish_checkpoint
from tests.publish.gate import gate
from tests.publish.trained import source
from tests.s3 import credentials, in_new_bucket, server
from tests.serve.server import ask, body, request_of, same, served
from tests.serve.test_versions import wait_until

__all__ = ["credentials", "server"]
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture
def expected(trained, rows):
    """(a request, what checkpoints of steps 2 and 4 predict for it)"""
    of_user, candidates, whole = request_of(rows, 3, 6)
    return body(of_user, candidates), {step: load(trained, step).predict(whole) for step in (2, 4)}


STEPS = {"v000001": 2, "v000002": 4, "v000003": 2, "v000004": 4, "v000005": 2, "v000006": 4}


def answers(serving, expected, *versions):
    """As one of these versions, to the bit."""
    content, predictions = expected
    told = ask(serving, content)
    assert told.status_code == 200, told.text
    version = told.json()["version"]
    assert version in versions
    same(told.json()["predictions"], predictions[STEPS[version]])


def test_a_server_outlives_a_store_that_is_away(trained, expected, tmp_path, request, server, credentials):
    with gate(server) as through:
        to = in_new_bucket(through.url, tmp_path, request, "model")
        directly = to.replace(through.url, server)
        publish_checkpoint(source(trained, 2), directly, "fp32", golden=4)
        with served(to) as serving:
            answers(serving, expected, "v000001")
            publish_checkpoint(source(trained, 4), directly, "fp32", delta=True, golden=4)
            wait_until(lambda: serving.health()["version"] == "v000002")
            answers(serving, expected, "v000002")
            through.shut()
            publish_checkpoint(source(trained, 2), directly, "fp32", delta=True, golden=4)
            wait_until(lambda: serving.health()["refused"], 120)
            assert to.split("/")[2] in serving.health()["refused"]
            for _ in range(20):
                answers(serving, expected, "v000002")
            through.open()
            wait_until(lambda: serving.health()["version"] == "v000003", 120)
            answers(serving, expected, "v000003")
            assert serving.health()["refused"] is None
            publish_checkpoint(source(trained, 4), directly, "fp32", golden=4)
            wait_until(lambda: serving.health()["version"] == "v000004")
            answers(serving, expected, "v000004")
            assert serving.metrics()["home_dist_versions_refused_total"] == 0  # none was: the store was away
        assert "v000002 stays, newer ones cannot be looked for: " in serving.text
        assert "refused" not in serving.text


def test_a_store_that_is_cut_while_a_version_is_read_leaves_the_old_one(
    trained, expected, tmp_path, request, server, credentials
):
    draw = np.random.default_rng(7)
    with gate(server) as through:
        to = in_new_bucket(through.url, tmp_path, request, "model")
        directly = to.replace(through.url, server)
        publish_checkpoint(source(trained, 2), directly, "fp32", golden=4)
        with served(to) as serving:
            for number, (before, name) in enumerate(itertools.pairwise(STEPS)):
                publish_checkpoint(source(trained, STEPS[name]), directly, "fp32", delta=number % 2 == 1, golden=4)
                time.sleep(draw.uniform(0, 0.2))
                through.shut()
                for _ in range(5):
                    answers(serving, expected, before, name)
                through.open()
                wait_until(lambda n=name: serving.health()["version"] == n, 120)
                answers(serving, expected, name)
