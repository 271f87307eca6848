"""A full version tells the ids of a vocabulary, which it reads once; deltas on it read none."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from home_dist.ids.vocabulary import VocabularyFile
from home_dist.publish import keys
from home_dist.publish.keys import VocabularyIds, version_tables
from home_dist.publish.live_tables import LiveRows
from home_dist.publish.live_version import LiveModel
from home_dist.publish.of_checkpoint import publish_checkpoint
from home_dist.publish.reading import VersionRows, read_version
from home_dist.publish.rows_file import RowsFile, read_chunk
from tests.publish.raw_data import raw_data
from tests.publish.trained import same, source, trained_on


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_on(1, raw_data(tmp_path_factory.mktemp("kept") / "data"))


@pytest.fixture
def pieces_read(monkeypatch):
    """Numbers of keys of each piece of a vocabulary that is read."""
    read, pieces = [], VocabularyFile.pieces

    def counting(file):
        for piece in pieces(file):
            read.append(len(piece[1]))
            yield piece

    monkeypatch.setattr(VocabularyFile, "pieces", counting)
    return read


@pytest.mark.distributed
def test_a_delta_of_a_checkpoint_reads_no_vocabulary(trained, tmp_path, pieces_read):
    publish_checkpoint(source(trained, 2), str(tmp_path / "out"), "fp16", golden=0)
    assert sum(pieces_read) > 3000
    pieces_read.clear()
    delta = publish_checkpoint(source(trained, 4), str(tmp_path / "out"), "fp16", delta=True, golden=0)
    assert pieces_read == []
    assert min(delta.tables[name].entries for name in ("user", "tag")) > 0
    assert {chunk.kind for chunk in delta.chunks} == {"values"}
    assert all(chunk.ids is None for chunk in delta.chunks)
    publish_checkpoint(source(trained, 4), str(tmp_path / "whole"), "fp16", golden=0)
    same(read_version(str(tmp_path / "out")), read_version(str(tmp_path / "whole")))


@pytest.mark.distributed
def test_a_delta_beside_training_reads_no_vocabulary(trained, pieces_read):
    opened = source(trained, 4)
    tables = version_tables(opened.meaning, opened.layout)
    model, stream = LiveModel(opened.meaning, opened.layout, False, tables), io.BytesIO()
    file, rows = RowsFile(stream, "rows-00000.bin", "fp32"), tables["user"].rows
    assert pieces_read == []
    model.write(file, LiveRows("user", np.arange(rows), torch.zeros(rows, tables["user"].dim)), told=False)
    vocabulary = sum(pieces_read)
    pieces_read.clear()
    some = np.arange(3, rows, 7)
    changed = torch.from_numpy(np.arange(len(some), dtype=np.float32)).unsqueeze(1).expand(-1, tables["user"].dim)
    model.write(file, LiveRows("user", some, changed), told=True)
    assert (vocabulary, pieces_read) == (2400, [])
    found, content = VersionRows(tables["user"], "fp32"), np.frombuffer(stream.getvalue(), np.uint8)
    for chunk in file.chunks:
        found.add(chunk, read_chunk(content, chunk, "fp32"))
    expected = np.zeros(rows, np.float32)
    expected[some] = np.arange(len(some))
    np.testing.assert_array_equal(found.rows(slice(None)), np.repeat(expected[:, None], tables["user"].dim, 1))
    stored = pq.read_table(trained.parent / "data" / "vocabularies" / "user.parquet")
    ids, slots = found.ids
    assert dict(zip(ids.to_pylist(), slots.tolist(), strict=True)) == dict(
        zip(*(stored[c].to_pylist() for c in ("value", "row")), strict=True)
    )


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("kind", ["integer", "text"])
def test_a_large_vocabulary_is_read_once_for_ascending_rows(tmp_path, monkeypatch, pieces_read, ascending, kind):
    """One whose own rows ascend once more, at the first use, to see that they do."""
    count, random = 400_000, np.random.default_rng(2)
    rows = np.sort(random.choice(2 * count, count, replace=False)) if ascending else random.permutation(count)
    values = random.permutation(10 * count)[:count]
    told = pa.array(values) if kind == "integer" else pa.array([f"ü{n}" for n in values])
    pq.write_table(pa.table({"value": told, "row": rows}), tmp_path / "v.parquet")
    monkeypatch.setattr(keys, "INDEXED", 1000)
    ids = VocabularyIds(VocabularyFile.open(tmp_path / "v.parquet", "t", kind))
    assert pieces_read == []
    expected = dict(zip(rows.tolist(), told.to_pylist(), strict=True))
    for most in (2, 1, 1) if ascending else (2, 0, 0):
        pieces_read.clear()
        for first in range(0, 2 * count, 99_999):
            slots = np.arange(first, min(first + 99_999, 2 * count))[::3]
            assert ids.take(slots).to_pylist() == [expected.get(slot) for slot in slots.tolist()]
        assert sum(pieces_read) <= most * count


@pytest.mark.distributed
def test_versions_of_the_first_format_are_read(trained, tmp_path):
    publish_checkpoint(source(trained, 2), str(tmp_path), "fp32", golden=0)
    expected, path = read_version(str(tmp_path)), tmp_path / "v000001" / "manifest.json"
    tree = json.loads(path.read_text())
    assert tree["format_version"] == 2
    path.write_text(json.dumps({**tree, "format_version": 1}))
    same(read_version(str(tmp_path), "v000001"), expected)
