"""A version that is being served: requests become inputs, and inputs become predictions.

What belongs to the user is read, mapped to rows, looked up and encoded once per request. The reading is the trainer's own
(data/column_reader.py), and so are its checks.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from home_dist.config.serve import ServeSection
from home_dist.data.column_reader import BadRows
from home_dist.data.files import needed_inputs
from home_dist.errors import ConfigError, DataError
from home_dist.export.columns import batches_of
from home_dist.export.numbers import Inputs
from home_dist.export.program_inputs import inputs_of, list_groups, unpacked
from home_dist.export.scorer import Scorer
from home_dist.export.users import Sides, compared_lists, sides
from home_dist.prepare.online import OnlineColumns
from home_dist.publish.scoring import VersionModel
from home_dist.schema import InputLayout
from home_dist.serve.missing import Ids, MissingIds
from home_dist.serve.request import RankingRequest, RefusedRequest, check, users_columns
from home_dist.serve.score import Formula

SCORE = "score"
Predictions = NDArray[np.float32]
MOST_PAIRS = 1 << 21
"""Pairs of a candidate and an event of its history that are computed together: some encoders hold a vector of each."""

MOST_REPEATED_BYTES = 64_000_000
"""Of a user's list that is repeated for each candidate, as a history is compared with it."""
_EXTREME = 1e18
"""Numbers beyond it may be too large for sums and squares in fp32."""


@dataclass(frozen=True)
class Decoded:
    """A request as inputs."""

    sides: Sides
    user: Inputs
    rows: list[tuple[int, Inputs]]
    """Parts of at most `batch_rows` candidates: their number, and their inputs."""
    events: int
    """Of the user's longest list."""

    @property
    def candidates(self) -> int:
        return sum(count for count, _ in self.rows)


@dataclass
class ServedVersion:
    model: VersionModel
    settings: ServeSection
    online: OnlineColumns | None = None
    """Columns of the data from those of the log; None if requests cannot be of the log."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a formula that does not fit the predictions."""
        model = self.model
        layout = model.program.layout
        self.name, self.names = model.manifest.version, model.program.names
        self.units: dict[str, str | None] = {p["name"]: p["unit"] for p in model.predictions}
        self.uses = needed_inputs(layout)
        self._formula = Formula(self.settings.score, self.names) if self.settings.score else None
        if self._formula is not None and SCORE in self.names:
            raise ConfigError(f"serve.score: a prediction is called {SCORE!r} as well: leave the formula out")
        self._missing = MissingIds(model.program.trained.schema, layout)
        self._scorer = cast(Scorer, model.program.run)
        self._compared = compared_lists(layout)
        self._sides_of = lru_cache(maxsize=64)(partial(_sides, layout))

    def decode(self, request: RankingRequest, limited: bool = True) -> Decoded:
        """limited: whether the limits of the settings hold. Raises RefusedRequest, which names column and reason."""
        limits = (self.settings.max_candidates, self.settings.max_events) if limited else (sys.maxsize, sys.maxsize)
        check(request, self.uses, *limits)
        request = self._with_compared_lists(request)
        of_user = users_columns(request, self.uses)
        found, user = self._sides_of(of_user), cast(Inputs, {})
        try:
            if of_user:
                [user] = batches_of(request.user, found.user, 1, "user")
            events = max((len(v) for n, v in user.items() if n.startswith("list.")), default=0)
            rows = max(1, min(self.settings.batch_rows, MOST_PAIRS // max(1, events)))
            parts: Iterable[Inputs] = repeat({})
            if len(of_user) < len(self.uses):
                parts = list(batches_of(request.candidates, found.row, rows, "candidates"))
        except BadRows as error:
            raise RefusedRequest(422, str(error), error.column) from None
        except DataError as error:
            raise RefusedRequest(422, str(error)) from None
        except pa.ArrowException as error:
            raise RefusedRequest(422, f"a column cannot be read: {error}") from None
        count = request.candidates.num_rows
        counts = [min(rows, count - first) for first in range(0, count, rows)]
        return Decoded(found, user, list(zip(counts, parts, strict=False)), events)

    def _with_compared_lists(self, request: RankingRequest) -> RankingRequest:
        """Lists that a history is compared with, and the user has, are repeated for each candidate."""
        moved = [c for c in request.user.column_names if c in self._compared]
        user, candidates = request.user, request.candidates
        for column in moved:
            size = user[column].nbytes * len(candidates)
            if size > MOST_REPEATED_BYTES:
                raise RefusedRequest(
                    413,
                    f"user: column {column!r}: the history is compared with this list for each candidate: {len(candidates):,} "
                    f"times, {size / 1e6:,.0f} MB, and {MOST_REPEATED_BYTES / 1e6:,.0f} MB are allowed. Send fewer at a time",
                    column,
                )
            repeated = user[column].combine_chunks().take(pa.array(np.zeros(len(candidates), np.int64)))
            candidates = candidates.append_column(column, repeated)
        return replace(request, user=user.drop_columns(moved), candidates=candidates)

    def not_finite(self, decoded: Decoded) -> RefusedRequest:
        """The error of a request whose predictions are not finite: one of its columns, or the version."""
        for layout, inputs in ((decoded.sides.user, decoded.user), *((decoded.sides.row, part) for _, part in decoded.rows)):
            for name, values in unpacked(inputs, inputs_of(layout)).items():
                if values.is_floating_point() and bool((extreme := values.abs() > _EXTREME).any()):
                    column, value = name.partition(".")[2], float(values[extreme][0])
                    return RefusedRequest(422, f"column {column!r}: {value:g} makes predictions that are not finite", column)
        return RefusedRequest(500, f"{self.name} predicts what is not finite: publish another version")

    def missing(self, decoded: Decoded) -> dict[str, Ids]:
        """Ids of a request by feature, and how many of them have no row of their own."""
        found: dict[str, Ids] = {}
        sides = [(decoded.sides.user, decoded.user), *((decoded.sides.row, part) for _, part in decoded.rows)]
        for layout, inputs in sides:
            for name, (count, missing) in self._missing(unpacked(inputs, inputs_of(layout))).items():
                before = found.get(name, (0, 0))
                found[name] = before[0] + count, before[1] + missing
        return found

    def columns(self, predictions: Predictions) -> dict[str, pa.Array]:
        """The answer's columns: each prediction (float32), and the score (float64, null where the formula has no value)."""
        found = {name: predictions[:, n] for n, name in enumerate(self.names)}
        columns = {name: pa.array(values) for name, values in found.items()}
        if self._formula is not None:
            score = self._formula(found)
            columns[SCORE] = pa.array(score, mask=~np.isfinite(score))
        return columns

    def predict(self, together: Sequence[Decoded], wanted: Callable[[], bool] = lambda: True) -> list[Predictions]:
        """(N, P) of each of these requests, whose sides are the same. wanted: whether an answer is still wanted; it is asked
        between the parts of a large request. Raises RefusedRequest when it is not."""
        if len(together) == 1:
            [one] = together
            found = []
            for part in one.rows:
                if not wanted():
                    raise RefusedRequest(503, "given up")
                found.append(self._computed(one.sides, [one.user], [part]))
            return [np.concatenate(found)]
        parts = [part for one in together for part in one.rows]  # each request has one part: see batching.py
        whole = self._computed(together[0].sides, [one.user for one in together], parts)
        return np.split(whole, np.cumsum([one.candidates for one in together])[:-1])

    def _computed(self, found: Sides, users: list[Inputs], parts: list[tuple[int, Inputs]]) -> Predictions:
        counts = torch.tensor([count for count, _ in parts])
        inputs, of_rows = found.joined(_joined(users), _joined([inputs for _, inputs in parts]), counts)
        with torch.no_grad():
            return self._scorer.predicted(inputs, of_rows).numpy()


def _sides(layout: InputLayout, columns: frozenset[str]) -> Sides:
    """Raises RefusedRequest for a history that stands on both sides."""
    groups = list_groups(layout)
    of_group: dict[str, list[str]] = {}
    for item in layout.inputs:
        if item.key in groups:
            of_group.setdefault(groups[item.key], []).extend(c for c in (item.column, item.weights) if c)
    for group, members in of_group.items():
        apart = [c for c in members if c not in columns]
        if apart and len(apart) < len(members):
            raise RefusedRequest(
                422,
                f"the lists of {group!r} belong together: give {', '.join(members)} all under user or all under candidates",
                apart[0],
            )
    return sides(layout, columns)


def _joined(parts: list[Inputs]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
