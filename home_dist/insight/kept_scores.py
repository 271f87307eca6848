"""Scores that a run kept of a split (`metrics.keep_scores`), and which rows they are of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from home_dist.errors import ConfigError
from home_dist.ids.hashing import mix
from home_dist.ids.no_group import NO_GROUP
from home_dist.insight.run_figures import RunFigures

RESAMPLES = 200
"""Draws of users behind an interval."""

Kept = dict[str, NDArray[Any]]
"""scores (N, P): probabilities, or predictions in the label's unit; labels and weights (N, K); groups (N,); families and
predictions (K,): each task's family of metrics, and its number of columns among the P. Of a pool of days: days (N,), within
which GAUC orders a user's rows."""


def kept_scores(run: Path, split: str) -> Kept | None:
    """None where they were not kept. Raises ConfigError for a file that another program has damaged."""
    path = run / "scores" / f"{split}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in ("scores", "labels", "weights", "groups")}
            tasks = kept["labels"].shape[1]  # versions that knew only yes or no told no families
            kept["families"] = file["families"] if "families" in file else np.array(["binary"] * tasks)
            kept["predictions"] = file["predictions"] if "predictions" in file else np.ones(tasks, np.int64)
            if "days" in file:
                kept["days"] = file["days"]
            return kept
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib, numpy: each raises its own
        raise ConfigError(
            f"{path}: cannot be read as the scores of a run: {error}. Remove it: intervals are then left out."
        ) from None


def of_family(kept: Kept, tasks: Sequence[str], family: str) -> tuple[list[str], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(names, labels, weights, scores) of the tasks of a family with one prediction each; arrays are (N, n)."""
    chosen = np.flatnonzero(kept["families"] == family)
    columns = (np.cumsum(kept["predictions"]) - kept["predictions"])[chosen]
    return [tasks[int(k)] for k in chosen], kept["labels"][:, chosen], kept["weights"][:, chosen], kept["scores"][:, columns]


def drawn_groups(run: RunFigures, kept: Kept) -> NDArray[np.int64]:
    """(N,) what intervals draw: users, or rows where the schema has no group_column."""
    return np.arange(len(kept["groups"])) if run.schema.group_column is None else kept["groups"]


def fingerprint(kept: Kept, groups: NDArray[np.int64], columns: Sequence[int]) -> tuple[int, int]:
    """Equal for two runs that scored the same rows of the same users, so that draws of users mean the same in both. The order
    of rows counts only where rows without a user are drawn one by one. columns: of the tasks to look at."""
    hashed = mix(groups.astype(np.int64).view(np.uint64))
    for column in np.hstack([kept["labels"][:, columns], kept["weights"][:, columns]]).T:
        hashed = mix(hashed ^ (column.astype(np.float64) + 0.0).view(np.uint64))
    if (groups == NO_GROUP).any():
        hashed = mix(hashed ^ np.arange(len(hashed), dtype=np.uint64))
    return len(hashed), int(hashed.sum(dtype=np.uint64))
