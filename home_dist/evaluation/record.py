"""A run's evaluation.json, and the files of scores beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from home_dist.errors import UserError
from home_dist.evaluation.split import Evaluation
from home_dist.files.json_files import read_json, write_json
from home_dist.files.whole import whole_file


def record(path: Path, scores_folder: Path, splits: dict[str, Evaluation], step: int, samples: int, keep: int) -> None:
    """Writes evaluation.json: metrics per split and task, slices, calibration, and the step at which all were measured. Splits
    of at most `keep` rows also get a file of scores. evaluation.json is written last and whole, so that it never mixes the
    figures of two steps.
    """
    for split, evaluation in splits.items():
        if len(evaluation.scored.groups) <= keep:
            scores_folder.mkdir(exist_ok=True)
            s = evaluation.scored
            arrays = {"scores": s.predictions, "labels": s.labels, "weights": s.weights, "groups": s.groups}
            # Which columns of the scores a task has; all of them one each, and all binary, where these are missing.
            arrays |= {"families": np.array(s.families.measured), "predictions": np.array(s.families.predictions)}
            with whole_file(scores_folder / f"{split}.npz") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
    write_figures(path, splits, step, samples)


def write_figures(path: Path, splits: dict[str, Evaluation], step: int, samples: int) -> None:
    """Writes metrics per split and task, slices and calibration. samples: that the model was trained on up to `step`."""
    tree: dict[str, Any] = {"step": step, "samples": samples, **{split: e.to_json() for split, e in splits.items()}}
    tree["calibration"] = {split: e.calibration_to_json() for split, e in splits.items()}
    slices = {split: [part.to_json() for part in e.slices] for split, e in splits.items() if e.slices}
    write_json(path, tree | ({"slices": slices} if slices else {}))


def recorded(path: Path, splits: Sequence[str], step: int) -> bool:
    """Whether evaluation.json holds the figures of these splits at this step."""
    try:
        tree = read_json(path, "")
    except UserError:  # another program has damaged the file
        return False
    return tree.get("step") == step and set(splits) <= tree.keys()
