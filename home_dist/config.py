"""RunConfig: one typed, validated description of a run, read from a TOML file and `--set key=value` overrides.

Unknown keys are refused. Every message names the key, what was given and what is allowed.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from home_dist.errors import ConfigError, problem_lines
from home_dist.files.stores import without_secrets
from home_dist.files.whole import write_whole
from home_dist.insight_section import InsightSection
from home_dist.metrics_section import MetricsSection
from home_dist.model_section import DEFAULT_KIND, KINDS, HomeModel, ModelSection
from home_dist.section import Rate, without_foreign_keys
from home_dist.section import Section as _Section
from home_dist.sequence_section import DEFAULT_ENCODER, ENCODERS, SequenceSection
from home_dist.toml_file import read_toml

SampleRate = Annotated[float, Field(gt=0, le=1)]


class RunSection(_Section):
    dir: str
    """Folder of the run: config.toml, schema.toml, checkpoints/, tensorboard/, evaluation.json."""


class DataSection(_Section):
    path: str
    """Prepared data folder with schema.toml and one folder of Parquet files per split; or the URL of one, of s3, gs, hdfs or
    file, with options behind a question mark: s3://bucket/data?region=eu-west-1."""
    data_schema: str | None = Field(default=None, alias="schema")
    """Schema file; by default schema.toml in `path`."""
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    """Folders below `path`, or globs of folders and files, such as log/date=2024-01-*. Columns that the files do not have may
    be parts of their folders' names. An empty string means that there is no such split."""
    exclude: tuple[str, ...] = ()
    """Features to leave out, by name; "prefix*" leaves out all whose names begin so."""
    tasks: tuple[str, ...] = ()
    """Tasks to train, by name; by default all. One alone makes a single-task model with embeddings of its own."""
    lanes: int = Field(default=8, ge=1)
    """Streams that every global batch is mixed from. The order of samples is the same on every number of ranks that
    divides it; on others the next multiple of the number of ranks is taken."""
    window_rows: int = Field(default=16384, ge=1)
    """Rows of a lane that are read together and permuted among themselves; more rows, better shuffling, more memory."""
    prefetch: int = Field(default=4, ge=1)
    """Batches that the reader's thread may be ahead."""
    memory_mb: float = Field(default=1024, gt=0)
    """About what decoded rows may take in memory, if one rank has all lanes; more ranks take less each. Windows are made
    smaller and row groups cut into slices for it; an epoch that goes on keeps its windows."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of a rank that decode; by default the cores of the host shared out among its ranks, but at most 4."""
    sample: dict[str, SampleRate] = Field(default_factory=dict)
    """Shares of the training files' rows to read, by pattern of the files' names below their folder, such as
    "date=2024-01-0*" = 0.1; the first one that matches a file counts. The same rows in every epoch, by train.seed."""
    follow: Literal["success", "rename"] | None = None
    """Trains on what is in `train`, then on what arrives there: "success", folders that hold a file _SUCCESS; "rename", files
    that get their final names when they are whole (until then hidden ones, or names that do not end in .parquet)."""
    follow_poll_seconds: float = Field(default=30.0, gt=0)
    """How often a following run that waits looks for new files."""
    follow_idle_minutes: float | None = Field(default=None, ge=0)
    """A following run ends when nothing has arrived for so long; by default it waits for ever."""
    on_bad_row: Literal["fail", "skip", "quarantine"] = "fail"
    """What becomes of a row with a value that cannot be used: an error that names it; or it is left out and counted, a sample
    of weight 0 in its place; or its file, row and reason are written to quarantine/ in the run's folder as well."""

    @property
    def shown(self) -> str:
        """`path` as it may stand in messages and logs: without keys and passwords."""
        return without_secrets(self.path)


Sharding = Literal["table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid", "data_parallel"]


class TableSection(_Section):
    dim: int | None = Field(default=None, ge=1)
    keep_rows: int | None = Field(default=None, ge=1)
    """Keep only the first rows; larger ids become 0. Pipelines order vocabularies by frequency, so this cuts the tail."""
    sharding: Sharding | None = None
    """Pins the way TorchRec shards the table; by default its planner chooses among the first three. table_row_wise spreads rows
    over the ranks of one host, table_column_wise columns, grid columns over hosts and rows within each, for tables that are
    pooled where they are stored."""
    precision: Literal["fp32", "fp16"] | None = None
    """By default embedding.precision."""
    managed: Literal["lfu", "lru", "hashed"] | None = None
    """Of a hashed table: rows are not shared by ids but given to them as they come, and taken from the rarest (lfu) or the
    longest unseen (lru) when there are no more. Such a table is sharded row-wise, and its run stays on its number of ranks."""

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


class PretrainedSection(_Section):
    dim: int = Field(default=16, ge=1)
    """Width that the vectors are projected to."""
    normalise: bool = False
    """Divide each vector by its length first."""


class EmbeddingSection(_Section):
    dim: int = Field(default=16, ge=4, multiple_of=4)
    """Width of sharded tables."""
    small_dim: int = Field(default=8, ge=1)
    """Width of small tables, statistics' buckets included."""
    replicate_rows: int = Field(default=1024, ge=0)
    """Tables of at most so many rows whose features have one id per sample are kept whole on every rank: a look-up is then
    cheaper than an exchange. They are trained with the dense parameters."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Of sharded tables' weights. fp16 halves them; look-ups give fp32, and the optimizer's state stays fp32. On GPUs FBGEMM
    rounds at random what it writes, so that small updates count on average; on a CPU to the nearest: they can be lost."""
    optimizer: Literal["row_wise_adagrad", "adagrad", "sgd"] = "row_wise_adagrad"
    """Of sharded tables, fused into their backward: those that FBGEMM has on every device. Row-wise Adagrad keeps one number
    per row (and, of a table sharded column-wise, per shard), Adagrad one per weight, SGD none."""
    lr: float = Field(default=0.05, gt=0)
    """Learning rate of sharded tables."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Must be 0: sharded tables' rows do not decay. The key is there for the files of runs from before."""
    replicated_weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay (AdamW) of the small tables kept on every rank."""
    init_std: float = Field(default=0.01, gt=0)
    dropout: Rate = 0.0
    """Dropout of the looked-up feature vector, in training."""
    dense_statistics: bool = True
    """Statistics enter standardised as well as by bucket."""
    clip: float | None = Field(default=None, gt=0)
    """Standardised values are cut to -clip .. clip, so that one wrong value of 1e30 does not drown all others."""
    tables: dict[str, TableSection] = Field(default_factory=dict)
    pretrained: dict[str, PretrainedSection] = Field(default_factory=dict)
    """By pre-trained feature."""

    @field_validator("weight_decay")
    @classmethod
    def _decay_has_effect(cls, value: float) -> float:
        if value:
            raise ValueError(
                "FBGEMM 1.8 takes a decay of sharded tables' rows and, on a CPU, ignores it with every optimizer; set it to 0. "
                "The small tables kept whole on every rank have replicated_weight_decay"
            )
        return value


class TrainSection(_Section):
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=1024, ge=1)
    """Samples per rank and step."""
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Ends the run after so many steps, even within an epoch."""
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of weight matrices (not of biases and normalisation)."""
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["none", "linear", "cosine"] = "linear"
    """How learning rates fall to zero over the run."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Bound of the norm of the dense gradient."""
    accumulate: int = Field(default=1, ge=1)
    """Steps whose dense gradients are averaged to one update of the dense parameters: an update follows each step whose number
    is a multiple, and the last one of a run or round. Rows of sharded tables are updated in each step. Checkpoints lie between
    updates: checkpoint.every_steps must be a multiple."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradient is not finite. It changes nothing in either case; the run ends with the
    largest values of its batch, or tells them, counts the step and goes on, unless too many follow on each other."""
    recompute_experts: bool = False
    """Keeps no activations of the multi-task model: the backward computes them anew, which takes less memory and more time."""
    linear_path: bool = True
    """Adds a linear model of the dense values to each task's logit."""
    task_weights: dict[str, float] = Field(default_factory=dict)
    """Factors of the tasks' losses; 1 where not given."""


class WarmStartSection(_Section):
    source: str = Field(alias="from")
    """A checkpoint, the run.dir of a run for its newest one, or RUN/best."""
    tables: tuple[str, ...] | None = None
    """Tables to take over, by their names here; by default all that are there, small ones included."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Tables that have another name there, as here = "there"."""
    dense: bool = True
    """Takes over dense parameters and statistics of the same name and shape."""


class CheckpointSection(_Section):
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; one is written at the end in any case."""
    keep_last: int = Field(default=3, ge=1)
    """The newest ones stay."""
    keep_every: int | None = Field(default=None, ge=1)
    """Those whose step is a multiple of this stay as well."""
    best: Literal["auc", "gauc", "log_loss"] | None = None
    """Evaluates the validation split at each checkpoint, and keeps the one with the best mean over tasks as well."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written, from a copy in memory."""
    warm_start: WarmStartSection | None = None
    """What a new run begins with; a run that goes on does not look at it."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """What a run does that finds its newest checkpoint damaged: end with an error, or set it aside and go on from the newest
    intact one."""


class LogSection(_Section):
    every_steps: int = Field(default=20, ge=1)
    tensorboard: bool = True


class ExchangeSection(_Section):
    forward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """What embeddings are sent as between ranks. int8 is for tables that lie whole, or by columns, on one rank and are pooled;
    others go as fp16 then."""
    backward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """What their gradients are sent as."""
    gradients: Literal["fp32", "fp16", "bf16"] = "fp32"
    """What dense gradients are summed over ranks as."""


class DistributedSection(_Section):
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that a rank waits for another one that does not answer before it gives up; in the collectives of a step, for all
    others to come to it. In start-up, loading, checking of checkpoints and evaluation a rank that works is waited for."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per rank; by default the cores shared out among the ranks of the host."""
    exchange: ExchangeSection = ExchangeSection()


class KernelSection(_Section):
    backend: Literal["auto", "eager", "cpu", "triton"] = "auto"
    """How experts are computed: plain torch operators, passes fused for a CPU, or Triton kernels; by default by device."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products: of experts, and by torch's autocast of history encoders and towers. Parameters, sums, statistics and
    losses are fp32 in any case."""


class RunConfig(_Section):
    run: RunSection
    data: DataSection
    embedding: EmbeddingSection = EmbeddingSection()
    sequence: tuple[Annotated[SequenceSection, Field(discriminator="kind")], ...] = ()
    model: ModelSection = Field(default=HomeModel(), discriminator="kind")
    train: TrainSection = TrainSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()
    kernel: KernelSection = KernelSection()
    insight: InsightSection = InsightSection()
    metrics: MetricsSection = MetricsSection()
    distributed: DistributedSection = DistributedSection()

    @field_validator("model", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        return {"kind": DEFAULT_KIND, **value} if isinstance(value, dict) else value

    @field_validator("sequence", mode="before")
    @classmethod
    def _default_encoders(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"kind": DEFAULT_ENCODER, **entry} if isinstance(entry, dict) else entry for entry in value]

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        names = [s.name for s in self.sequence]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sequence {name!r} is listed twice")
        every, accumulate = self.checkpoint.every_steps, self.train.accumulate
        if every and every % accumulate:
            nearest = max(1, round(every / accumulate)) * accumulate
            raise ValueError(
                f"checkpoint.every_steps = {every} is no multiple of train.accumulate = {accumulate}, whose steps share one "
                f"update. Set it to {nearest}, say"
            )
        if self.data.follow:
            for key, wrong in (
                ("train.epochs must be 1", self.train.epochs != 1),
                ('train.decay must be "none"', self.train.decay != "none"),
                ("data.sample must be empty", bool(self.data.sample)),
                ("data.train must be a folder, no glob", any(c in self.data.train for c in "*?[")),
            ):
                if wrong:
                    raise ValueError(f"{key} with data.follow: what is still to come has no end")
        return self

    def schema_path(self) -> Path:
        return Path(self.data.data_schema) if self.data.data_schema else Path(self.data.path) / "schema.toml"


def load_config(path: str | Path, overrides: Sequence[str] = (), notes: list[str] | None = None) -> RunConfig:
    """Reads a run configuration.

    `overrides` are of the form "train.batch_size=4096"; the value is TOML, or text where it is no TOML. When one of them
    chooses another kind of model or encoder than the file, the file's keys that only its own kind knows are left out; `notes`
    gets a line that names them. Raises ConfigError, with one line per problem.
    """
    path = Path(path)
    tree = read_toml(path, "Give the path of a run's TOML file, such as configs/*.toml.")
    written = _kinds_of(tree)
    for override in overrides:
        _apply(tree, override)
    overridden = {o.partition("=")[0].strip() for o in overrides}
    for name, kind in _kinds_of(tree).items():
        before = written.get(name)
        if kind == before or f"{name}.kind" not in overridden:
            continue
        inside = (key.removeprefix(f"{name}.") for key in overridden if key.startswith(f"{name}."))
        kinds: Mapping[str, type[_Section]] = KINDS if name == "model" else ENCODERS
        left_out = without_foreign_keys(_entry(tree, name), kinds, before, {key.split(".")[0] for key in inside})
        if left_out and notes is not None:
            notes.append(f"{name}.kind={kind}: {path} is for {before}; left out of its [{name}]: {', '.join(left_out)}")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_with_allowed(line)}" for line in problem_lines(error))) from None


def save_config(config: RunConfig, path: str | Path) -> None:
    """Writes the resolved configuration, defaults included, such that load_config reads the same back, but for keys and
    passwords of data's URLs: they are not written down."""
    write_whole(Path(path), config_text(config))


def config_text(config: RunConfig) -> str:
    return tomli_w.dumps(config_tree(config))


def config_tree(config: RunConfig) -> dict[str, Any]:
    """As it is written down, in a run's folder and in checkpoints: without keys and passwords of data's URLs."""
    return without_keys(config.model_dump(mode="json", exclude_none=True, by_alias=True))


def without_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """A written configuration without the keys and passwords of data's URLs, which those of older versions hold."""
    data = tree.get("data", {})
    places = {key: without_secrets(data[key]) for key in ("path", "schema") if isinstance(data.get(key), str)}
    return {**tree, "data": {**data, **places}} if places else tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write it as section.key=value, e.g. --set train.batch_size=4096")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    node: Any = tree
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                where = ".".join(parts[:depth])
                raise ConfigError(f"--set {override}: {where} is a list of {len(node)}; name an entry by its number from 0")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if not last:
                node.setdefault(part, {})
        else:
            raise ConfigError(f"--set {override}: {'.'.join(parts[:depth])} holds a value, not a section")
        if last:
            node[index] = value
        else:
            node = node[index]


def _kinds_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The kind of each section that has one: "model", "sequence.0", ..."""
    found = {}
    model, sequences = tree.get("model", {}), tree.get("sequence", [])
    if isinstance(model, dict):
        found["model"] = model.get("kind", DEFAULT_KIND)
    for index, entry in enumerate(sequences if isinstance(sequences, list) else []):
        if isinstance(entry, dict):
            found[f"sequence.{index}"] = entry.get("kind", DEFAULT_ENCODER)
    return found


def _entry(tree: dict[str, Any], name: str) -> Any:
    section, _, index = name.partition(".")
    return tree[section][int(index)] if index else tree[section]


def _with_allowed(line: str) -> str:
    """Takes the chosen kind out of the key of a message, where pydantic puts it but the file does not have it, and adds the
    allowed keys to the message about an unknown one."""
    key, _, rest = line.partition(": ")
    parts = key.split(".")
    section: Any = RunConfig
    plain: list[str] = []
    for depth, part in enumerate(parts):
        chosen = KINDS if plain == ["model"] else ENCODERS if plain[:1] == ["sequence"] and len(plain) == 2 else {}
        if part in chosen and depth < len(parts) - 1:
            section = chosen[part]
            continue
        if depth < len(parts) - 1 and not part.isdigit():
            section = _section_of(section, part)
        plain.append(part)
    key = ".".join(plain)
    if section is None or not rest.startswith("unknown key"):
        return f"{key}: {rest}"
    allowed = ", ".join(f.alias or n for n, f in section.model_fields.items())
    return f"{key}: {rest}; allowed here: {allowed}"


def _section_of(section: Any, key: str) -> Any:
    field = getattr(section, "model_fields", {}).get(key)
    found = [] if field is None else [field.annotation]
    while found:
        kind = found.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        found.extend(getattr(kind, "__args__", ()))
    return None
