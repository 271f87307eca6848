"""Reads data under the schema of a run, where the data has a schema of its own: what is the same is read, rows of tables are
mapped by key, and what means something else is refused by its name."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from home_dist.data.matching_rows import RunSide, Unknown, same_rows, tells_its_vocabulary
from home_dist.errors import DataError
from home_dist.ids.rows import RowsOf, TranslatedRows
from home_dist.schema import IdFeature, IdInput, InputLayout, Schema, StatisticFeature, Table, TableSpec, TaskSpec
from home_dist.schema.meaning import changed_facts, told

_NAMED = 8  # differences that are named at most


def with_weights(schema: Schema, data: Schema) -> Schema:
    """The schema of a run, with the weights that the data has for its labels: whether a label is known in all rows, and needs
    none, is a matter of the data."""
    weights = {t.column: t.weight_column for t in data.task}
    tasks = (t.model_copy(update={"weight_column": weights.get(t.column, t.weight_column)}) for t in schema.task)
    return schema.model_copy(update={"task": tuple(tasks)})


def read_as(layout: InputLayout, trained: RunSide, data: RunSide, where: str, tasks: Sequence[TaskSpec] = ()) -> InputLayout:
    """The layout of `trained`, with look-ups for columns whose rows are of other vocabularies in `data`.

    where: the data, for messages; tasks: whose labels are read, too. Rows of keys that `trained` does not know become row 0,
    as those of rare keys. Raises DataError, which names all entries that mean something else.
    """
    same_place = trained.config.data == data.config.data and not trained.recorded
    if trained.schema == data.schema and (same_place or all(map(tells_its_vocabulary, trained.schema.table))):
        return layout
    problems: dict[str, None] = {}
    look_ups: dict[tuple[str, str], RowsOf | None] = {}
    for item in layout.inputs:
        if item.key in layout.statistics or (item.column, item.table.name) in look_ups:
            continue
        try:
            look_ups[item.column, item.table.name] = _translation(item, trained, data)
        except Unknown as why:
            look_ups[item.column, item.table.name] = None
            problems[f"table {item.table.name} (column {item.column!r}): {why}"] = None
    problems |= dict.fromkeys(_other_meanings(layout, trained.schema, data.schema, tasks))
    if problems:
        named = list(problems)
        more = f"\n  and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        raise DataError(
            f"{where}: its numbers are not those that the model was trained on:\n  " + "\n  ".join(named[:_NAMED]) + more + "\n"
            f"Prepare it like the data of the run: home-dist prepare LOG.toml OUT --like {trained.config.data.shown} (or, from "
            "a raw log, home-dist score EXPORT --log LOG.toml)."
        )
    return layout.of_each_input(lambda item: replace(item, translated=look_ups.get((item.column, item.table.name))))


def _translation(item: IdInput, trained: RunSide, data: RunSide) -> RowsOf | None:
    """From the data's rows to those of the run's table; None if they are the same, and for columns of keys. Raises Unknown."""
    spec = _table_of(data.schema, item.column, item.table.name)
    if spec is None:
        raise Unknown("its schema does not tell what the column holds")
    own = trained.spec(item.table.name)
    if (own.values is None) != (spec.values is None):
        held = "rows of a table" if own.values is None else "keys"
        raise Unknown(f"the model reads {held} there, but it holds {'rows' if spec.values is None else 'keys'}")
    if own.values is not None and spec.values is not None:
        if own.values.type != spec.values.type:
            raise Unknown(f"the model reads keys of type {own.values.type} there, but it holds {spec.values.type}s")
        return None
    here = Table(spec.name, spec.rows, item.table.dim, item.table.replicated)
    rows, _ = same_rows(trained, data, replace(item.table, rows=own.rows), here)
    if spec.rows <= own.rows and np.array_equal(rows, np.arange(spec.rows)):
        return None
    return TranslatedRows(np.where(rows < 0, 0, rows), spec.name)


def _table_of(schema: Schema, column: str, name: str) -> TableSpec | None:
    """The table whose rows or keys the column holds; name: of the one to prefer, if several use the column."""
    names = [f.table for f in schema.feature if isinstance(f, IdFeature) and f.column == column]
    names += [e.table for s in schema.sequence for e in s.events if e.column == column]
    chosen = name if name in names else next(iter(names), None)
    return next((t for t in schema.table if t.name == chosen), None)


def _other_meanings(layout: InputLayout, trained: Schema, data: Schema, read: Sequence[TaskSpec]) -> Iterator[str]:
    """Statistics, histories and labels that are counted or chosen in another way. A model has boundaries, means and deviations
    of its own: the data's may be others."""
    theirs = {f.column: f for f in data.feature if isinstance(f, StatisticFeature)}
    for feature in layout.statistics.values():
        if feature.column in theirs:
            yield from _changed(f"statistic {feature.name}", told(feature), told(theirs[feature.column]))
    histories = {s.name: s for s in data.sequence}
    used = {s.name for s in layout.sequences}
    for sequence in trained.sequence:
        if sequence.name in used and sequence.name in histories:
            yield from _changed(f"history {sequence.name}", told(sequence), told(histories[sequence.name]))
    tasks = {t.column: t for t in data.task}
    for task in read:
        if task.column in tasks:
            yield from _changed(f"label {task.name}", told(task), told(tasks[task.column]))


def _changed(entry: str, there: dict[str, object], here: dict[str, object]) -> Iterator[str]:
    changed = changed_facts(there, here)
    if changed:
        yield f"{entry}: {'; '.join(changed)}"
