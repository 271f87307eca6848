"""The files that users write, each with the class that validates it."""

from dataclasses import dataclass

from pydantic import BaseModel

from home_dist.config.run_config import RunConfig
from home_dist.daily.daily_section import DailySection
from home_dist.prepare.fit.draft import Draft
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.schema import Schema


@dataclass(frozen=True)
class SettingsFile:
    name: str
    """Of its page, and in `home-dist config NAME:KEY`."""
    title: str
    read_by: str
    root: type[BaseModel]
    about: str


FILES = (
    SettingsFile(
        "run",
        "A run",
        "`home-dist train CONFIG`",
        RunConfig,
        "The TOML file of a run. On the command line, `--set train.lr=0.01` overrides a key; `[[sequence]]` entries have "
        "numbers there (`--set sequence.0.kind=twin`).",
    ),
    SettingsFile(
        "log",
        "A log's description",
        "`home-dist prepare LOG.toml OUT`",
        LogSpec,
        "The TOML file that says what the columns of a log are. `home-dist prepare init LOG` proposes one.",
    ),
    SettingsFile(
        "schema",
        "A schema",
        "every run, from `schema.toml` in its data folder",
        Schema,
        "`prepare` writes it. Who prepares data without it writes it by hand, or lets `home-dist prepare fit` write it.",
    ),
    SettingsFile(
        "draft",
        "A draft of a schema",
        "`home-dist prepare fit DRAFT.toml DATA`",
        Draft,
        "What the columns of prepared files are; `prepare fit` adds what depends on the training part.",
    ),
    SettingsFile(
        "daily",
        "The day's work",
        "`home-dist daily DAILY.toml`",
        DailySection,
        "Which description and run are taken day by day, and what becomes of each day's model.",
    ),
)
