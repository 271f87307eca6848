"""The [data] section: the files that a run reads, and how its reader reads them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from home_dist.config.section import Section
from home_dist.files.places import join, without_secrets

SampleRate = Annotated[float, Field(gt=0, le=1)]


class NegativesSection(Section):
    keep: SampleRate
    """r, the share of rows without a positive label of `tasks` that is kept."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Binary tasks; rows with a known positive label of one of them are all kept."""
    correct: Literal["weight", "logit"] = "weight"
    """How predictions stay calibrated. weight: rows that stand for others weigh 1 / r. logit: of a single task; its labels keep
    their weights, and evaluations and exports add log r to its logit, q = p / (p + (1 - p) / r); other tasks weigh 1 / r."""

    @model_validator(mode="after")
    def _one_task_for_logits(self) -> "NegativesSection":
        if self.correct == "logit" and len(self.tasks) > 1:
            raise ValueError(
                'correct = "logit" is exact for one task alone: a row that is negative in one is kept whenever another one is '
                'positive. Take correct = "weight"'
            )
        return self


class DataSection(Section):
    path: str
    """Prepared data folder with schema.toml and a folder of Parquet files per split; or its URL (s3, gs, hdfs or file), with
    options after a question mark: s3://bucket/data?region=eu-west-1."""
    data_schema: str | None = Field(default=None, alias="schema")
    """Schema file; by default schema.toml in `path`."""
    train: str = "train"
    """Folder below `path`, or a glob of folders and files, such as log/date=2024-01-*. A column that the files lack may be part
    of their folders' names."""
    validation: str = "validation"
    """As `train`. An empty string: there is no such split."""
    test: str = "test"
    """As `train`. An empty string: there is no such split."""
    exclude: tuple[str, ...] = ()
    """Features to leave out, by name; "prefix*" leaves out all features whose names start with the prefix."""
    tasks: tuple[str, ...] = ()
    """Tasks to train, by name; by default all. With a single task, the model is a single-task one with its own embeddings."""
    groups: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(default_factory=dict)
    """Task groups that differ from the schema's, by task: `groups = { like = "watch" }`. `home-dist groups` proposes some."""
    lanes: int = Field(default=8, ge=1)
    """Streams that every global batch is mixed from. The order of samples is the same for all numbers of ranks that divide
    `lanes`; for other numbers, `lanes` is rounded up to a multiple of the number of ranks."""
    window_rows: int = Field(default=16384, ge=1)
    """Rows of a lane that are read and permuted together; more rows shuffle better and take more memory."""
    prefetch: int = Field(default=4, ge=1)
    """Batches that the reader's thread may make ahead."""
    memory_mb: float = Field(default=1024, gt=0)
    """Approximate memory of decoded rows, in MiB, if one rank has all lanes; with more ranks, each takes less. Windows become
    smaller and row groups are cut into slices to keep it; a resumed epoch keeps its windows."""
    threads: int | None = Field(default=None, ge=1)
    """Decoding threads of a rank; by default the host's cores divided among its ranks, but at most 4."""
    sample: dict[str, SampleRate] = Field(default_factory=dict)
    """Shares of the training files' rows to read, by pattern of the file names below their folder, such as
    "date=2024-01-0*" = 0.1. The first pattern that matches a file counts. train.seed chooses the rows, the same in every
    epoch."""
    request: str | tuple[str, ...] | None = None
    """Column, or columns, whose values together name a row's request. In training, a request's rows then stay together, in one
    batch of one rank; they must follow each other in one file. A row without a value is a request of its own."""
    once_per_request: tuple[str, ...] = ()
    """Features of ids and histories, by name, that are the same in all rows of a request, such as the user's: looked up,
    exchanged and encoded once per request. A row that differs in one from its request's first row is a bad row."""
    negatives: NegativesSection | None = None
    """Leaves out rows without a positive label, by a hash of the row."""
    follow: Literal["success", "rename"] | None = None
    """Trains on the files in `train`, then on files that arrive there. "success": folders with a file _SUCCESS have arrived;
    "rename": files get their final names when complete (before, names are hidden or do not end in .parquet)."""
    follow_poll_seconds: float = Field(default=30.0, gt=0)
    """Seconds between looks for new files, while a following run waits."""
    follow_idle_minutes: float | None = Field(default=None, ge=0)
    """A following run ends when no file has arrived for so long; by default it waits for ever."""
    on_bad_row: Literal["fail", "skip", "quarantine"] = "fail"
    """A row with an unusable value: "fail" ends with an error that names it; "skip" leaves it out, with a sample of weight 0 in
    its place, and counts it; "quarantine" also writes its file, row and reason to quarantine/ in the run's folder."""

    on_bad_label: Literal["fail", "unknown"] = "fail"
    """A label that is no value of its task's kind, such as a negative watch time, or that lacks the duration it needs: "fail"
    treats its row as a bad one; "unknown" gives the label weight 0."""

    @model_validator(mode="after")
    def _once_per_request_of_requests(self) -> "DataSection":
        if self.once_per_request and not self.request_columns:
            raise ValueError("once_per_request: name the column of requests in data.request")
        return self

    @property
    def request_columns(self) -> tuple[str, ...]:
        """`request` as a tuple, empty if there is none."""
        return (self.request,) if isinstance(self.request, str) and self.request else tuple(self.request or ())

    @property
    def schema_place(self) -> str:
        """Path or URL of the schema."""
        return self.data_schema or join(self.path, "schema.toml")

    @property
    def shown(self) -> str:
        """`path` for messages and logs: without keys and passwords."""
        return without_secrets(self.path)
