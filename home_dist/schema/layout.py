"""Maps each column to an input of the batch. Reader and network both follow this layout.

A small table is *replicated* (kept whole on every rank, looked up locally); other tables are *sharded*. Sharded tables that a
history uses, or that are pooled in two ways, are in an EmbeddingCollection (one vector per id); other sharded tables are in an
EmbeddingBagCollection (pooled where they are stored).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from home_dist.config import PretrainedSection, RunConfig
from home_dist.errors import ConfigError
from home_dist.ids.managed_sets import STATE_BYTES, ManagedSets
from home_dist.ids.rows import ManagedKeys, RowsOf
from home_dist.schema.frozen import FrozenTable, open_frozen
from home_dist.schema.label_inputs import LabelInput, label_inputs
from home_dist.schema.spec import (
    DenseFeature,
    IdFeature,
    Pooling,
    PretrainedFeature,
    Schema,
    SequenceSpec,
    StatisticFeature,
)
from home_dist.schema.values import HashValues, open_values

Place = Literal["small", "small_list", "bag", "weighted_bag", "event", "managed"]
_CACHED = 0.2  # share of the rows of a cached table that a GPU holds by default
ONE_BY_ONE: tuple[Place, ...] = ("event", "managed")
"""Places with one looked-up vector per id, which the network pools."""


@dataclass(frozen=True)
class Table:
    """A table as a run uses it. rows: after cutting the tail; dim: its width."""

    name: str
    rows: int
    dim: int
    replicated: bool
    managed: Literal["lfu", "lru"] | None = None
    """If set, rows are assigned to new ids during training; the batch holds 62-bit hashes."""
    half: bool = False
    """Weights are fp16."""
    memory: Literal["device", "host", "cached"] = "device"
    """Where GPUs keep it."""
    admit: int = 1
    """Occurrences after which an id gets a row of a managed table."""
    max_age: int | None = None
    """Steps after which an unseen id loses it."""
    cached_rows: float = 1.0
    """Share of rows on the device."""
    sets: int = 1
    """Vectors that a row holds side by side: the shared one, which alone histories read, then one per task, for models that ask
    for them (`ModelSection.table_sets`)."""

    @property
    def shared_dim(self) -> int:
        return self.dim // self.sets

    def is_in_host_memory(self, platform: str) -> bool:
        """Whether devices of this platform, such as "cuda", keep it in their host's memory. A CPU has no other."""
        return platform == "cuda" and self.memory != "device"

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return 2 if self.half else 4

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return self.rows * self.dim * self.weight_bytes

    @property
    def managed_bytes(self) -> int:
        """Bytes of the ids of a managed table's rows; 0 of others."""
        return self.rows * STATE_BYTES if self.managed else 0


@dataclass(frozen=True)
class IdInput:
    """A column of ids. `key` names it in the batch: a KeyedJaggedTensor's key, or a column of `Batch.small`.

    place: "small" a column of Batch.small; "small_list" a key of Batch.small_lists; "bag" a key of Batch.bags; "weighted_bag" a
    key of Batch.weighted_bags; "event" a key of Batch.events; "managed" a key of Batch.managed.
    """

    key: str
    column: str
    table: Table
    is_list: bool
    pooling: Pooling
    place: Place
    declared_rows: int
    """Exclusive bound of the ids in the file; ids from table.rows up to it are read as 0."""
    weights: str | None = None
    """Column of a weighted list's weights."""
    rows_of: RowsOf | None = field(default=None, compare=False)
    """Maps the column's values to rows; None for a column that holds rows."""
    translated: RowsOf | None = field(default=None, compare=False)
    """For a column that holds rows of another data set's table: maps them to this table's."""
    once: bool = False
    """Its values are the same in all rows of a request (`data.once_per_request`); a batch holds them in the first one."""

    @property
    def look_up(self) -> RowsOf | None:
        """Maps what the files hold to rows; None if they hold the rows themselves."""
        return self.rows_of or self.translated


@dataclass(frozen=True)
class EventInput:
    field: IdInput
    target: IdInput | None


@dataclass(frozen=True)
class SequenceInput:
    name: str
    fields: tuple[EventInput, ...]


@dataclass(frozen=True)
class PretrainedInput:
    """Vectors of `width` in the batch, projected to `dim`."""

    name: str
    column: str
    width: int
    dim: int
    normalise: bool
    frozen: FrozenTable | None = field(default=None, compare=False)
    """The table that the column's ids look up; None for a column of vectors."""


@dataclass(frozen=True)
class InputLayout:
    features: tuple[IdInput, ...]
    """Id features and bucketised statistics, in the order of the feature vector."""
    statistics: dict[str, StatisticFeature]
    """By the key of their input."""
    dense: tuple[DenseFeature | StatisticFeature, ...]
    sequences: tuple[SequenceInput, ...]
    tables: tuple[Table, ...]
    pretrained: tuple[PretrainedInput, ...] = ()
    labels: tuple[LabelInput, ...] = ()
    """By task of the schema."""
    clip: float | None = None
    """Standardised values are clipped to -clip .. clip."""

    @property
    def inputs(self) -> tuple[IdInput, ...]:
        """All columns of ids: features and fields of histories."""
        fields = tuple(e.field for s in self.sequences for e in s.fields)
        return self.features + fields

    def of_each_input(self, change: Callable[[IdInput], IdInput]) -> "InputLayout":
        """The layout with each column of ids changed, in features and histories alike."""
        sequences = tuple(
            replace(s, fields=tuple(replace(e, field=change(e.field), target=e.target and change(e.target)) for e in s.fields))
            for s in self.sequences
        )
        return replace(self, features=tuple(map(change, self.features)), sequences=sequences)

    @property
    def weighted(self) -> tuple[IdInput, ...]:
        """Lists that are pooled after the look-up, by weights in `Batch.list_weights`."""
        return tuple(i for i in self.features if i.weights is not None and i.place != "weighted_bag")

    def at(self, place: Place) -> tuple[IdInput, ...]:
        return tuple(i for i in self.inputs if i.place == place)

    @property
    def durations(self) -> tuple[str, ...]:
        """Columns of durations that objectives read."""
        return tuple(dict.fromkeys(label.duration for label in self.labels if label.duration is not None))

    @property
    def teachers(self) -> dict[int, str]:
        """By number of a task that has a teacher: the column of its predictions."""
        return {k: label.teacher for k, label in enumerate(self.labels) if label.teacher is not None}

    @property
    def untaught(self) -> "InputLayout":
        """The layout of splits that are not trained on, which need no teacher."""
        return replace(self, labels=tuple(replace(label, teacher=None) for label in self.labels)) if self.teachers else self

    @property
    def dense_width(self) -> int:
        return sum(f.width if isinstance(f, DenseFeature) else 1 for f in self.dense)


def build_layout(schema: Schema, config: RunConfig) -> InputLayout:
    """The layout of a run. Raises ConfigError for names of features, tables or sequences that the schema lacks."""
    features = [f for f in schema.feature if not _excluded(f.name, config.data.exclude)]
    for pattern in config.data.exclude:
        if not any(_excluded(f.name, (pattern,)) for f in schema.feature):
            raise ConfigError(f"data.exclude: {pattern!r} matches no feature of {config.schema_path()}")
    known = {f.name for f in schema.feature if isinstance(f, PretrainedFeature)}
    for name in config.embedding.pretrained:
        if name not in known:
            known_names = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"embedding.pretrained.{name}: no pre-trained feature of {config.schema_path()}; there are: {known_names}"
            )
    for key, names in config.model.named_features().items():
        missing = sorted(set(names) - {f.name for f in features})
        if missing:
            known_names = ", ".join(f.name for f in features)
            raise ConfigError(f"model.{key}: {missing[0]!r} is no feature of this run; there are: {known_names}")
    of_model = {f"model.{key}": names for key, names in config.model.named_tasks().items()}
    for key, names in {**of_model, "model.towers": tuple(config.model.towers)}.items():
        missing = sorted(set(names) - {t.name for t in schema.task})
        if missing:
            known_names = ", ".join(t.name for t in schema.task)
            raise ConfigError(f"{key}: {missing[0]!r} is no task of this run; there are: {known_names}")
    sequences = _chosen_sequences(schema, config)
    sets = config.model.table_sets(len(schema.task))
    looked_up = {f.table for f in features if isinstance(f, IdFeature)}
    tables = _tables(schema, config, {t.name: sets if t.name in looked_up else 1 for t in schema.table})
    pooled = _tables_pooled_at_home(features, sequences)

    specs = {t.name: t for t in schema.table}
    opened: dict[str, RowsOf | None] = {}

    def place(table: Table, is_list: bool) -> Place:
        if table.replicated:
            return "small_list" if is_list else "small"
        if table.managed:
            return "managed"
        return pooled.get(table.name, "event")

    def rows_of(table: Table) -> RowsOf | None:
        spec = specs[table.name]
        if table.managed and isinstance(spec.values, HashValues):
            return ManagedKeys(spec.values.type, spec.values.seed)
        if table.name not in opened and spec.values is not None:
            rows = table.rows if isinstance(spec.values, HashValues) else spec.rows
            opened[table.name] = open_values(table.name, spec.values, rows, config.schema_path().parent)
        return opened.get(table.name)

    def id_input(
        key: str, column: str, table: Table, pooling: Pooling, is_list: bool, declared: int, weights: str | None = None
    ) -> IdInput:
        declared = table.rows if table.managed else declared
        return IdInput(key, column, table, is_list, pooling, place(table, is_list), declared, weights, rows_of(table))

    by_name: dict[str, IdInput] = {}
    statistics: dict[str, StatisticFeature] = {}
    dense: list[DenseFeature | StatisticFeature] = []
    pretrained: list[PretrainedInput] = []
    declared = schema.table_rows()
    for feature in features:
        if isinstance(feature, IdFeature):
            by_name[feature.name] = id_input(
                feature.name,
                feature.column,
                tables[feature.table],
                feature.pooling,
                feature.pooling != "none",
                declared[feature.table],
                feature.weights,
            )
        elif isinstance(feature, StatisticFeature):
            width = config.embedding.small_dim * sets
            buckets = Table(feature.name, feature.buckets, width, replicated=True, sets=sets)
            by_name[feature.name] = IdInput(feature.name, feature.column, buckets, False, "none", "small", feature.buckets)
            statistics[feature.name] = feature
            if config.embedding.dense_statistics:
                dense.append(feature)
        elif isinstance(feature, PretrainedFeature):
            pretrained.append(_pretrained(feature, config))
        else:
            dense.append(feature)

    inputs = []
    for sequence in sequences:
        fields = []
        for event in sequence.events:
            key = f"{sequence.name}/{event.column}"
            if event.target is not None and event.target not in by_name:
                raise ConfigError(f"data.exclude: {event.target!r} is the target of sequence {sequence.name!r}; drop both")
            target = by_name[event.target] if event.target is not None else None
            table = tables[event.table]
            fields.append(EventInput(id_input(key, event.column, table, "none", True, declared[event.table]), target))
        inputs.append(SequenceInput(sequence.name, tuple(fields)))
    used = {i.table for i in by_name.values()} | {e.field.table for s in inputs for e in s.fields}
    ordered = tuple(t for t in tables.values() if t in used)
    return InputLayout(
        tuple(by_name.values()),
        statistics,
        tuple(dense),
        tuple(inputs),
        ordered,
        tuple(pretrained),
        clip=config.embedding.clip,
        labels=label_inputs(schema.task, config),
    )


def _pretrained(feature: PretrainedFeature, config: RunConfig) -> PretrainedInput:
    section = config.embedding.pretrained.get(feature.name, PretrainedSection())
    table = None
    if feature.frozen is not None:
        folder = config.schema_path().parent / feature.frozen
        wanted = f"feature {feature.name!r}"
        table = open_frozen(folder, feature.width, feature.type, wanted, "Correct the feature's width")
    return PretrainedInput(feature.name, feature.column, feature.width, section.dim, section.normalise, table)


def _excluded(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


def _chosen_sequences(schema: Schema, config: RunConfig) -> list[SequenceSpec]:
    known = {s.name: s for s in schema.sequence}
    for section in config.sequence:
        if section.name not in known:
            known_names = ", ".join(known) or "none"
            raise ConfigError(f"sequence {section.name!r} is not in {config.schema_path()}; there are: {known_names}")
    return [known[s.name] for s in config.sequence]


def _tables(schema: Schema, config: RunConfig, sets: Mapping[str, int]) -> dict[str, Table]:
    settings = config.embedding.tables
    unknown = sorted(set(settings) - set(schema.table_rows()))
    if unknown:
        known_names = ", ".join(schema.table_rows())
        raise ConfigError(f"embedding.tables.{unknown[0]}: {config.schema_path()} has no such table; there are: {known_names}")
    tables = {}
    specs = {t.name: t for t in schema.table}
    for name, declared in schema.table_rows().items():
        section = settings.get(name)
        rows = min(declared, section.keep_rows) if section and section.keep_rows else declared
        if section and section.keep_rows == 1 and isinstance(specs[name].values, HashValues):
            raise ConfigError(f"embedding.tables.{name}.keep_rows: 1 leaves no row to hash to; use at least 2")
        managed = section.managed if section else None
        if managed and not isinstance(specs[name].values, HashValues):
            raise ConfigError(
                f"embedding.tables.{name}.managed: the table's columns must hold ids, not rows: its entry in "
                f'{config.schema_path()} needs values = {{ kind = "hash", ... }}'
            )
        replicated = rows <= config.embedding.replicate_rows and not (section and section.sharding) and not managed
        dim = (section.dim if section else None) or (config.embedding.small_dim if replicated else config.embedding.dim)
        if not replicated and dim % 4:
            raise ConfigError(f"embedding.tables.{name}.dim: {dim} is not a multiple of 4, which sharded tables need")
        # FBGEMM itself updates the weights of fused tables; other tables are fp32.
        fused = not replicated and not managed and not (section and section.sharding == "data_parallel")
        if replicated and section and section.precision == "fp16":
            raise ConfigError(
                f"embedding.tables.{name}.precision: a table of {rows:,} rows is kept whole on every rank "
                f"(embedding.replicate_rows = {config.embedding.replicate_rows:,}), in fp32. Leave precision out, or pin its "
                "sharding or lower embedding.replicate_rows, so that it is sharded."
            )
        if replicated and section and section.memory != "device":
            raise ConfigError(
                f"embedding.tables.{name}.memory: a table of {rows:,} rows is kept whole on every rank "
                f"(embedding.replicate_rows = {config.embedding.replicate_rows:,}), on its device. Leave memory out, or pin "
                "its sharding or lower embedding.replicate_rows, so that it is sharded."
            )
        half = fused and ((section.precision if section else None) or config.embedding.precision) == "fp16"
        memory = section.memory if section else "device"
        on_device = {"device": 1.0, "host": 0.0, "cached": (section and section.cached_rows) or _CACHED}[memory]
        tables[name] = Table(
            name,
            ManagedSets.of(rows).rows if managed else rows,
            dim * sets[name],
            replicated,
            managed=managed if managed != "hashed" else None,
            half=half,
            memory=memory,
            admit=section.admit if section else 1,
            max_age=section.max_age if section else None,
            cached_rows=on_device,
            sets=sets[name],
        )
    return tables


def _tables_pooled_at_home(features: list, sequences: list[SequenceSpec]) -> dict[str, Place]:
    """By table: its bag's place, for tables that all users pool alike. Other tables cannot be embedding bags."""
    poolings: dict[str, set[str]] = {}
    for feature in features:
        if isinstance(feature, IdFeature):
            poolings.setdefault(feature.table, set()).add(feature.pooling)
    in_history = {e.table for s in sequences for e in s.events}
    # A bag of one id is the same under any pooling, so that "none" fits each.
    alike = {t: p - {"none"} for t, p in poolings.items() if t not in in_history and len(p - {"none"}) <= 1}
    return {t: "weighted_bag" if "weighted" in p else "bag" for t, p in alike.items()}
