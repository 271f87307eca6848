"""What a preparation is asked for, beside the log's description."""

import re
from dataclasses import dataclass
from pathlib import Path

from home_dist.errors import ConfigError
from home_dist.files.places import is_remote, without_secrets
from home_dist.prepare.memory import MEMORY_BYTES

_URL = re.compile("^(s3|gs|gcs|hdfs|viewfs):/+")  # a Path has lost the second slash


@dataclass(frozen=True)
class LogOptions:
    engine: str = "local"
    """Or "ray"."""
    processes: int = 1
    memory: int = MEMORY_BYTES
    """Approximate bytes that all processes together may take; what does not fit waits on disk."""
    partitions: int | None = None
    """By default chosen from `memory`."""
    like: Path | None = None
    """Data of an earlier preparation, or an export, to go on from."""
    whole: bool = False
    """Takes only the numbers of `like`, and reads and splits the whole log."""
    anew: tuple[str, ...] = ()
    """With `like`: statistics whose boundaries, mean and deviation are fitted anew, and labels whose values are."""
    hold_out: float | None = None
    """All days are training days, but for this share of users, others each day, whose rows are the validation part. By default
    0 with `like`; else parts are days, as the description says."""
    last_day: int | None = None
    """The last day to read, in days since 1970."""
    allow_gap: bool = False
    """With `like`: days may be missing between its last one and the log's first new one."""
    skip_late: bool = False
    """With `like`: leave out rows of days that it holds without them."""
    leave_state: bool = True
    """Leave what the next preparation goes on from."""
    for_scores: bool = False
    """With `like`: the rows are to be scored. Vocabularies do not grow, labels may be missing."""
    work: str | None = None
    """URL of the work folder, for workers that share no disk; by default beside an output in a store."""
    keep: tuple[str, ...] = ()
    """Columns that go through unchanged, under names that begin with scan.KEPT."""

    def checked(self) -> "LogOptions":
        """Raises ConfigError for options that need another one."""
        alone = [n for n in ("whole", "anew", "allow_gap", "skip_late") if getattr(self, n)]
        if self.like is None and alone:
            raise ConfigError(f"--{alone[0].replace('_', '-')} is for --like alone")
        url = _URL.match(str(self.like))
        if url is not None:
            place = without_secrets(f"{url[1]}://{str(self.like)[url.end() :]}")
            raise ConfigError(
                f"--like {place}: data in a store cannot be gone on from. Copy it to a folder of this machine, with its "
                "state/, and give that."
            )
        if self.whole and self.allow_gap:
            raise ConfigError("--whole reads the log from its begin: leave --allow-gap out")
        if self.hold_out is not None and not 0 <= self.hold_out < 1:
            raise ConfigError(f"--hold-out {self.hold_out:g}: a share of users is needed, from 0 to below 1")
        if self.work is not None and not is_remote(self.work):
            raise ConfigError(
                f"--work {self.work}: a URL is needed, such as s3://bucket/work. Without --work it is beside the output."
            )
        return self

    @property
    def by_users(self) -> bool:
        """Whether the validation part is of users who are held out, not of days."""
        return self.hold_out is not None or (self.like is not None and not self.whole)
