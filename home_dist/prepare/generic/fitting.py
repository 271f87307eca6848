"""Values fitted on the training part of all partitions together, or taken over from an earlier preparation."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from home_dist.prepare.days import Days
from home_dist.prepare.engine import Work
from home_dist.prepare.generic import finish
from home_dist.prepare.generic.encode import Fitted
from home_dist.prepare.generic.log_plan import Plan
from home_dist.prepare.generic.partition import values_file
from home_dist.prepare.generic.sizes import room
from home_dist.prepare.generic.state import Base
from home_dist.prepare.generic.vocabularies import Grown, KeyCounts, fit_vocabulary, grow_vocabulary, write_rare


def fit(
    plan: Plan,
    base: Base | None,
    goes_on: Base | None,
    days: Days,
    gathered: Sequence[Path],
    work: Work,
    grow: bool,
    memory: int,
) -> Fitted:
    """base: whose numbers are taken; goes_on: the base, if its counts are taken too; grow: its vocabularies get the values of
    these days; memory: bytes that this process may take."""
    spec = plan.spec
    folder, rare_folder = work.folder / "vocabularies", work.folder / "rare"
    folder.mkdir(exist_ok=True)
    rare_folder.mkdir(exist_ok=True)
    vocabularies, rare, grown, base_keys = [], [], {}, {}
    for number, section in enumerate(spec.id):
        kind, unsigned = plan.known.id_key(section), plan.known.is_unsigned(section.column)
        before = None if goes_on is None else goes_on.rare(number)
        there = [] if base is None else [base.vocabulary(section.column)]
        files = [f / values_file(number) for f in gathered]
        others = [*there, *([] if before is None else [before])]
        counted = KeyCounts.of(files, kind, unsigned, others, work.folder / "fit", room(memory)).with_rare(before)
        out = folder / f"{section.column}.parquet"
        if base is None:
            fit_vocabulary(section, counted, out)
        elif grow:
            outcome = grow_vocabulary(section, base.vocabulary(section.column), counted, out)
            grown[section.column] = outcome
            _tell(section.column, outcome, work)
        else:
            shutil.copyfile(base.vocabulary(section.column), out)
        if base is not None:
            base_keys[section.column] = pq.read_metadata(base.vocabulary(section.column)).num_rows
        vocabularies.append(out)
        rare.append(rare_folder / f"{number}.parquet")
        write_rare(out, counted, days.end - 1, spec.forget_days, rare[-1])
        shutil.rmtree(counted.folder)
    labels = finish.label_days(gathered)
    rows = pc.sum(labels.column("rows")).as_py()
    known = {x.name: pc.sum(labels.column(f"known_{x.name}")).as_py() == rows for x in spec.label}
    if base is None:
        steps = finish.fit_steps(gathered, finish.statistic_names(spec))
    else:
        steps = base.record.steps
        known = {name: both and base.record.known.get(name, True) for name, both in known.items()}
    return Fitted(days, tuple(vocabularies), tuple(rare), steps, known, grown, base_keys)


def _tell(column: str, outcome: Grown, work: Work) -> None:
    if outcome.without_room:
        work.progress(
            f"WARNING: {outcome.without_room:,} values of {column!r} are frequent enough, but found no row: {outcome.new:,} "
            f"were added. Their rows are those of rare values. Raise `rows` or `most_new` of its [[id]]"
        )
