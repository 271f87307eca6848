"""The [data] section: which files a run reads, and how its reader goes through them."""

from typing import Annotated, Literal

from pydantic import Field

from home_dist.config.section import Section
from home_dist.files.stores import without_secrets

SampleRate = Annotated[float, Field(gt=0, le=1)]


class DataSection(Section):
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
