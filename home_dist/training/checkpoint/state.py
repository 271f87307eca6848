"""state.json: everything in a checkpoint but tensors."""

import hashlib
import platform
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import home_dist
from home_dist.config import without_keys
from home_dist.data import ReaderPosition
from home_dist.errors import CheckpointError
from home_dist.files.json_files import with_nan
from home_dist.training.checkpoint.table_plan import TablePlan

FORMAT = 2
_LIBRARIES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "numpy", "pyarrow")


@dataclass(frozen=True)
class TrainState:
    """Progress of a run. It holds no generator's state: a step's random numbers are a function of (train.seed, step, rank), the
    order of the data is a function of (train.seed, epoch)."""

    step: int
    """Optimizer steps done."""
    samples: int
    """Samples trained on so far, all ranks together."""
    finished: bool
    position: ReaderPosition
    world_size: int
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics at this step, such as "loss" and "validation/auc"."""
    meter: list[dict[str, Any]] | None = None
    """By rank: sums of the unfinished progress interval."""
    rounds: list[list[str]] | None = None
    """With `[data] follow`: file names of each round. The position's epoch is the number of a round."""

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "position": self.position.to_json()}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "TrainState":
        known = {k: v for k, v in tree.items() if k in TrainState.__dataclass_fields__}
        # JSON has no NaN, so null stands for it; a rank without sums has null instead of a list.
        known["metrics"] = with_nan(tree.get("metrics") or {})
        if tree.get("meter") is not None:
            known["meter"] = [{k: v if v is None else with_nan(v) for k, v in rank.items()} for rank in tree["meter"]]
        return TrainState(**{**known, "position": ReaderPosition.from_json(tree["position"])})


@dataclass(frozen=True)
class Record:
    """The content of state.json."""

    state: TrainState
    plan: dict[str, TablePlan]
    config: dict[str, Any]
    """RunConfig as written to JSON."""
    versions: dict[str, str]
    """Versions of Python and libraries; "code" is a hash of home_dist's sources."""
    meaning: str | None = None
    """Fingerprint of the run's schema (schema/meaning.py); None in checkpoints of older versions."""

    def to_json(self) -> dict[str, Any]:
        plan = {table: p.to_json() for table, p in self.plan.items()}
        parts = {"plan": plan, "config": self.config, "versions": self.versions, "meaning": self.meaning}
        return {"format": FORMAT, **self.state.to_json(), **parts}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Record":
        """Raises KeyError, TypeError or ValueError for a malformed record."""
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}, but this home_dist reads format {FORMAT}")
        plan = {table: TablePlan.from_json(p) for table, p in tree["plan"].items()}
        return Record(TrainState.from_json(tree), plan, without_keys(tree["config"]), tree["versions"], tree.get("meaning"))

    def refuse_other_meaning(self, checkpoint: Path, meaning: str | None) -> None:
        """Raises CheckpointError if the checkpoint was trained under a schema of another fingerprint than `meaning`."""
        if None not in (self.meaning, meaning) and self.meaning != meaning:
            raise CheckpointError(
                f"{checkpoint}: was trained under a schema with the fingerprint {self.meaning}, but that of the run's "
                f"schema.toml is {meaning}: rows and buckets would mean something else. Restore the schema.toml that the run "
                f"began with."
            )

    def other_versions(self) -> list[str]:
        """Versions that differ from the current ones; a resumed run may then differ in some bits."""
        now = versions()
        return [
            f"{name} {self.versions.get(name, 'missing')} then, {now.get(name, 'missing')} now"
            for name in sorted(self.versions.keys() | now)
            if self.versions.get(name) != now.get(name)
        ]


@cache
def versions() -> dict[str, str]:
    by_library = {"python": platform.python_version(), "home_dist": home_dist.__version__, "code": code_hash()}
    for name in _LIBRARIES:
        try:
            by_library[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return by_library


def code_hash() -> str:
    """Hash of this package's source files: tells apart two states of the code with the same version."""
    folder, digest = Path(home_dist.__file__).parent, hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".cpp", ".hpp")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
