"""`home-dist publish`: versions hold the checkpoint's rows, bit for bit; deltas on a full version are a full one; what is
damaged is refused."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from home_dist.cli import app
from home_dist.errors import UserError
from home_dist.ids.rows import ManagedKeys
from home_dist.publish.codec import error_bound
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import PublishError
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.reading import read_version
from tests.publish.raw_data import raw_data
from tests.publish.trained import CUT, MANAGED, same, source, trained_on

pytestmark = pytest.mark.distributed


KINDS = {"plain": CUT, "managed": MANAGED}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return trained_on(2, raw_data(folder / "data"), KINDS[request.param])


def rows_of(source, name):
    place = source.places[name]
    return source.stored.whole(place.tensor)[place.first : place.first + place.rows].numpy()


def test_a_full_version_holds_the_checkpoint(trained, tmp_path):
    before = source(trained, 4)
    manifest = publish_checkpoint(before, str(tmp_path / "out"), "fp32")
    found = read_version(str(tmp_path / "out"))
    assert (manifest.version, manifest.kind, found.manifest.step) == ("v000001", "full", 4)
    newest = max(p.stat().st_mtime for p in (trained.parent / "data" / "train").iterdir())
    assert found.manifest.newest_data == pytest.approx(newest, abs=1e-3)
    for name, table in found.tables.items():
        rows = rows_of(before, name)
        assert table.values.shape == rows.shape
        if name != "video" or table.table.key.kind == "hash":
            assert table.there.all()
        assert table.rows(table.there).tobytes() == rows[table.there].tobytes()
    dense = {n: before.stored.whole(n) for n in before.dense() if "_managed_" not in n}
    assert {f"dense/{n}" for n in found.dense} == dense.keys()
    assert all(torch.equal(v, dense[f"dense/{n}"]) for n, v in found.dense.items())


def test_ids_are_the_users(trained, tmp_path):
    publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp32")
    found, data = read_version(str(tmp_path / "out")), trained.parent / "data"
    kinds = {name: (t.table.key.kind, t.table.key.type) for name, t in found.tables.items()}
    video = found.tables["video"].table.key.kind
    expected = {"user": ("vocabulary", "text"), "video": (video, "integer"), "tag": ("row", "integer"), "tab": ("row", None)}
    assert kinds == {**expected, "level": ("row", None), "rate": ("bucket", None)}
    for name in ("user", "tag"):
        vocabulary, rows = pq.read_table(data / "vocabularies" / f"{name}.parquet"), found.tables[name].table.rows
        told = dict(zip(vocabulary["value"].to_pylist(), vocabulary["row"].to_pylist(), strict=True))
        ids = dict(zip(*(x.tolist() for x in found.tables[name].ids), strict=True))
        assert ids == {i: r if r < rows else 0 for i, r in told.items()}
        assert (min(ids.values()) == 0) == (rows < max(told.values()))
    if video == "managed":
        ids, slots = found.tables["video"].ids
        table = pq.read_table(data / "train")
        videos = pa.chunked_array([*table["video"].chunks, table["watched_video"].combine_chunks().flatten()]).unique()
        hashes = set(ManagedKeys("integer", 3)(videos).tolist())
        assert len(ids) > 50
        assert set(ids.to_pylist()) - {0} <= hashes
        assert (found.tables["video"].there.nonzero()[0] % found.tables["video"].table.key.set_rows == 0).sum() > 1
        assert len(set(slots.tolist())) == len(slots)


def test_a_delta_on_a_full_version_is_a_full_one(trained, tmp_path):
    publish_checkpoint(source(trained, 2), str(tmp_path / "out"), "int8")
    delta = publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "int8", delta=True)
    publish_checkpoint(source(trained, 4), str(tmp_path / "whole"), "int8")
    assert (delta.version, delta.kind, delta.base.version, delta.full) == ("v000002", "delta", "v000001", "v000001")
    full = VersionsFolder(str(tmp_path / "whole")).manifest("v000001")
    assert sum(t.entries for t in delta.tables.values()) < sum(t.entries for t in full.tables.values()) / 2
    assert not any(name.startswith("meaning/") for name in delta.files)
    same(read_version(str(tmp_path / "out")), read_version(str(tmp_path / "whole")))


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_smaller_rows_are_within_their_bound(trained, tmp_path, kind):
    before = source(trained, 4)
    publish_checkpoint(before, str(tmp_path / "out"), kind)
    for name, table in read_version(str(tmp_path / "out")).tables.items():
        rows = rows_of(before, name)[table.there]
        difference = np.abs(table.rows(table.there).astype(np.float64) - rows)
        assert (difference <= error_bound(rows, kind)).all()
        assert difference.max() > 0


def test_old_versions_go_but_not_the_base_of_a_delta(trained, tmp_path):
    to = str(tmp_path / "out")
    for step, delta in ((2, False), (2, False), (4, True), (4, True), (4, True)):
        publish_checkpoint(source(trained, step), to, "fp32", delta, keep=2)
    there = sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith("."))
    assert there == ["current", "v000002", "v000003", "v000004", "v000005"]
    assert [m.version for m in read_version(to).chain] == ["v000002", "v000003", "v000004", "v000005"]
    publish_checkpoint(source(trained, 4), to, "fp32", keep=1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")) == ["current", "v000006"]


def test_what_is_damaged_is_refused(trained, tmp_path):
    to = tmp_path / "out"
    with pytest.raises(PublishError, match="holds no versions"):
        read_version(str(to))
    publish_checkpoint(source(trained, 2), str(to), "fp32")
    publish_checkpoint(source(trained, 4), str(to), "fp32", delta=True)
    read_version(str(to))
    cases = {
        "v000001/rows-00000.bin": "SHA-256 is not the manifest's: it is damaged",
        "v000002/rows-00000.bin": "SHA-256 is not the manifest's: it is damaged",
        "v000002/dense.safetensors": "SHA-256 is not the manifest's: it is damaged",
        "v000001/manifest.json": "its SHA-256 is not",
        "v000002/manifest.json": "its SHA-256 is not",
        "current": "names no version",
    }
    for name, reason in cases.items():
        content = (to / name).read_bytes()
        (to / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:] if name != "current" else b"v1")
        with pytest.raises(PublishError, match=reason) as refused:
            read_version(str(to))
        assert name in str(refused.value)
        if name != "current":
            (to / name).write_bytes(content[:-1])
            with pytest.raises(PublishError, match=r"incomplete|SHA-256") as refused:
                read_version(str(to))
            assert name in str(refused.value)
        (to / name).unlink()
        with pytest.raises(PublishError, match=r"no such file|holds no versions"):
            read_version(str(to))
        (to / name).write_bytes(content)
    read_version(str(to))
    tree = json.loads((to / "v000002" / "manifest.json").read_text())
    for change in ({"format_version": 9}, {"kind": "full"}, {"version": "v2"}, {"chunks": [{}]}, {"files": {}}):
        (to / "v000002" / "manifest.json").write_text(json.dumps({**tree, **change}))
        with pytest.raises(PublishError, match=r"v000002/manifest.json: is damaged or of another format"):
            read_version(str(to), "v000002")


def test_a_delta_that_is_not_possible_is_told(trained, tmp_path):
    to = str(tmp_path / "out")
    with pytest.raises(PublishError, match="there is no version yet"):
        publish_checkpoint(source(trained, 4), to, "fp32", delta=True)
    publish_checkpoint(source(trained, 2), to, "fp32")
    with pytest.raises(PublishError, match="rows of v000001 are fp32, not int8"):
        publish_checkpoint(source(trained, 4), to, "int8", delta=True)
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy / "run")
    shutil.rmtree(copy / "run" / "checkpoints" / "step-00000002")
    with pytest.raises(PublishError, match="step-00000002, which the run no longer has"):
        publish_checkpoint(source(copy / "run", 4), to, "fp32", delta=True)
    assert VersionsFolder(to).versions() == [1]


def test_the_command_and_a_second_publisher(trained, tmp_path):
    arguments = ["publish", str(trained), "--to", str(tmp_path / "out"), "--rows", "fp16"]
    told = CliRunner().invoke(app, arguments).output
    assert "published v000001 (full, step 4)" in told
    with VersionsFolder(str(tmp_path / "out")).claimed(), pytest.raises(UserError, match="another publisher writes"):
        publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp32")
    assert VersionsFolder(str(tmp_path / "out")).versions() == [1]
