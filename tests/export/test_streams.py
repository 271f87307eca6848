"""Safetensors files of ours, read by the library alone."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from home_dist.export.streams import INDEX, Stream, write_sharded

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.sampled_from(DTYPES)), max_size=6), st.integers(1, 400))
def test_the_library_reads_what_was_streamed(shapes, shard_bytes):
    random = np.random.default_rng(0)
    tensors = {f"t{n}": torch.from_numpy(random.integers(0, 2, (r, c))).to(d) for n, (r, c, d) in enumerate(shapes)}
    tensors["scalar"] = torch.tensor(2.5)

    def stream(name: str, values: torch.Tensor) -> Stream:
        blocks = values.split(2) if values.dim() else (values,)
        return Stream(name, values.dtype, tuple(values.shape), lambda: iter(blocks))

    with tempfile.TemporaryDirectory() as folder:
        groups = {"dense": [stream("scalar", tensors["scalar"])]}
        groups["tables"] = [stream(n, t) for n, t in tensors.items() if n != "scalar"]
        where = write_sharded(Path(folder), groups, shard_bytes, {"step": "3"})
        index = json.loads(Path(folder, INDEX).read_text())
        assert index["weight_map"] == where
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
        assert set(where) == set(tensors)
        assert {p.name for p in Path(folder).glob("*.safetensors")} == set(where.values())
        found = {}
        for file in set(where.values()):
            with safe_open(Path(folder, file), "pt") as opened:
                assert opened.metadata() == {"format": "pt", "step": "3"}
                assert {n for n, f in where.items() if f == file} == set(opened.keys())
            found |= load_file(Path(folder, file))
        for name, values in tensors.items():
            assert found[name].dtype == values.dtype
            assert torch.equal(found[name], values)
        sizes = [sum(tensors[n].nbytes for n, f in where.items() if f == file) for file in set(where.values())]
        counts = [sum(f == file for f in where.values()) for file in set(where.values())]
        assert all(size <= shard_bytes or count == 1 for size, count in zip(sizes, counts, strict=True))
