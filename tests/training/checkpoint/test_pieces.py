"""Any box of a tensor is read back, whatever boxes it was written in; metadata of other types is refused."""

import os
import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import StorageMeta

from home_dist.errors import CheckpointError
from home_dist.training.checkpoint import pieces
from home_dist.training.checkpoint.manifest import entry, write_manifest
from home_dist.training.checkpoint.pieces import Piece, Stored, write_pieces
from home_dist.training.checkpoint.reading import open_stored
from tests.training.checkpoint.stored import write_checkpoint

DTYPES = (torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.uint8)


@st.composite
def cuts(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    """0 .. size in some parts: (first, length)."""
    inner = draw(st.lists(st.integers(1, max(1, size - 1)), unique=True, max_size=3)) if size > 1 else []
    bounds = sorted({0, *inner, size})
    return [(a, b - a) for a, b in zip(bounds, bounds[1:], strict=False)]


@settings(max_examples=25)
@given(st.data())
def test_boxes_are_read_back_whatever_they_were_written_in(data):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    dtype = data.draw(st.sampled_from(DTYPES))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    whole = torch.from_numpy(random.integers(0, 200, (rows, columns))).to(dtype)
    written = [
        Piece("x", (rows, columns), (r, c), whole[r : r + h, c : c + w])
        for r, h in data.draw(cuts(rows))
        for c, w in data.draw(cuts(columns))
    ]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_BLOCK_BYTES", data.draw(st.integers(8, 200)))
        write_pieces(Path(folder), [*written, Piece.whole("scalar", torch.tensor(7))], None)
        stored = Stored(Path(folder))
        wanted = [(r, h, c, w) for r, h in data.draw(cuts(rows)) for c, w in data.draw(cuts(columns))]
        read = [Piece("x", (rows, columns), (r, c), torch.empty(h, w, dtype=dtype)) for r, h, c, w in wanted]
        stored.read(read)
        for piece, (r, h, c, w) in zip(read, wanted, strict=True):
            assert torch.equal(piece.values, whole[r : r + h, c : c + w])
        assert int(stored.whole("scalar")) == 7
        streamed = list(stored.rows("x", most_bytes=20))
        assert torch.equal(torch.cat([part for _, part in streamed]), whole)
        assert [first for first, _ in streamed] == list(np.cumsum([0] + [len(p) for _, p in streamed[:-1]]))


def test_what_does_not_fit_is_named(tmp_path):
    write_pieces(tmp_path, [Piece.whole("x", torch.zeros(4, 2))], None)
    stored = Stored(tmp_path)
    for piece, message in (
        (Piece.whole("y", torch.zeros(1)), "holds no y"),
        (Piece.whole("x", torch.zeros(5, 2)), r"x is \(4, 2\) there, \(5, 2\) here"),
        (Piece("x", (4, 2), (3, 0), torch.zeros(2, 2)), "x has gaps"),
    ):
        with pytest.raises(ValueError, match=message):
            stored.read([piece])


def test_half_a_tensor_is_not_written(tmp_path):
    with pytest.raises(CheckpointException, match="pieces of x do not make up the whole"):
        write_pieces(tmp_path, [Piece("x", (4, 2), (0, 0), torch.zeros(2, 2))], None)


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_of_other_types_is_not_run_even_when_the_manifest_vouches_for_it(tmp_path):
    path = write_checkpoint(tmp_path, {"dense/x": torch.zeros(2)})
    marker = tmp_path / "was_run"
    (path / ".metadata").write_bytes(pickle.dumps(Evil(marker)))
    write_manifest(path, {p.name: entry(p) for p in path.iterdir() if p.name != "manifest.json"})
    with pytest.raises(CheckpointError, match=r"\.metadata: damaged checkpoint: it asks for posix\.mkdir"):
        open_stored(path)
    assert not marker.exists()


@pytest.mark.parametrize("module", [b"pathlib", b"pathlib._local"])
def test_metadata_with_a_path_as_another_python_writes_it_is_read(tmp_path, module):
    path = write_checkpoint(tmp_path, {"dense/x": torch.arange(2.0)})
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.storage_meta = StorageMeta(checkpoint_id=tmp_path)
    content = re.sub(rb"cpathlib(\._local)?\n", b"c" + module + b"\n", pickle.dumps(metadata, protocol=2))
    assert b"c" + module + b"\nPosixPath" in content
    (path / ".metadata").write_bytes(content)
    write_manifest(path, {p.name: entry(p) for p in path.iterdir() if p.name != "manifest.json"})
    stored, _ = open_stored(path)
    assert stored.whole("dense/x").tolist() == [0, 1]


def test_metadata_that_points_out_of_the_folder_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, {"dense/x": torch.zeros(2)})
    metadata = pickle.loads((path / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = "../elsewhere"
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    write_manifest(path, {p.name: entry(p) for p in path.iterdir() if p.name != "manifest.json"})
    with pytest.raises(CheckpointError, match=r"\.\./elsewhere is no file of a checkpoint"):
        open_stored(path)
