"""An index of a large vocabulary: a file from which keys are looked up without reading it whole. The processes of a host map
it into their memory, and so share one copy of it.

The file, in the machine's byte order, which its header names:

- the header: JSON, padded with spaces to 4,096 bytes;
- the directory: for each bucket of hashes the first of its entries, and at the end the number of entries. A hash's highest
  bits are its bucket. A bucket has 2 to 4 entries on average;
- the entries by rising hash: hash and row; for texts also where the text begins, and its length;
- the texts of all entries.

Hashes are those of hashing.py. Whole numbers never share one. Texts of one hash stand side by side and are compared, so that no
text takes the row of another one. Keys are sorted one range of hashes after another: memory does not grow with the vocabulary.
"""

import contextlib
import ctypes
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from home_dist.errors import DataError
from home_dist.files.lock import locked
from home_dist.files.private import private_folder
from home_dist.files.whole import whole_file
from home_dist.ids.hashing import Hashes, hash_integers, hash_texts
from home_dist.ids.keys import KeyType, key_numbers
from home_dist.ids.vocabulary import VocabularyFile
from home_dist.native_library import library_if_possible, pointer

SEED = 0  # of hashes: also of keys out of vocabulary
_SOURCE = Path(__file__).parent / "native" / "find_keys.cpp"
_FORMAT = 1
_HEADER = 4096
_ENTRY: dict[KeyType, np.dtype] = {
    "integer": np.dtype([("hash", "=u8"), ("row", "=u8")]),
    "text": np.dtype([("hash", "=u8"), ("start", "=u8"), ("row", "=u4"), ("length", "=u4")]),
}
_PART_BYTES = 64 << 20  # of the keys that are sorted at a time
_STALE = 86_400  # seconds after which another process's remains are removed
_UNUSED = 14 * 86_400  # seconds without use after which an index in the temporary folder is removed


@dataclass(frozen=True)
class Index:
    """An opened index."""

    kind: KeyType
    first_row: int
    last_row: int
    """The least and the greatest row; 0 and -1 without keys."""
    directory: Hashes
    """(buckets + 1,)"""
    entries: NDArray
    """(keys,) records of _ENTRY."""
    texts: NDArray[np.uint8]
    """(bytes of all texts,); empty for whole numbers."""

    @property
    def shift(self) -> int:
        """Bits of a hash below those that are its bucket."""
        return 64 - (len(self.directory) - 2).bit_length()

    def find(self, keys: pa.Array) -> tuple[NDArray[np.int64], Hashes]:
        """(rows (n,), 0 for keys that the vocabulary lacks; hashes (n,)). keys: (n,) int64 without nulls, or texts, whose nulls
        get any row and hash."""
        native = _native()
        if native is None:
            return self._find_with_numpy(keys)
        rows, hashes = np.empty(len(keys), np.int64), np.empty(len(keys), np.uint64)
        shared = [pointer(self.directory), ctypes.c_int(self.shift), pointer(self.entries)]
        rest = [ctypes.c_int64(len(keys)), ctypes.c_uint64(SEED), pointer(hashes), pointer(rows)]
        if self.kind == "integer":
            numbers = np.ascontiguousarray(key_numbers(keys))
            native.find_numbers(*shared, pointer(numbers), *rest)
        else:
            offsets, data = text_buffers(keys)
            content = np.frombuffer(data, np.uint8) if len(data) else np.zeros(1, np.uint8)
            native.find_texts(*shared, pointer(self.texts), pointer(offsets), pointer(content), *rest)
        return rows, hashes

    def _find_with_numpy(self, keys: pa.Array) -> tuple[NDArray[np.int64], Hashes]:
        hashes = _hashed(keys, self.kind)
        rows = np.zeros(len(keys), np.int64)
        for which, entries in self._candidates(hashes):
            if self.kind == "text":
                same = np.asarray(pc.fill_null(pc.equal(self._texts_of(entries), keys.take(pa.array(which))), False))
                which, entries = which[same], entries[same]
            rows[which] = self.entries["row"][entries]
        return rows, hashes

    def _candidates(self, hashes: Hashes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(indices of hashes, entries of the same hash), once per place in a bucket."""
        bucket = (hashes >> np.uint64(self.shift)).astype(np.int64)
        at, end = self.directory[bucket].astype(np.int64), self.directory[bucket + 1].astype(np.int64)
        waiting = np.flatnonzero(at < end)
        while len(waiting):
            same = self.entries["hash"][at[waiting]] == hashes[waiting]
            yield waiting[same], at[waiting[same]]
            at[waiting] += 1
            waiting = waiting[at[waiting] < end[waiting]]

    def _texts_of(self, entries: NDArray[np.int64]) -> pa.Array:
        starts, lengths = (self.entries[name][entries].astype(np.int64) for name in ("start", "length"))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        content = self.texts[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)]
        return pa.LargeStringArray.from_buffers(len(entries), pa.py_buffer(offsets), pa.py_buffer(content)).cast(pa.string())


def _native() -> ctypes.CDLL | None:
    """The compiled library; None without a compiler."""
    return library_if_possible(_SOURCE)


def _hashed(keys: pa.Array, kind: KeyType) -> Hashes:
    return hash_texts(keys, SEED) if kind == "text" else hash_integers(key_numbers(keys), SEED)


def open_index(vocabulary: VocabularyFile) -> Index:
    """The index of a vocabulary: built at the first use on any host that sees it, beside the vocabulary, or in the user's
    temporary folder if nothing can be written there. Raises DataError for a wrong vocabulary, or without room."""
    refused: list[str] = []
    for is_temporary in (False, True):
        try:
            beside = vocabulary.path.with_name(f"{vocabulary.path.name}.index")
            return _opened(_temporary(vocabulary) if is_temporary else beside, vocabulary, is_temporary)
        except OSError as error:
            refused.append(str(error))
    raise DataError(
        f"{vocabulary.path}: its index can be written neither beside it nor to the temporary folder: {'; '.join(refused)}. "
        "Make room there, or set TMPDIR to a folder with room for some 3 times the vocabulary's texts."
    )


def _temporary(vocabulary: VocabularyFile) -> Path:
    """Place in the user's temporary folder. Indexes there that were not used for long are removed."""
    place = private_folder() / f"{vocabulary.sha256[:32]}.index"
    for other in place.parent.glob("*.index"):
        if other != place and _is_older(other, _UNUSED):
            other.unlink(missing_ok=True)
    return place


def _is_older(path: Path, seconds: float) -> bool:
    """Whether it was not changed for so long; not so if another process has removed it."""
    try:
        return time.time() - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return False


def _opened(place: Path, vocabulary: VocabularyFile, is_temporary: bool) -> Index:
    index = _usable(place, vocabulary)
    if index is None:
        with locked(place.with_name(f".{place.name}.lock")):
            index = _usable(place, vocabulary)
            if index is None:
                build_index(place, vocabulary)
                index = _usable(place, vocabulary)
    if index is None:
        raise OSError(f"{place} cannot be read back as it was written")
    if is_temporary:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile; what is mapped stays
            os.utime(place)  # it is in use: _temporary
    return index


def _usable(place: Path, vocabulary: VocabularyFile) -> Index | None:
    """The index at `place`; None if there is none, if it is cut, of another version, or of another vocabulary."""
    try:
        with place.open("rb") as file:
            header = json.loads(file.read(_HEADER))
            wanted = {"format": _FORMAT, "order": sys.byteorder, "sha256": vocabulary.sha256, "kind": vocabulary.kind}
            if not isinstance(header, dict) or any(header.get(k) != v for k, v in wanted.items()):
                return None
            sizes = [header["buckets"] + 1, header["keys"], header["texts"]]
            kinds = [np.dtype("=u8"), _ENTRY[vocabulary.kind], np.dtype("u1")]
            if os.fstat(file.fileno()).st_size != _HEADER + sum(n * k.itemsize for n, k in zip(sizes, kinds, strict=True)):
                return None
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            header_rows = header["first_row"], header["last_row"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    arrays, at = [], _HEADER
    for size, kind in zip(sizes, kinds, strict=True):
        arrays.append(np.frombuffer(mapped, kind, size, at) if size else np.zeros(0, kind))
        at += size * kind.itemsize
    return Index(vocabulary.kind, *header_rows, *arrays)


def build_index(place: Path, vocabulary: VocabularyFile) -> None:
    """Writes the index, which appears when it is whole. Raises DataError for a wrong vocabulary, OSError without room."""
    for remains in place.parent.glob(f".{place.name}.*.parts"):
        if _is_older(remains, _STALE):
            shutil.rmtree(remains, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".parts", dir=place.parent) as folder:
        parts = _Parts(Path(folder), vocabulary.kind, vocabulary.keys, vocabulary.path.stat().st_size)
        bounds: list[tuple[int, int]] = []
        for keys, rows in vocabulary.pieces():
            if len(rows):
                parts.add(keys, rows)
                bounds.append((int(rows.min()), int(rows.max())))
        parts.flush()
        first_row, last_row = (min(b[0] for b in bounds), max(b[1] for b in bounds)) if bounds else (0, -1)
        if vocabulary.kind == "text" and last_row >= 1 << 32:
            raise DataError(f"{vocabulary.path}: row {last_row:,} is beyond the {1 << 32:,} rows of an index. Cut the table.")
        buckets = 1 << parts.bucket_bits
        header = {
            "format": _FORMAT,
            "order": sys.byteorder,
            "sha256": vocabulary.sha256,
            "kind": vocabulary.kind,
            "keys": vocabulary.keys,
            "buckets": buckets,
            "texts": parts.text_bytes,
            "first_row": first_row,
            "last_row": last_row,
        }
        with whole_file(place) as file:
            file.write(json.dumps(header).encode().ljust(_HEADER))
            _write_parts(file, parts, buckets, vocabulary)


def _write_parts(file: BinaryIO, parts: "_Parts", buckets: int, vocabulary: VocabularyFile) -> None:
    kind = _ENTRY[vocabulary.kind]
    entries_at = _HEADER + 8 * (buckets + 1)
    texts_at = entries_at + kind.itemsize * vocabulary.keys
    each = buckets // parts.count
    entry, start = 0, 0
    for number in range(parts.count):
        entries, texts = parts.sorted(number, vocabulary, start)
        bounds = np.arange(number * each, (number + 1) * each, dtype=np.uint64) << np.uint64(64 - parts.bucket_bits)
        directory = entry + np.searchsorted(entries["hash"], bounds)
        for at, values in (
            (_HEADER + 8 * number * each, directory.astype(np.uint64)),
            (entries_at + kind.itemsize * entry, entries),
            (texts_at + start, texts),
        ):
            file.seek(at)
            file.write(values.tobytes() if isinstance(values, np.ndarray) else values)
        entry, start = entry + len(entries), start + len(texts)
    file.seek(_HEADER + 8 * buckets)
    file.write(np.uint64(entry).tobytes())


class _Parts:
    """The keys in files, one per range of hashes."""

    def __init__(self, folder: Path, kind: KeyType, keys: int, size: int):
        """size: bytes of the vocabulary's file."""
        self._folder, self._kind = folder, kind
        bits = max(0, (-(-(keys * 40 + 4 * size) // _PART_BYTES) - 1).bit_length())
        self.bucket_bits = max(1, bits, (keys // 4).bit_length())
        self.count, self._shift = 1 << bits, np.uint64(64 - bits)
        self._held: list[tuple[pa.Array, NDArray[np.int64]]] = []
        self.text_bytes = 0
        for path in (p for n in range(self.count) for p in self._paths(n)):
            path.touch()

    def _paths(self, number: int) -> list[Path]:
        """Of entries, and of texts if keys are texts."""
        return [self._folder / f"{number}.{of}" for of in ("entries", "texts")[: 2 if self._kind == "text" else 1]]

    def add(self, keys: pa.Array, rows: NDArray[np.int64]) -> None:
        """keys: (n,) without missing ones; rows: (n,). Written with others, when they are as many as a part has."""
        self._held.append((keys, rows))
        if sum(k.nbytes + r.nbytes for k, r in self._held) >= _PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was added. One file is open at a time: there may be more parts than a process may open files."""
        if not self._held:
            return
        keys, rows = pa.concat_arrays([k for k, _ in self._held]), np.concatenate([r for _, r in self._held])
        self._held = []
        hashes = _hashed(keys, self._kind)
        part = hashes >> self._shift if self.count > 1 else np.zeros(len(hashes), np.uint64)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(self.count + 1))
        entries = np.zeros(len(order), _ENTRY[self._kind])
        entries["hash"], entries["row"] = hashes[order], rows[order]
        offsets, texts = np.zeros(len(order) + 1, np.int64), memoryview(b"")
        if self._kind == "text":
            offsets, texts = text_buffers(keys.cast(pa.large_string()).take(pa.array(order)))
            entries["length"] = np.diff(offsets)
            self.text_bytes += len(texts)
        for number, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if first < last:
                of_part: list[bytes | memoryview] = [entries[first:last].tobytes(), texts[offsets[first] : offsets[last]]]
                for path, content in zip(self._paths(number), of_part, strict=False):
                    with path.open("ab") as file:
                        file.write(content)

    def sorted(self, number: int, vocabulary: VocabularyFile, start: int) -> tuple[NDArray, memoryview]:
        """(entries, texts) of a part by rising hash. start: where its texts will begin. Raises DataError for a key that stands
        in it twice."""
        paths = self._paths(number)
        entries = np.fromfile(paths[0], _ENTRY[self._kind])
        order = np.argsort(entries["hash"], kind="stable")
        if self._kind == "integer":
            entries, texts = entries[order], memoryview(b"")
        else:
            lengths = entries["length"].astype(np.int64)
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
            buffers = pa.py_buffer(offsets), pa.py_buffer(paths[1].read_bytes())
            taken = pa.LargeStringArray.from_buffers(len(entries), *buffers).take(pa.array(order))
            entries = entries[order]
            begins, texts = text_buffers(taken)
            entries["start"] = start + begins[:-1]
        alike = np.flatnonzero(entries["hash"][1:] == entries["hash"][:-1])
        if len(alike):
            _refuse_twice(entries, texts, start, alike, vocabulary)
        for path in paths:
            path.unlink()
        return entries, texts


def _refuse_twice(
    entries: NDArray, texts: memoryview, start: int, alike: NDArray[np.int64], vocabulary: VocabularyFile
) -> None:
    """alike: indices of entries that share their hash with the next one."""
    seen: set[tuple[int, bytes]] = set()
    for place in sorted({*alike.tolist(), *(alike + 1).tolist()}):
        entry, text = entries[place], b""
        if vocabulary.kind == "text":
            text = bytes(texts[int(entry["start"]) - start :][: int(entry["length"])])
        if (int(entry["hash"]), text) in seen:
            raise vocabulary.twice()
        seen.add((int(entry["hash"]), text))


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.int64], memoryview]:
    """(offsets (n + 1,) from 0 on, bytes) of texts without a copy of the latter. Nulls are as the buffers have them."""
    raw = texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    _, bounds, data = raw.buffers()
    if bounds is None or not len(raw):
        return np.zeros(len(raw) + 1, np.int64), memoryview(b"")
    offsets = np.frombuffer(bounds, np.int64)[raw.offset : raw.offset + len(raw) + 1]
    content = memoryview(data)[int(offsets[0]) : int(offsets[-1])] if data is not None else memoryview(b"")
    return offsets - offsets[0], content.cast("B")
