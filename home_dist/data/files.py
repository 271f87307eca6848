"""A split's Parquet files: found, opened and checked against the layout before the first step."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.data.column_kinds import KINDS, fits
from home_dist.data.order import RowGroup
from home_dist.errors import DataError
from home_dist.files.listing import Found, find_files
from home_dist.files.stores import Store, unreachable
from home_dist.schema import DenseFeature, IdInput, InputLayout, Schema

_REMOTE_THREADS = 16  # footers of an object store are waited for, not computed
_SIZED_GROUPS = 16  # of a file, whose values are counted


Uses = dict[str, tuple[str, ...]]
"""By column, what must stand in it for each of its uses: keys of KINDS."""


@dataclass(frozen=True)
class DataFiles:
    """The files of a split and the row groups in them, in the order of their names."""

    paths: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    columns: Uses
    """What is needed, with what must stand in it for each use: keys of KINDS."""
    dictionaries: tuple[str, ...] = ()
    """Columns of texts, as Parquet names what they hold: read as dictionaries and not text by text."""
    store: Store = field(default_factory=Store)
    names: tuple[str, ...] = ()
    """The paths below the split's folder."""
    partitions: tuple[Mapping[str, str | None], ...] = ()
    """Per file, the needed columns that its folders' names hold and not the file itself."""
    row_values: float = 1.0
    """Single values of a row, those in its lists included: the most that any row group has on average."""

    @property
    def rows(self) -> int:
        return sum(g.rows for g in self.groups)

    def fingerprint(self) -> str:
        """Of the files' names and row groups, which a position in an epoch refers to."""
        last = [p.rsplit("/", 1)[-1] for p in self.paths]
        return self._digest(last if len(set(last)) == len(last) else list(self.names))

    def older_fingerprint(self) -> str:
        """As it was when only the last parts of the files' names were in it."""
        return self._digest([p.rsplit("/", 1)[-1] for p in self.paths])

    def _digest(self, names: list[str]) -> str:
        groups = [(g.file, g.group, g.rows) for g in self.groups]
        return hashlib.sha256(repr((names, groups)).encode()).hexdigest()[:16]

    def shown(self, file: int) -> str:
        return self.store.show(self.paths[file])


def open_files(place: object, schema: Schema, layout: InputLayout) -> DataFiles:
    """Reads the footers of the Parquet files of a folder, a glob or a URL. Raises DataError naming file and column."""
    store, found = find_files(str(place))
    return open_found(store, found, schema, layout)


def open_found(store: Store, found: list[Found], schema: Schema, layout: InputLayout, rows_needed: bool = True) -> DataFiles:
    """A file without rows is passed over, whatever its columns: some writers leave such, without types. rows_needed: raises
    DataError where no file has any."""
    needed = needed_columns(schema, layout)
    if store.local:
        footers = [_footer(store, file, needed) for file in found]
    else:
        with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
            footers = list(pool.map(lambda file: _footer(store, file, needed), found))
    groups = [RowGroup(i, g, rows) for i, f in enumerate(footers) for g, rows in enumerate(f.sizes) if rows]
    if not groups and rows_needed:
        where = store.show(found[0].path.rsplit("/", 1)[0])
        raise DataError(f"{where}: its {len(found)} Parquet files hold no rows. Prepare the data again.")
    return DataFiles(
        paths=tuple(f.path for f in found),
        groups=tuple(groups),
        columns=needed,
        dictionaries=tuple(dict.fromkeys(leaf for f in footers for leaf in f.leaves)),
        store=store,
        names=tuple(f.name for f in found),
        partitions=tuple(f.partition for f in footers),
        row_values=max((f.row_values for f in footers), default=1.0),
    )


@dataclass(frozen=True)
class _Footer:
    """What is kept of a file's footer."""

    sizes: list[int]
    leaves: list[str]
    partition: Mapping[str, str | None]
    row_values: float


def _footer(store: Store, file: Found, needed: Uses) -> _Footer:
    opened = open_parquet(store, file.path)
    there = opened.schema_arrow
    partition = {c: file.partition[c] for c in partition_values(store, file, there, needed)}
    metadata = opened.metadata
    if not metadata.num_rows:
        return _Footer([], [], {}, float(len(needed)))
    check_columns(store.show(file.path), there, {c: k for c, k in needed.items() if c not in partition})
    leaves = [opened.schema.column(i).path for i in range(len(opened.schema))]
    read = [i for i, leaf in enumerate(leaves) if leaf.split(".")[0] in needed]
    texts = [leaves[i] for i in read if set(needed[leaves[i].split(".")[0]]) & {"text", "texts"}]
    sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    most = float(len(needed))
    for g in range(0, len(sizes), -(-len(sizes) // _SIZED_GROUPS) if sizes else 1):
        group = metadata.row_group(g)
        if group.num_rows:
            most = max(most, sum(group.column(i).num_values for i in read) / group.num_rows)
    return _Footer(sizes, texts, partition, most)


def partition_values(store: Store, file: Found, there: pa.Schema, uses: Uses) -> dict[str, pa.Scalar]:
    """By column: what the names of the file's folders say of those that are used and that the file does not hold itself."""
    own = {c: v for c, v in file.partition.items() if c in uses and there.get_field_index(c) < 0}
    return {c: partition_value(store.show(file.path), c, v, uses[c]) for c, v in own.items()}


def partition_value(path: str, column: str, value: str | None, kinds: Sequence[str]) -> pa.Scalar:
    """What a folder's name says of a column, for all of its uses. Raises DataError for a value that is none of the kind."""
    if set(kinds) <= {"text", "key"}:
        return pa.scalar(value, pa.string())
    try:
        if "integer" in kinds:
            return pa.scalar(None if value is None else int(value), pa.int64())
        if "number" in kinds:
            return pa.scalar(None if value is None else float(value), pa.float64())
    except (ValueError, OverflowError):
        pass
    needed = " and ".join(KINDS[kind] for kind in kinds)
    raise DataError(
        f"{path}: partition {column}={value}: {needed} are needed. Correct the schema's entry for the column, or give "
        "the files a column of that name."
    )


def open_parquet(
    store: Store,
    path: str,
    dictionaries: tuple[str, ...] = (),
    metadata: pq.FileMetaData | None = None,
    buffer_size: int = 0,
) -> pq.ParquetFile:
    """metadata: the file's footer, where it has been read before. buffer_size: of a column, to read it piece by piece."""
    shown = store.show(path)
    try:
        file = store.filesystem.open_input_file(path)
        if file.size() == 0:
            raise DataError(f"{shown}: the file is empty (0 bytes). Write it again or remove it.")
        # Only with checksums is a flipped bit within a page told from a value; files without them are read as they are.
        return pq.ParquetFile(
            file,
            page_checksum_verification=True,
            read_dictionary=list(dictionaries),
            metadata=metadata,
            buffer_size=buffer_size,
            pre_buffer=not store.local and not buffer_size,
        )
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and not store.local:
            raise unreachable(store, path, error) from None
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{shown}: no readable Parquet file, it may be truncated ({reason}). Write it again or remove it."
        ) from None


def needed_inputs(layout: InputLayout) -> Uses:
    """The columns that a model reads."""
    needed: list[tuple[str, str]] = []
    for item in layout.inputs:
        needed.append((item.column, "number" if item.key in layout.statistics else _kind_of(item)))
        if item.weights is not None:
            needed.append((item.weights, "numbers"))
    needed += [(v.column, "numbers" if v.frozen is None else v.frozen.type) for v in layout.pretrained]
    for feature in layout.dense:
        wide = isinstance(feature, DenseFeature) and feature.width > 1
        needed.append((feature.column, "numbers" if wide else "number"))
    return by_column(needed)


def needed_columns(schema: Schema, layout: InputLayout) -> Uses:
    """The same, with labels, their weights and what GAUC groups by."""
    needed = [(column, kind) for column, kinds in needed_inputs(layout).items() for kind in kinds]
    for task in schema.task:
        needed.append((task.column, "number"))
        if task.weight_column:
            needed.append((task.weight_column, "number"))
    if schema.group_column:
        needed.append((schema.group_column, "key"))
    return by_column(needed)


def by_column(needed: Iterable[tuple[str, str]]) -> Uses:
    kinds: dict[str, dict[str, None]] = {}
    for column, kind in needed:
        kinds.setdefault(column, {})[kind] = None
    return {column: tuple(own) for column, own in kinds.items()}


def _kind_of(item: IdInput) -> str:
    one = "integer" if item.rows_of is None else item.rows_of.type
    return f"{one}s" if item.is_list else one


def check_columns(path: str, there: pa.Schema, needed: Mapping[str, Sequence[str]], asked_by: str = "schema") -> None:
    """Raises DataError, which names file and column, for what is not there or of a type that one of its uses cannot read.

    asked_by: what names the columns, "schema", "draft" or "program".
    """
    for column, kinds in needed.items():
        position = there.get_field_index(column)
        if position < 0:
            close = ", ".join(sorted(there.names)[:20])
            exclude = ", or leave the feature out with data.exclude" if asked_by == "schema" else ""
            raise DataError(
                f"{path}: column {column!r} is missing; the {asked_by} needs it. The file has: {close}, ... "
                f"Prepare the data again{exclude}."
            )
        kind = there.field(position).type
        for wanted in kinds:
            if not fits(kind, wanted):
                raise DataError(
                    f"{path}: column {column!r} has type {kind}, but {KINDS[wanted]} are needed. "
                    f"Correct the {asked_by}'s entry for it or prepare the data again."
                )
