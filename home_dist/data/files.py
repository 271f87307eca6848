"""Finds a split's Parquet files, and checks their footers against the layout before the first step."""

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

_REMOTE_THREADS = 16  # threads that wait for footers from an object store
_SIZED_GROUPS = 16  # most row groups of a file whose values are counted


Uses = dict[str, tuple[str, ...]]
"""By column: the kind of values that each of its uses needs, as keys of KINDS."""


@dataclass(frozen=True)
class DataFiles:
    """The files of a split and the row groups in them, in the order of their names."""

    paths: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    columns: Uses
    """The needed columns."""
    dictionaries: tuple[str, ...] = ()
    """Leaf columns of texts, by their Parquet paths. They are read as dictionaries, not text by text."""
    store: Store = field(default_factory=Store)
    names: tuple[str, ...] = ()
    """The paths below the split's folder."""
    partitions: tuple[Mapping[str, str | None], ...] = ()
    """Per file: the needed columns whose values are in its folders' names, not in the file."""
    row_values: float = 1.0
    """Values per row, with each value in a list counted: the largest average of a row group."""
    request: tuple[str, ...] = ()
    """Columns whose values together name a row's request (`data.request`)."""

    @property
    def rows(self) -> int:
        return sum(g.rows for g in self.groups)

    def fingerprint(self) -> str:
        """Digest of the files' names and row groups, on which a position in an epoch depends."""
        last = [p.rsplit("/", 1)[-1] for p in self.paths]
        return self._digest(last if len(set(last)) == len(last) else list(self.names))

    def older_fingerprint(self) -> str:
        """The fingerprint of older versions, which took only the last parts of the files' names."""
        return self._digest([p.rsplit("/", 1)[-1] for p in self.paths])

    def _digest(self, names: list[str]) -> str:
        groups = [(g.file, g.group, g.rows) for g in self.groups]
        return hashlib.sha256(repr((names, groups)).encode()).hexdigest()[:16]

    def shown(self, file: int) -> str:
        return self.store.show(self.paths[file])


def open_files(place: object, schema: Schema, layout: InputLayout, request: Sequence[str] = ()) -> DataFiles:
    """Reads the footers of the Parquet files of a folder, a glob or a URL. Raises DataError, which names file and column."""
    store, files = find_files(str(place))
    return open_found(store, files, schema, layout, request=request)


def open_found(
    store: Store,
    files: list[Found],
    schema: Schema,
    layout: InputLayout,
    rows_needed: bool = True,
    request: Sequence[str] = (),
) -> DataFiles:
    """Reads the footers of files. Files without rows are skipped, whatever their columns: some writers leave them, without
    types. rows_needed: raise DataError if no file has rows. request: columns that name a row's request."""
    uses = [(column, kind) for column, kinds in needed_columns(schema, layout).items() for kind in kinds]
    teachers = tuple(layout.teachers.values())
    needed = by_column([*uses, *((column, "key") for column in request)])
    if store.local:
        footers = [_footer(store, file, needed, request, teachers) for file in files]
    else:
        with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
            footers = list(pool.map(lambda file: _footer(store, file, needed, request, teachers), files))
    groups = [RowGroup(i, g, rows) for i, f in enumerate(footers) for g, rows in enumerate(f.sizes) if rows]
    if not groups and rows_needed:
        where = store.show(files[0].path.rsplit("/", 1)[0])
        raise DataError(f"{where}: its {len(files)} Parquet files hold no rows. Prepare the data again.")
    return DataFiles(
        paths=tuple(f.path for f in files),
        groups=tuple(groups),
        columns=needed,
        dictionaries=tuple(dict.fromkeys(leaf for f in footers for leaf in f.leaves)),
        store=store,
        names=tuple(f.name for f in files),
        partitions=tuple(f.partition for f in footers),
        row_values=max((f.row_values for f in footers), default=1.0),
        request=tuple(request),
    )


def joined(files: Sequence[DataFiles]) -> DataFiles:
    """Files of several splits as one, in this order."""
    groups, first = [], 0
    for part in files:
        groups += [g._replace(file=first + g.file) for g in part.groups]
        first += len(part.paths)
    return DataFiles(
        paths=tuple(p for part in files for p in part.paths),
        groups=tuple(groups),
        columns=files[0].columns,
        dictionaries=tuple(dict.fromkeys(d for part in files for d in part.dictionaries)),
        store=files[0].store,
        names=tuple(n for part in files for n in part.names),
        partitions=tuple(p for part in files for p in part.partitions),
        row_values=max(part.row_values for part in files),
        request=files[0].request,
    )


@dataclass(frozen=True)
class _Footer:
    """The facts kept from a file's footer."""

    sizes: list[int]
    leaves: list[str]
    partition: Mapping[str, str | None]
    row_values: float


def _footer(store: Store, file: Found, needed: Uses, request: Sequence[str], teachers: Sequence[str]) -> _Footer:
    opened = open_parquet(store, file.path)
    schema = opened.schema_arrow
    partition = {c: file.partition[c] for c in partition_values(store, file, schema, needed)}
    metadata = opened.metadata
    if not metadata.num_rows:
        return _Footer([], [], {}, float(len(needed)))
    keys = {c: ("key",) for c in request if c not in partition}
    check_columns(store.show(file.path), schema, keys, asked_by="run's data.request")
    taught = {c: ("number",) for c in teachers if c not in partition}
    check_columns(store.show(file.path), schema, taught, asked_by="run's train.distillation")
    check_columns(store.show(file.path), schema, {c: k for c, k in needed.items() if c not in partition})
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


def partition_values(store: Store, file: Found, columns: pa.Schema, uses: Uses) -> dict[str, pa.Scalar]:
    """Values that the names of the file's folders give to used columns that the file itself lacks."""
    texts = {c: v for c, v in file.partition.items() if c in uses and columns.get_field_index(c) < 0}
    return {c: partition_value(store.show(file.path), c, v, uses[c]) for c, v in texts.items()}


def partition_value(path: str, column: str, value: str | None, kinds: Sequence[str]) -> pa.Scalar:
    """A column's value from a folder's name, in a type for all of its uses. Raises DataError for a value of another kind."""
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
    """Opens a file, or raises DataError. metadata: its footer, if already read. buffer_size: bytes per column, to read columns
    piece by piece."""
    shown = store.show(path)
    try:
        file = store.filesystem.open_input_file(path)
        if file.size() == 0:
            raise DataError(f"{shown}: the file is empty (0 bytes). Write it again or remove it.")
        # Only a checksum reveals a flipped bit within a page. Files without checksums are read unchecked.
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
    """Columns of the model's inputs, and the kinds of values that they need."""
    uses: list[tuple[str, str]] = []
    for item in layout.inputs:
        uses.append((item.column, "number" if item.key in layout.statistics else _kind_of(item)))
        if item.weights is not None:
            uses.append((item.weights, "numbers"))
    uses += [(v.column, "numbers" if v.frozen is None else v.frozen.type) for v in layout.pretrained]
    for feature in layout.dense:
        wide = isinstance(feature, DenseFeature) and feature.width > 1
        uses.append((feature.column, "numbers" if wide else "number"))
    uses += [(column, "number") for column in layout.durations]
    return by_column(uses)


def needed_columns(schema: Schema, layout: InputLayout) -> Uses:
    """As `needed_inputs`, with labels, their weights, their teachers and the group column of GAUC."""
    uses = [(column, kind) for column, kinds in needed_inputs(layout).items() for kind in kinds]
    for task in schema.task:
        uses.append((task.column, "number"))
        if task.weight_column:
            uses.append((task.weight_column, "number"))
    uses += [(column, "number") for column in layout.teachers.values()]
    if schema.group_column:
        uses.append((schema.group_column, "key"))
    return by_column(uses)


def by_column(uses: Iterable[tuple[str, str]]) -> Uses:
    kinds: dict[str, dict[str, None]] = {}
    for column, kind in uses:
        kinds.setdefault(column, {})[kind] = None
    return {column: tuple(column_kinds) for column, column_kinds in kinds.items()}


def _kind_of(item: IdInput) -> str:
    kind = "integer" if item.look_up is None else item.look_up.type
    return f"{kind}s" if item.is_list else kind


_ADVICE = {
    "schema": "Prepare the data again, or leave the feature out with data.exclude",
    "run's train.distillation": "Write it with `home-dist score --all-columns --prefix`, or correct the section's `prefix`",
}


def check_columns(path: str, schema: pa.Schema, needed: Mapping[str, Sequence[str]], asked_by: str = "schema") -> None:
    """Raises DataError, which names file and column, for a column that is missing, stands there more than once, or whose type
    does not fit one of its uses.

    asked_by: who needs the columns, for messages: "schema", "draft", "program", "run's data.request" or "run's
    train.distillation".
    """
    for column, kinds in needed.items():
        positions = schema.get_all_field_indices(column)
        if len(positions) > 1:
            raise DataError(
                f"{path}: {len(positions)} columns are called {column!r}; the {asked_by} needs one. Rename or drop others."
            )
        if not positions:
            close = ", ".join(sorted(schema.names)[:20])
            advice = _ADVICE.get(asked_by, "Prepare the data again")
            raise DataError(
                f"{path}: column {column!r} is missing; the {asked_by} needs it. The file has: {close}, ... {advice}."
            )
        kind = schema.field(positions[0]).type
        for wanted in kinds:
            if not fits(kind, wanted):
                raise DataError(
                    f"{path}: column {column!r} has type {kind}, but {KINDS[wanted]} are needed. "
                    f"Correct the {asked_by}'s entry for it or prepare the data again."
                )
