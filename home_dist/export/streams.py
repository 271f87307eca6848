"""Writes safetensors files block by block, so that a tensor need not fit into memory, and their index.

The library's own writers take whole tensors. A file has eight bytes with the header's length, a header in JSON, and the
tensors' bytes one after another. Tests read all files back with the library alone.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from home_dist.errors import UserError
from home_dist.files.json_files import json_text

INDEX = "model.safetensors.index.json"
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Stream:
    """A tensor that is produced in blocks along its first dimension."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[torch.Tensor]]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @staticmethod
    def of(name: str, values: torch.Tensor) -> "Stream":
        return Stream(name, values.dtype, tuple(values.shape), lambda: iter([values]))


def write_sharded(
    folder: Path, groups: Mapping[str, Sequence[Stream]], shard_bytes: int, metadata: dict[str, str]
) -> dict[str, str]:
    """Writes files PART-00001-of-0000N.safetensors for each part of `groups`, and an index in Hugging Face's convention. A file
    holds one part only; a tensor is in one file, however large. Returns file names by tensor."""
    where: dict[str, str] = {}
    for part, streams in groups.items():
        shards: list[list[Stream]] = []
        for stream in streams:
            if not shards or sum(s.bytes for s in shards[-1]) + stream.bytes > shard_bytes:
                shards.append([])
            shards[-1].append(stream)
        for number, shard in enumerate(shards, 1):
            file = f"{part}-{number:05d}-of-{len(shards):05d}.safetensors"
            write_file(folder / file, shard, metadata)
            where |= {s.name: file for s in shard}
    total = sum(s.bytes for streams in groups.values() for s in streams)
    index = {"metadata": {"total_size": total, **metadata}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX).write_text(json_text(index) + "\n")
    return where


def write_file(path: Path, streams: Sequence[Stream], metadata: dict[str, str]) -> None:
    with path.open("wb") as file:
        write_stream(file, streams, metadata)
        file.flush()
        os.fsync(file.fileno())


def write_stream(file: BinaryIO, streams: Sequence[Stream], metadata: dict[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for stream in streams:
        if stream.dtype not in _NAMES:
            raise UserError(f"{stream.name}: safetensors has no {stream.dtype}")
        header[stream.name] = {
            "dtype": _NAMES[stream.dtype],
            "shape": list(stream.shape),
            "data_offsets": [at, at + stream.bytes],
        }
        at += stream.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for stream in streams:
        written = 0
        for block in stream.blocks():
            flat = block.detach().to(stream.dtype).contiguous().reshape(-1)
            written += file.write(flat.view(torch.uint8).numpy().tobytes())
        if written != stream.bytes:
            raise ValueError(f"{stream.name}: {written} bytes instead of {stream.bytes}")
