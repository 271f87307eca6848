"""Data of a distilled part: each origin's training rows with the mean prediction of several runs that trained on them."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sample_run import SINGLE, output_of
from home_dist.files.whole import whole_folder

_THREAD = {"OMP_NUM_THREADS": "1"}


def write_taught(teachers: Path, seeds: int, origins: Sequence[int], out: Path) -> None:
    """teachers: folder of one setting's runs in a rolling sweep, of which all seeds teach; out: folder of the sweep that learns
    of them, which finds its data there. Origins that are there already stay."""
    for origin in (f"origin-{number:02d}" for number in origins):
        folder, data = out / "data" / origin, teachers.parent / "data" / origin
        if folder.exists():
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch, whole_folder(folder) as writing:
            programs = [Path(scratch) / f"seed-{seed}" for seed in range(seeds)]
            for program in programs:
                run = teachers / program.name / origin
                output_of([*SINGLE, "export", run, "--format", "program", "--out", program], _THREAD)
            others = [part for program in programs[1:] for part in ("--with", program)]
            columns = ["--all-columns", "--prefix", "teacher_", "--out", Path(scratch) / "train"]
            output_of([*SINGLE, "score", programs[0], data / "train", *others, *columns], _THREAD)
            shutil.copytree(Path(scratch) / "train", writing / "train")
            for rest in data.iterdir():
                if rest.name != "train":
                    os.symlink(rest.resolve(), writing / rest.name)
