"""The [embedding] section: widths, precision, sharding and optimizer of tables."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from home_dist.config.section import Rate, Section
from home_dist.files.places import is_remote

Sharding = Literal["table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid", "data_parallel"]


class TableSection(Section):
    dim: int | None = Field(default=None, ge=1)
    """Width of the table; by default embedding.dim, or small_dim for a small table."""
    keep_rows: int | None = Field(default=None, ge=1)
    """Keeps only the first rows; larger ids become 0. Pipelines order vocabularies by frequency, so that this cuts the tail."""
    sharding: Sharding | None = None
    """How TorchRec shards the table; by default its planner chooses among the first three. For tables that are pooled where
    they are stored: table_row_wise spreads rows, table_column_wise columns, over the ranks of one host; grid spreads columns
    over hosts, and rows within each host."""
    precision: Literal["fp32", "fp16"] | None = None
    """Precision of the table's weights; by default embedding.precision."""
    managed: Literal["lfu", "lru", "hashed"] | None = None
    """For a hashed table: ids do not share rows. New ids get rows; when all are taken, the rarest (lfu) or the longest unseen
    (lru) ids lose theirs. The table is sharded row-wise."""
    admit: int = Field(default=1, ge=1)
    """Of a managed table: an id gets a row when it has occurred so often in training. Until then it shares a row."""
    max_age: int | None = Field(default=None, ge=1)
    """Of a managed table: an id loses its row when it has not occurred for so many steps."""

    start: str | None = Field(default=None, min_length=1)
    """Folder of vectors trained elsewhere, as `home-dist prepare frozen` writes it, with which a new run begins: rows of these
    keys hold them, unscaled, in place of drawn values. Keys are matched by the table's vocabulary or hash; where columns hold
    rows and no vocabulary is there, a key is a row's number. Of several keys that are hashed to one row, the last in the
    folder's order counts. `dim` must be the vectors' width. A resumed run ignores it; a warm start replaces what it takes
    over."""

    memory: Literal["device", "host", "cached"] = "device"
    """Where GPUs keep a sharded table: "host" leaves it in their host's memory (FBGEMM's unified memory), "cached" also, with
    the rows that are looked up most in a cache on the device. On a CPU it makes no difference."""
    cached_rows: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows that the cache of a table with memory = "cached" holds; by default 0.2."""

    @model_validator(mode="after")
    def _memory_of_fused_tables(self) -> "TableSection":
        if self.cached_rows is not None and self.memory != "cached":
            raise ValueError('cached_rows: only memory = "cached" has a cache. Set it, or leave cached_rows out')
        if self.memory != "device" and (self.managed or self.sharding == "data_parallel"):
            kind = f'managed = "{self.managed}"' if self.managed else 'sharding = "data_parallel"'
            raise ValueError(f'memory: "{self.memory}" is for tables that FBGEMM updates in place, not with {kind}')
        return self

    @model_validator(mode="after")
    def _admits_to_managed(self) -> "TableSection":
        key = "admit" if self.admit > 1 else "max_age"
        if not self.managed and (self.admit > 1 or self.max_age is not None):
            raise ValueError(f'{key}: only managed tables give rows to ids. Set managed = "lfu" or "lru", or leave {key} out')
        return self

    @model_validator(mode="after")
    def _starts_where_rows_are_known(self) -> "TableSection":
        if self.start is not None and self.managed:
            raise ValueError("start: rows of managed tables are given to ids as they come, so that none is known at the start")
        if self.start is not None and is_remote(self.start):
            raise ValueError("start: the folder is memory-mapped; copy it to a disk of each host, and name that place")
        return self

    @model_validator(mode="after")
    def _managed_as_torchrec_can(self) -> "TableSection":
        if self.managed == "hashed":
            raise ValueError(
                "managed: TorchRec's hashed kind does not train on a CPU: FBGEMM 1.8's zero_collision_hash only reads there "
                "and inserts no ids. Use 'lfu' or 'lru', which its sorted kind does"
            )
        if self.managed and self.precision == "fp16":
            raise ValueError("precision: managed tables are fp32: fp16 is for others")
        if self.sharding == "data_parallel" and self.precision == "fp16":
            raise ValueError("precision: tables that are data_parallel are fp32, as their gradients are summed over ranks")
        if self.managed and self.sharding not in (None, "row_wise"):
            raise ValueError(f"sharding: TorchRec shards managed ids row-wise only, not {self.sharding}")
        return self


class PretrainedSection(Section):
    dim: int = Field(default=16, ge=1)
    """Width to which the vectors are projected."""
    normalise: bool = False
    """Divides each vector by its length before the projection."""


class EmbeddingSection(Section):
    dim: int = Field(default=16, ge=4, multiple_of=4)
    """Width of sharded tables."""
    small_dim: int = Field(default=8, ge=1)
    """Width of small tables, including tables of statistics' buckets."""
    replicate_rows: int = Field(default=1024, ge=0)
    """Tables of at most so many rows whose features have one id per sample are kept whole on every rank: a local look-up is
    cheaper than an exchange. They are trained with the dense parameters."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Of sharded tables' weights. fp16 halves their memory; look-ups return fp32, and the optimizer's state stays fp32. On GPUs
    FBGEMM rounds updates stochastically: small ones count on average. On a CPU it rounds to nearest: small ones can be lost."""
    optimizer: Literal["row_wise_adagrad", "adagrad", "sgd"] = "row_wise_adagrad"
    """Of sharded tables, fused into their backward; all three run in FBGEMM on every device. Row-wise Adagrad keeps one number
    per row (and shard, if the table is sharded column-wise), Adagrad one per weight, SGD none."""
    lr: float = Field(default=0.05, gt=0)
    """Learning rate of sharded tables."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Must be 0: rows of sharded tables do not decay. The key remains for files of older runs."""
    replicated_weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay (AdamW) of the small tables that every rank keeps."""
    init_std: float = Field(default=0.01, gt=0)
    """Standard deviation of the tables' first values."""
    dropout: Rate = 0.0
    """Dropout of the looked-up feature vector, in training."""
    dense_statistics: bool = True
    """Feeds statistics standardised, in addition to by bucket."""
    clip: float | None = Field(default=None, gt=0)
    """Clips standardised values to -clip .. clip, so that one wrong value of 1e30 does not dominate all others."""
    dedup: bool | None = None
    """Whether an id that histories of a batch have several times is looked up, exchanged and updated once on each rank. The
    sums are the same, in another order. By default on CPUs: the reader takes 5 to 20 ns per event to find distinct ids, and
    FBGEMM 100 ns to update the row of one more. On GPUs it pays where ids repeat, and the exchange is what bounds a step."""
    prefetch: bool = False
    """Whether GPUs fetch the next batch's rows into the caches of tables with memory = "cached" during the step (TorchRec's
    PrefetchTrainPipelineSparseDist)."""
    tables: dict[str, TableSection] = Field(default_factory=dict)
    """Settings by name of a table."""
    pretrained: dict[str, PretrainedSection] = Field(default_factory=dict)
    """Settings by name of a pre-trained feature."""

    @model_validator(mode="after")
    def _prefetches_into_caches(self) -> "EmbeddingSection":
        if self.prefetch and not any(t.memory == "cached" for t in self.tables.values()):
            raise ValueError('prefetch: no table has memory = "cached", so that there is no cache to fill')
        return self

    @field_validator("weight_decay")
    @classmethod
    def _decay_has_effect(cls, value: float) -> float:
        if value:
            raise ValueError(
                "FBGEMM 1.8 takes a decay of sharded tables' rows and, on a CPU, ignores it with every optimizer; set it to 0. "
                "The small tables kept whole on every rank have replicated_weight_decay"
            )
        return value
