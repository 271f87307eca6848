"""Requests and answers as Arrow; bodies that are none, or that would unpack to more than their size."""

import httpx
import numpy as np
import pyarrow as pa
import pytest

from home_dist.serve.arrow_body import ARROW, arrow_body, parse_arrow
from home_dist.serve.request import RefusedRequest
from tests.serve.server import USER, ask, body, request_of, same, served


@pytest.fixture(scope="module")
def server(place):
    with served(place, score="like", max_candidates=300) as started:
        yield started


def post(server, content, **headers):
    return httpx.post(f"{server.url}/predict", content=content, headers={"Content-Type": ARROW, **headers}, timeout=60)


@pytest.mark.distributed
@pytest.mark.parametrize("columns", [USER, ()], ids=["once", "nothing of the user"])
def test_an_answer_is_what_the_version_predicts(server, model, rows, columns):
    of_user, candidates, whole = request_of(rows, 3, 17, columns)
    expected = model.predict(whole)
    answer = post(server, arrow_body(of_user, candidates))
    assert answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema.metadata == {b"version": b"v000001"}
    assert table.schema.field("like").metadata == {b"unit": b"probability"}
    assert table.drop_columns("score").replace_schema_metadata().cast(expected.schema) == expected
    np.testing.assert_array_equal(table["score"], np.asarray(expected["like"], np.float64))
    same(post(server, arrow_body(of_user, candidates), Accept="application/json").json()["predictions"], expected)
    of_json = ask(server, body(of_user, candidates), headers={"Accept": ARROW})
    assert pa.ipc.open_stream(of_json.content).read_all() == table


@pytest.mark.distributed
def test_columns_that_are_wrong_are_told(server, rows):
    of_user, candidates, _ = request_of(rows, 3, 4)
    texts = candidates.set_column(candidates.column_names.index("video"), "video", pa.array(["a"] * 4))
    answer = post(server, arrow_body(of_user, texts))
    assert (answer.status_code, answer.json()["column"]) == (422, "video")
    nan = candidates.set_column(candidates.column_names.index("rate"), "rate", pa.array([1.0, float("nan"), 2.0, 3.0]))
    answer = post(server, arrow_body(of_user, nan))
    assert (answer.status_code, answer.json()["column"]) == (422, "rate")
    assert "NaN or infinite" in answer.json()["error"]
    answer = post(server, arrow_body(of_user, pa.concat_tables([candidates] * 100)))
    assert answer.status_code == 413
    assert post(server, arrow_body(of_user, candidates)[:-200]).status_code == 400


def stream(table, **options):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


ONE, THREE = pa.table({"user": ["a"]}), pa.table({"video": [1, 2, None], "text": ["x", "y", "z"]})


def test_what_was_written_is_read():
    request = parse_arrow(arrow_body(ONE, THREE), 3)
    assert request.user == ONE
    assert request.candidates == THREE
    encoded = pa.table({"text": THREE["text"].combine_chunks().dictionary_encode()})
    assert parse_arrow(arrow_body(ONE, encoded), 3).candidates == encoded
    several = pa.concat_tables([THREE, THREE])  # chunks, each a record batch
    assert parse_arrow(arrow_body(ONE, several), 6).candidates == several


BOMB = pa.table({"video": pa.array([0] * 1_000_000)})
VAST = pa.table({"tags": pa.FixedSizeListArray.from_arrays(pa.nulls(2**30), 2**30)})
"""A list of nulls, which take no bytes."""


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "ends before the stream of user"),
        (stream(ONE), 400, "ends before the stream of candidates"),
        (stream(ONE) + stream(THREE) + b"\0", 400, "goes on after its second Arrow stream"),
        (b"\0" * 100, 400, "pair of Arrow streams"),
        (b'{"user": {}}', 400, "no pair of Arrow streams"),
        (stream(pa.concat_tables([ONE, ONE])) + stream(THREE), 422, "user: 2 rows; one is needed"),
        (stream(ONE.slice(0, 0)) + stream(THREE), 422, "user: 0 rows; one is needed"),
        (stream(ONE) + stream(BOMB), 413, "candidates: 1,000,000 are more than 5"),
        (stream(ONE) + stream(THREE, compression="zstd"), 415, "compressed buffers"),
        (
            stream(pa.table({"user": pa.array(["a" * 9000]).dictionary_encode()}), compression="lz4") + stream(THREE),
            415,
            "compres",
        ),
        (stream(VAST) + stream(THREE), 413, "column 'tags' holds"),
    ],
)
def test_a_body_that_is_no_request(content, status, message):
    with pytest.raises(RefusedRequest, match=message) as refused:
        parse_arrow(content, 5)
    assert refused.value.status == status


def test_a_damaged_body_is_refused_or_read_as_some_request():
    """Whatever is damaged, the process lives and tells it."""
    whole, rng = bytearray(arrow_body(ONE, THREE)), np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(0, 256)
        try:
            parse_arrow(bytes(content[: rng.integers(1, len(content) + 1)] if rng.random() < 0.3 else content), 5)
        except RefusedRequest:
            refused += 1
    assert refused > 500
