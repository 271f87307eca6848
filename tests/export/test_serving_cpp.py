"""The C++ program of examples/serving_cpp, built with this machine's compiler, answers as the trainer does."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.publish import of_checkpoint
from home_dist.publish.few_rows import FewRows
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.replay import TOLERANCE
from tests.publish.raw_data import integer_users, raw_data, with_pretrained
from tests.publish.trained import CUT, MANAGED, source, trained_on
from tests.ranks import REPOSITORY, settings

EXAMPLE = REPOSITORY / "examples" / "serving_cpp"
COMPILER = os.environ.get("CXX", "g++")
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no compiler: {COMPILER} is not there"),
]
KINDS = {
    "cut": (raw_data, [*CUT, *settings(train__ema__decay=0.5)]),
    "managed": (raw_data, MANAGED),
    "dien": (raw_data, settings(sequence__0__kind="dien")),
    "sim_hard": (raw_data, settings(sequence__0__kind="sim", sequence__0__search="hard", sequence__0__most=3)),
    "integers": (lambda folder: integer_users(raw_data(folder)), CUT),
    "pretrained": (lambda folder: with_pretrained(raw_data(folder)), settings(embedding__pretrained__text__normalise=True)),
}
"""By name: the data, and options."""


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "serve"
    built = subprocess.run(["sh", EXAMPLE / "build.sh", sys.executable, path], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""

    def run(*arguments: object, code: int = 0) -> str:
        ended = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=100)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    return run


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    data, options = KINDS[request.param]
    return trained_on(1, data(folder / "data"), options)


@pytest.fixture(scope="module")
def program(trained):
    """Of the older checkpoint."""
    out, older = trained.parent / "program", source(trained, 2).checkpoint
    told = CliRunner().invoke(app, ["export", str(older), "--format", "dense", "--compiled", "--out", str(out)])
    assert told.exit_code == 0, told.output
    return out


@pytest.fixture(scope="module")
def versions(trained):
    """A full version and a delta by type of rows."""
    for rows in TOLERANCE:
        publish_checkpoint(source(trained, 2), str(trained.parent / rows), rows, golden=20)
        publish_checkpoint(source(trained, 4), str(trained.parent / rows), rows, delta=True, golden=64)
    return trained.parent


@pytest.mark.parametrize("rows", TOLERANCE)
def test_it_answers_as_the_trainer(serve, program, versions, rows):
    for version, name, count in ((["v000001"], "v000001", 20), ([], "v000002", 64)):
        told = serve(program, versions / rows, *version)
        assert f"{name}, {rows} rows, allowed" in told
        found = re.findall(r"(\w+): (\d+) requests, largest difference (\S+)", told)
        assert [(one, int(n)) for one, n, _ in found] == [("like", count), ("follow", count), ("watch", count)]
        largest = max(float(difference) for *_, difference in found)
        assert largest <= (1e-6 if rows == "fp32" else TOLERANCE[rows] / 2)
        assert rows == "fp32" or largest > 0


@pytest.mark.parametrize("trained", ["pretrained", "managed"], indirect=True, scope="module")  # which have all kinds of files
def test_what_is_damaged_is_refused(serve, program, versions, tmp_path):
    to = tmp_path / "out"
    shutil.copytree(versions / "fp32", to)
    files = ("v000001/rows-00000.bin", "v000002/rows-00000.bin", "v000002/dense.safetensors", "v000002/golden.parquet")
    frozen = [f"v000001/{p.relative_to(to / 'v000001')}" for p in (to / "v000001").rglob("*.npy")]
    for name in (*files, *frozen, "v000001/meaning/boundaries.json", "v000001/manifest.json", "v000002/manifest.json"):
        content = (to / name).read_bytes()
        for damaged in (content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], content[:-1]):
            (to / name).write_bytes(damaged)
            assert f"{to / name}: is damaged" in serve(program, to, code=2)
        (to / name).unlink()
        assert f"{to / name}: no such file" in serve(program, to, code=2)
        (to / name).write_bytes(content)
    serve(program, to)
    about = program / "dense.json"
    other = tmp_path / "other"
    shutil.copytree(program, other)
    meaning = re.search(r'"meaning": "(\w+)"', about.read_text())[1]
    (other / "dense.json").write_text(about.read_text().replace(meaning, "0123"))
    assert "its schema is not that of v000002" in serve(other, to, code=2)
    assert "usage: serve PROGRAM VERSIONS" in serve(program, code=2)


@pytest.mark.parametrize("trained", ["cut"], indirect=True, scope="module")
def test_other_answers_are_too_far_apart(serve, program, trained, tmp_path, monkeypatch):
    answers, older = of_checkpoint.golden_requests, FewRows.of(source(trained, 2))
    monkeypatch.setattr(of_checkpoint, "golden_requests", lambda _, *rest: answers(older, *rest))
    publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp32")
    assert "too far apart" in serve(program, tmp_path / "out", code=1)
