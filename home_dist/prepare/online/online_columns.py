"""A request's columns of the log become columns of prepared data, as a preparation of later days would make them.

Ids become rows by the vocabularies, numbers and durations are transformed, the calendar is that of the request's time;
statistics of [[past]] and histories come from the state that the preparation left. Events after it are not known.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from home_dist import __version__
from home_dist.errors import DataError, problem_lines
from home_dist.prepare.boundaries import round_to
from home_dist.prepare.generic import columns as c
from home_dist.prepare.generic.columns import plain_table
from home_dist.prepare.generic.encode import encoded_ids, rows_of_vocabulary
from home_dist.prepare.generic.history import columns_of_lists
from home_dist.prepare.generic.label_columns import durations_of
from home_dist.prepare.generic.label_section import LabelSection
from home_dist.prepare.generic.log_plan import groups
from home_dist.prepare.generic.log_sections import HistorySection, IdSection, NumberSection, PastSection
from home_dist.prepare.generic.log_spec import LogSpec
from home_dist.prepare.generic.names import duration_columns, history_columns
from home_dist.prepare.generic.past import past_statistics
from home_dist.prepare.generic.state import RECORD, STATE, Base, key_sets
from home_dist.prepare.online.given_columns import Given, GivenReader, UnfitColumn
from home_dist.prepare.online.key_pasts import KeyPasts
from home_dist.prepare.online.user_histories import UserHistories
from home_dist.prepare.rates import base_rates

Made = Mapping[str, pa.Array]
Make = Callable[[Given], Made]


@dataclass(frozen=True)
class _Recipe:
    """How columns of prepared data are made of columns of the log."""

    makes: tuple[str, ...]
    takes: tuple[str, ...]
    make: Make
    whole: bool = False
    """A request gives all of these columns or none."""


class OnlineColumns:
    def __init__(self, base: Base, needed: Collection[str]):
        """base: of the folder that holds the state, and vocabularies; needed: columns of prepared data. Only what these need is
        held in memory. Raises DataError for what cannot be read."""
        self._needed = frozenset(needed)
        self._read = GivenReader(_described(base), base.record)
        self._encoders = {
            s.column: rows_of_vocabulary(base.vocabulary(s.column), s.column, base.record.key_types[s.column])
            for s in self._spec.id
            if self._needed & {s.column, *self._columns_of_events(s.column)}
        }
        self._recipes = [r for r in self._all(base) if self._needed & set(r.makes)]
        self._takes = frozenset(name for recipe in self._recipes for name in recipe.takes)

    @property
    def durations(self) -> dict[str, str]:
        """By column of durations: the column of the log that it is made of."""
        columns = duration_columns(self._spec.label)
        return {columns[label.name]: label.duration for label in self._spec.label if label.duration is not None}

    @property
    def _spec(self) -> LogSpec:
        return self._read.spec

    @property
    def until(self) -> float:
        """The end of the state's last day, in seconds since 1970."""
        return self._read.ends_ms / 1000

    def of(self, user: pa.Table, candidates: pa.Table, now_ms: int | None = None) -> tuple[pa.Table, pa.Table]:
        """user: of one row; candidates: of N rows. Each column of the log that is needed, or the column of prepared data that
        would be made of it, stands in one of them. A time that is left out is `now_ms`, by default the clock's. Returns both
        with columns of prepared data; what the user's columns are enough for is the user's. Raises UnfitColumn."""
        user, candidates = plain_table(user), plain_table(candidates)
        self._refuse_repeated(user, candidates)
        if self._spec.moment in self._takes and self._spec.moment not in (*user.column_names, *candidates.column_names):
            moment = int(time.time() * 1000) if now_ms is None else now_ms
            user = _with(user, self._spec.moment, pa.array([moment], pa.timestamp("ms", "UTC")))
        made: list[dict[str, pa.Array]] = [
            {n: table[n] for n in table.column_names if n in self._needed and n not in self._takes}
            for table in (user, candidates)
        ]
        given = made[0].keys() | made[1].keys()
        for recipe in self._recipes:
            asked = self._needed & set(recipe.makes)
            wanted = asked - given
            if recipe.whole and wanted and wanted < asked:
                raise UnfitColumn(f"is missing: give all of {', '.join(sorted(asked))}, or none", min(wanted))
            if wanted:
                side, columns = self._sources(recipe, wanted, user, candidates)
                made[side].update({n: v for n, v in recipe.make(columns).items() if n in wanted})
        return pa.table(made[0]), pa.table(made[1]) if made[1] else candidates.select([])  # which are N rows all the same

    def _refuse_repeated(self, user: pa.Table, candidates: pa.Table) -> None:
        names = [*user.column_names, *candidates.column_names]
        for name in sorted(self._takes | self._needed):
            if names.count(name) > 1:
                raise UnfitColumn(f"stands there {names.count(name)} times: give it once, under user or candidates", name)

    def _sources(
        self, recipe: _Recipe, wanted: Collection[str], user: pa.Table, candidates: pa.Table
    ) -> tuple[int, dict[str, pa.Array]]:
        """(0 if the user's columns are enough, else 1; the columns that the recipe takes, by name)"""
        absent = [n for n in recipe.takes if n not in user.column_names and n not in candidates.column_names]
        if absent:
            others = ", ".join(sorted(set(wanted) - {absent[0]}))
            more = f" ({others} would be made of it, and may be given instead)" if others else ""
            raise UnfitColumn(f"is missing: give it under user or candidates, as it is in the log{more}", absent[0])
        if all(n in user.column_names for n in recipe.takes):
            return 0, {n: user[n].combine_chunks() for n in recipe.takes}
        first = pa.array(np.zeros(len(candidates), np.int64))
        there = {n: candidates[n] if n in candidates.column_names else user[n].take(first) for n in recipe.takes}
        return 1, {n: values.combine_chunks() for n, values in there.items()}

    def _all(self, base: Base) -> Iterator[_Recipe]:
        """Recipes of all columns but labels. Those that need memory are there only if they are needed."""
        spec, read = self._spec, self._read
        if (user := spec.user) is not None:
            yield _Recipe(("group",), (user,), lambda given: {"group": groups(read.keys(given, user))})
        yield _Recipe(("time_ms",), (spec.moment,), lambda given: {"time_ms": pa.array(read.time(given))})
        if spec.calendar:
            yield _Recipe(("hour", "weekday"), (spec.moment,), self._calendar)
        for section in spec.id:
            if section.column in self._needed:
                yield _Recipe((section.column,), (section.column,), partial(self._id, section))
        for number in spec.number:
            yield _Recipe((f"stat_{number.column}",), (number.column,), partial(self._number, number))
        columns = duration_columns(spec.label)
        for label in spec.label:
            if label.duration is not None:
                make = partial(self._duration, label, columns[label.name])
                yield _Recipe((columns[label.name],), (label.duration,), make)
        for number_of_set, by in enumerate(key_sets(spec)):
            pasts = [p for p in spec.past if p.by == by and self._needed & set(_statistics(p))]
            if pasts:
                counts = KeyPasts(pasts, base.files("past", number_of_set), spec)
                makes = tuple(n for p in pasts for n in _statistics(p))
                yield _Recipe(makes, (*dict.fromkeys(by), spec.moment), partial(self._past, pasts, counts))
        for number_of_history, history in enumerate(spec.history):
            makes = tuple(history_columns(history).values())
            if history.reads_lists:
                if self._needed & set(makes):
                    column = str(history.given.column)
                    takes = (column, spec.time) if spec.time is not None else (column,)
                    yield _Recipe(makes, takes, partial(self._lists, number_of_history, history), whole=True)
                continue
            if user is not None and self._needed & set(makes):
                encoders = {f: self._encoders[f] for f in history.fields if history_columns(history)[f] in self._needed}
                histories = UserHistories(history, base.files("events", number_of_history), encoders, spec)
                yield _Recipe(makes, (user, spec.moment), partial(self._history, histories, user), whole=True)

    def _columns_of_events(self, id_column: str) -> list[str]:
        return [history_columns(h)[id_column] for h in self._spec.history if id_column in h.fields]

    def _calendar(self, given: Given) -> Made:
        return {n: pa.array(v, pa.int32()) for n, v in self._spec.clock.calendar(self._read.time(given)).items()}

    def _id(self, section: IdSection, given: Given) -> Made:
        return {section.column: encoded_ids(self._read.ids(given, section), self._encoders[section.column])}

    def _number(self, section: NumberSection, given: Given) -> Made:
        values = c.of_number(section, c.numbers(self._read.numbers(given, section.column)))
        return {f"stat_{section.column}": self._stored(section.column, values)}

    def _duration(self, label: LabelSection, makes: str, given: Given) -> Made:
        [column] = given
        values = durations_of(label, self._read.numbers(given, column))
        return {makes: pa.array(values, mask=np.isnan(values))}

    def _past(self, pasts: Sequence[PastSection], counts: KeyPasts, given: Given) -> Made:
        moments = self._read.later(given)
        found: dict[str, NDArray] = dict(counts.before([self._read.keys(given, name) for name in counts.by], moments))
        for rate in dict.fromkeys(r for p in pasts for r in p.rates):
            happened, known = (np.full(len(moments), n) for n in self._read.record.everyone[rate])
            found[f"base.{rate}"] = base_rates(happened, known)
        return {f"stat_{name}": self._stored(name, values) for name, values in past_statistics(pasts, found).items()}

    def _history(self, histories: UserHistories, user: str, given: Given) -> Made:
        return histories.before(self._read.keys(given, user), self._read.later(given))

    def _lists(self, number: int, history: HistorySection, given: Given) -> Made:
        encoders = {f: self._encoders[f] for f in history.fields if history_columns(history)[f] in self._needed}
        lists, time = self._read.lists(given, number)
        return columns_of_lists(history, lists, encoders, time)

    def _stored(self, statistic: str, values: NDArray[np.float64]) -> pa.Array:
        return pa.array(round_to(self._read.record.steps[statistic], values), from_pandas=True)


def _described(base: Base) -> LogSpec:
    """Raises DataError."""
    try:
        return LogSpec.model_validate(base.record.description)
    except ValidationError as error:
        raise DataError(
            f"{base.folder / STATE / RECORD}: home_dist {base.record.home_dist} wrote its description, which this version "
            f"({__version__}) does not read: {next(iter(problem_lines(error)))}. Install that version."
        ) from None


def _statistics(past: PastSection) -> list[str]:
    """Columns of an entry's statistics."""
    return [f"stat_{name}" for name in past.statistics]


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return pa.table({name: values}) if not table.num_columns else table.append_column(name, values)
