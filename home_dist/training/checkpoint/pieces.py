"""Writes and reads boxes of named tensors with torch.distributed.checkpoint, which writes one file per rank.

A `Piece` describes a box of a tensor, from any rank, for writing and for reading. Any box can be read, whatever boxes the
tensor was written in.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

METADATA = ".metadata"

_BLOCK_BYTES = 64 * 2**20
"""Larger pieces are split for writing, because a stored box is read whole and tables are streamed box by box."""


@dataclass(frozen=True)
class Piece:
    """A box of tensor `name`: it starts at `offsets` and has the shape of `values`. shape: of the whole tensor."""

    name: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    values: torch.Tensor

    @staticmethod
    def whole(name: str, values: torch.Tensor) -> "Piece":
        return Piece(name, tuple(values.shape), (0,) * values.dim(), values)

    @property
    def bytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    def blocks(self) -> Iterator["Piece"]:
        """Splits the piece into pieces of bounded size, along the first dimension longer than 1."""
        axis = next((d for d, size in enumerate(self.values.shape) if size > 1), None)
        if axis is None or self.bytes <= _BLOCK_BYTES:
            yield self
            return
        step = max(1, self.values.shape[axis] * _BLOCK_BYTES // self.bytes)
        for first in range(0, self.values.shape[axis], step):
            part = self.values.narrow(axis, first, min(step, self.values.shape[axis] - first))
            offsets = tuple(o + first if d == axis else o for d, o in enumerate(self.offsets))
            yield Piece(self.name, self.shape, offsets, part)

    def chunk(self) -> ChunkStorageMetadata:
        return ChunkStorageMetadata(torch.Size(self.offsets), self.values.shape)


class _Writing(SavePlanner):
    def __init__(self, pieces: Iterable[Piece]):
        self.pieces = {(b.name, b.offsets): b for p in pieces for b in p.blocks() if b.values.numel()}

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Does nothing: the plan needs only the pieces."""

    def create_local_plan(self) -> SavePlan:
        return SavePlan([_write_item(p) for p in self.pieces.values()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        plans, metadata = create_default_global_save_plan(all_plans)
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, TensorStorageMetadata) and sum(c.sizes.numel() for c in entry.chunks) != entry.size.numel():
                raise ValueError(f"the ranks' pieces of {name} do not make up the whole of it")
        return plans, metadata

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        return self.pieces[write_item.index.fqn, tuple(write_item.index.offset or ())].values.detach()


def _write_item(piece: Piece) -> WriteItem:
    data = TensorWriteData(piece.chunk(), TensorProperties(dtype=piece.values.dtype), torch.Size(piece.shape))
    return WriteItem(MetadataIndex(piece.name, piece.offsets), WriteItemType.SHARD, tensor_data=data)


def write_pieces(folder: Path, pieces: Iterable[Piece], group: dist.ProcessGroup | None) -> None:
    """Writes each rank's pieces. Collective in `group`."""
    writer = dcp.FileSystemWriter(folder, sync_files=True)
    dcp.save({}, storage_writer=writer, planner=_Writing(pieces), process_group=group)


class Stored:
    """The tensors of a checkpoint, read on request. Needs no process group.

    The metadata is a pickle, so it is read with an unpickler that allows only the few types it needs. torch.load reads tensors
    with weights_only=True.
    """

    def __init__(self, folder: Path):
        """Raises ValueError, OSError or pickle.UnpicklingError if the metadata is missing or not a checkpoint's."""
        self.folder = folder
        self._metadata = _Reader(folder).read_metadata()
        self.tensors: dict[str, TensorStorageMetadata] = {}
        for name, entry in sorted(self._metadata.state_dict_metadata.items()):
            if not isinstance(entry, TensorStorageMetadata):
                raise ValueError(f"{name} is no tensor")
            self.tensors[name] = entry
        for place in self._metadata.storage_data.values():
            if "/" in place.relative_path or place.transform_descriptors:
                raise ValueError(f"{place.relative_path} is no file of a checkpoint")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].size)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].properties.dtype

    def read(self, pieces: Iterable[Piece]) -> None:
        """Fills the pieces' values. Raises ValueError for a name, shape or box that the checkpoint does not have."""
        planner = _Reading(list(pieces), self.tensors)
        dcp.load({}, storage_reader=_Reader(self.folder, self._metadata), planner=planner, no_dist=True)

    def whole(self, name: str) -> torch.Tensor:
        return self.box(name, (0,) * len(self.shape(name)), self.shape(name))

    def box(self, name: str, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
        values = torch.empty(tuple(sizes), dtype=self.dtype(name))
        self.read([Piece(name, self.shape(name), tuple(offsets), values)])
        return values

    def rows(self, name: str, most_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[int, torch.Tensor]]:
        """Streams a tensor as (first row, rows) in blocks of at most `most_bytes`, so that it need not fit into memory."""
        shape = self.shape(name)
        if not shape:
            yield 0, self.whole(name)
            return
        for first, end in self.blocks(name, most_bytes):
            yield first, self.box(name, (first, *[0] * (len(shape) - 1)), (end - first, *shape[1:]))

    def blocks(self, name: str, most_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[int, int]]:
        """(first row, end) of the blocks in which `rows` streams a tensor."""
        rows = self.shape(name)[0]
        row_bytes = max(1, self.tensors[name].size[1:].numel() * self.dtype(name).itemsize)
        step = max(1, most_bytes // row_bytes)
        for first in range(0, rows, step):
            yield first, min(first + step, rows)


class _Reading(LoadPlanner):
    def __init__(self, pieces: Sequence[Piece], tensors: dict[str, TensorStorageMetadata]):
        """Raises ValueError for a name, shape or box that `tensors` does not have."""
        self.pieces = pieces
        self.items: list[ReadItem] = []
        for number, piece in enumerate(pieces):
            if piece.name not in tensors:
                raise ValueError(f"it holds no {piece.name}")
            stored = tensors[piece.name]
            if tuple(stored.size) != piece.shape:
                raise ValueError(f"{piece.name} is {tuple(stored.size)} there, {piece.shape} here")
            items = create_read_items_for_chunk_list(piece.name, stored, [piece.chunk()])
            if sum(item.lengths.numel() for item in items) != piece.values.numel():
                raise ValueError(f"{piece.name} has gaps")
            self.items += [replace(item, dest_index=replace(item.dest_index, index=number)) for item in items]

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        """Does nothing: the plan needs only the pieces."""

    def create_local_plan(self) -> LoadPlan:
        return LoadPlan(self.items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise ValueError(f"{read_item.storage_index.fqn} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        values = self.pieces[read_item.dest_index.index or 0].values.detach()
        for axis, (first, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            values = values.narrow(axis, first, length)
        return values

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Does nothing: resolve_tensor returned a view of the piece, which is filled in place."""


class _Reader(dcp.FileSystemReader):
    """Reads metadata without trusting it."""

    def __init__(self, folder: Path, metadata: Metadata | None = None):
        super().__init__(folder)
        self._known = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._known is not None:
            return self._known
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise ValueError("it holds no torch.distributed.checkpoint.Metadata")
        return metadata


_DTYPES = (*(torch.float32, torch.float64, torch.float16, torch.bfloat16), *(torch.int64, torch.int32, torch.int8, torch.uint8))
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "bool", *(str(d).removeprefix("torch.") for d in _DTYPES)},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # as Python 3.13 writes it; others have no such module
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint holds")
        return super().find_class(module.removesuffix("._local"), name)
