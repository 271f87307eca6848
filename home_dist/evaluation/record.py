"""A run's evaluation.json, and the files of scores beside it."""

import itertools
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array, write_array_header_1_0
from numpy.typing import NDArray

from home_dist.distributed.ranks import together
from home_dist.errors import UserError
from home_dist.evaluation.scores import Families, Scored
from home_dist.evaluation.split import Evaluation
from home_dist.files.json_files import read_json, write_json
from home_dist.files.whole import whole_file
from home_dist.insight.cold_ids import to_json
from home_dist.metrics import OverRanks

_ROWS = 1 << 16
"""Rows of a file of scores that are written at a time."""


def record(path: Path, scores_folder: Path, splits: dict[str, Evaluation], step: int, samples: int, keep: int) -> None:
    """Writes evaluation.json: metrics per split and task, slices, calibration, and the step at which all were measured. Splits
    of at most `keep` rows also get a file of scores. evaluation.json is written last and whole, so that it never mixes the
    figures of two steps. Collective: the first rank writes all ranks' rows. If it cannot, it raises UserError, and the others
    OtherRankFailed.
    """
    over = OverRanks.here()
    for split, evaluation in splits.items():
        if evaluation.scored is not None and over.count(len(evaluation.scored.groups)) <= keep:
            together(partial(_keep, scores_folder / f"{split}.npz", evaluation.scored, over))
    together(lambda: write_figures(path, figures_tree(splits, step, samples)) if over.rank == 0 else None)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: the evaluation could not be written: {error}. The checkpoint is whole: make room or name another folder, "
            "then start the same command again."
        ) from None


def _keep(path: Path, scored: Scored, over: OverRanks) -> None:
    """Writes all ranks' rows, of which none holds more than its own and a piece."""
    pieces = _pieces(scored, over)
    try:
        if over.rank == 0:
            with _telling(path):
                _write(path, pieces, scored.families)
    finally:
        for _ in pieces:  # others have nothing to write; after an error of the first rank they still send
            pass


def _write(path: Path, pieces: Iterator[tuple[str, tuple[int, ...], NDArray[Any]]], families: Families) -> None:
    """As numpy.savez_compressed would write the arrays."""
    path.parent.mkdir(exist_ok=True)
    # Which columns of the scores a task has; all of them one each, and all binary, where these are missing.
    tasks = {"families": np.array(families.measured), "predictions": np.array(families.predictions)}
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for number, (_, shape, rows) in enumerate(group):
                    if not number:
                        header = {"descr": dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
                        write_array_header_1_0(member, header)
                    member.write(rows.tobytes())
        for name, column in tasks.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, column, allow_pickle=False)


def _pieces(scored: Scored, over: OverRanks) -> Iterator[tuple[str, tuple[int, ...], NDArray[Any]]]:
    """Name of a column, its shape over all ranks, and some of its rows, on the first rank. Collective."""
    own = len(scored.groups)
    rows = over.count(own)
    columns = {name: getattr(scored, name).__getitem__ for name in ("labels", "weights", "groups")}
    for name, of in {"scores": scored.predicted, **columns}.items():
        nothing = of(slice(0, 0))
        shape = rows, *nothing.shape[1:]
        yield name, shape, nothing
        for piece in over.pieces_on_first(own, of, _ROWS):
            yield name, shape, piece


def figures_tree(splits: dict[str, Evaluation], step: int, samples: int) -> dict[str, Any]:
    """Metrics per split and task, slices, calibration and known ids. samples: that the model was trained on up to `step`."""
    tree: dict[str, Any] = {"step": step, "samples": samples, **{split: e.to_json() for split, e in splits.items()}}
    tree["calibration"] = {split: e.calibration_to_json() for split, e in splits.items()}
    tree["known_ids"] = {split: to_json(e.known_ids) for split, e in splits.items()}
    slices = {split: [part.to_json() for part in e.slices] for split, e in splits.items() if e.slices}
    return tree | ({"slices": slices} if slices else {})


def write_figures(path: Path, tree: dict[str, Any]) -> None:
    """Raises UserError if it cannot."""
    with _telling(path):
        write_json(path, tree)


def recorded(path: Path, splits: Sequence[str], step: int) -> bool:
    """Whether evaluation.json holds the figures of these splits at this step."""
    try:
        tree = read_json(path, "")
    except UserError:  # another program has damaged the file
        return False
    return tree.get("step") == step and set(splits) <= tree.keys()
