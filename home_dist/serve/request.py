"""A ranking request: the columns of one user, and those of N candidates, each column on one of the two sides."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from home_dist.data.column_kinds import KINDS, fits
from home_dist.data.files import Uses
from home_dist.ids.arrow_types import is_list

Body = bytes | bytearray


class RefusedRequest(Exception):
    """A request that is answered with an error. status: of HTTP; column: the one that is wrong."""

    def __init__(self, status: int, problem: str, column: str | None = None):
        super().__init__(problem)
        self.status, self.problem, self.column = status, problem, column


@dataclass(frozen=True)
class RankingRequest:
    user: pa.Table
    """One row, or no column."""
    candidates: pa.Table
    """N rows."""


Parse = Callable[[Body], RankingRequest]


def parse_json(body: Body, max_rows: int) -> RankingRequest:
    """{"user": {COLUMN: value, ...}, "candidates": {COLUMN: [N values], ...}}. max_rows: of the candidates. Raises
    RefusedRequest."""
    try:
        with _without_collector():
            tree = json.loads(body, parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest(400, f"the body is no JSON: {error or type(error).__name__}") from None
    if not isinstance(tree, dict) or not tree.keys() <= {"user", "candidates"} or "candidates" not in tree:
        raise RefusedRequest(400, 'the body has to be an object with the keys "user" and "candidates" alone')
    parts = {side: tree.get(side, {}) for side in ("user", "candidates")}
    for side, columns in parts.items():
        if not isinstance(columns, dict):
            raise RefusedRequest(400, f'"{side}" has to be an object of columns by name')
        for name in columns:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                raise RefusedRequest(400, f"{side}: {name!r} is no column's name: it is no UTF-8")
    for name, values in parts["candidates"].items():
        if not isinstance(values, list):
            raise RefusedRequest(422, f"candidates: column {name!r}: a list with one value per candidate is needed", name)
        if len(values) > max_rows:
            raise too_many(len(values), max_rows)
    user = {name: _array("user", name, [value]) for name, value in parts["user"].items()}
    candidates = {name: _array("candidates", name, values) for name, values in parts["candidates"].items()}
    lengths = {name: len(values) for name, values in candidates.items()}
    for name, length in lengths.items():
        first = next(iter(lengths))
        if length != lengths[first]:
            raise RefusedRequest(
                422, f"candidates: column {name!r} has {length:,} values, but {first!r} has {lengths[first]:,}", name
            )
    return RankingRequest(pa.table(user), pa.table(candidates))


def too_many(count: int, most: int) -> RefusedRequest:
    return RefusedRequest(413, f"candidates: {count:,} are more than {most:,} (serve.max_candidates)")


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector of cycles looks through all objects again and again while a text becomes millions of them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON; write null where a value is not known")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return found


def _array(side: str, name: str, values: list[Any]) -> pa.Array:
    try:
        try:
            return pa.array(values)
        except OverflowError:  # hashes as ids may be unsigned numbers of 64 bits
            many = any(isinstance(v, list) for v in values)
            return pa.array(values, pa.list_(pa.uint64()) if many else pa.uint64())
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RefusedRequest(422, f"{side}: column {name!r}: its values make no column: {reason}", name) from None


def check(request: RankingRequest, uses: Uses, max_candidates: int, max_events: int) -> None:
    """Raises RefusedRequest unless every column that the model reads stands on one side, with a type that fits, and candidates
    and the values of a list are within their limits."""
    count = request.candidates.num_rows
    if not count:
        raise RefusedRequest(422, "candidates: there are none: each column is a list with one value per candidate")
    if count > max_candidates:
        raise too_many(count, max_candidates)
    tables = {"user": request.user, "candidates": request.candidates}
    for column, kinds in uses.items():
        on = [side for side, table in tables.items() for _ in table.schema.get_all_field_indices(column)]
        if not on:
            raise RefusedRequest(422, f"column {column!r} is missing: give it under user or candidates", column)
        if len(on) > 1:
            raise RefusedRequest(422, f"column {column!r} stands there {len(on)} times ({', '.join(on)}): give it once", column)
        kind = tables[on[0]].schema.field(column).type
        for wanted in kinds:
            if not fits(kind, wanted):
                problem = f"{on[0]}: column {column!r} has type {kind}, but {KINDS[wanted]} are needed"
                raise RefusedRequest(422, problem, column)
        values = pc.max(pc.list_value_length(tables[on[0]][column])).as_py() or 0 if is_list(kind) else 0
        if values > max_events:
            problem = (
                f"{on[0]}: column {column!r}: a list of {values:,} values is longer than {max_events:,} (serve.max_events)"
            )
            raise RefusedRequest(413, problem, column)


def users_columns(request: RankingRequest, uses: Mapping[str, object]) -> frozenset[str]:
    """Columns of the model that stand on the user's side."""
    return frozenset(name for name in request.user.column_names if name in uses)
