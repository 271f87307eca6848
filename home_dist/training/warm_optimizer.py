"""Warm start of the optimizers: the state of rows and entries whose weights are taken over, by the same maps.

Rows and entries without a match start with zeros. AdamW has one step counter for a whole tensor. It is taken as soon as some
entries of the tensor are: their moments are long past the first steps, and with a small counter AdamW's correction would shrink
their updates to 0.15 of what they were. New entries then have moments of zero beside a large counter, so that their updates
lack the correction: with betas of 0.9 and 0.999 the first one is 3.2 times the learning rate, and none is more than 7.3 times.
This bound holds for every entry of AdamW at every step, and a row that an uninterrupted run meets late is updated in the same
way. Other entries' second moments, in place of the zeros, would hold back new rows and tasks that are rarer than the others for
thousands of steps.
"""

from collections.abc import Iterator

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from home_dist.data.matching_rows import Map
from home_dist.schema import Table
from home_dist.training.checkpoint.contents import (
    TableState,
    optimizer_state,
    row_wise_values,
    set_fused_steps,
    table_of,
    table_states,
)
from home_dist.training.checkpoint.pieces import Stored
from home_dist.training.checkpoint.table_plan import TablePlan
from home_dist.training.matching_entries import Entries
from home_dist.training.matching_sets import SetMap
from home_dist.training.optimizers import create_state
from home_dist.training.stored_tables import Place, gather, gather_box, replicated_weight

_MOMENTS = ("exp_avg", "exp_avg_sq")
_DENSE = "adamw"


class WarmOptimizer:
    """Fills the optimizers' state on this rank from a checkpoint of another run.

    Each method returns the end of a line of the report, the same on all ranks.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: CombinedOptimizer,
        stored: Stored,
        plans: dict[str, TablePlan],
        kinds: tuple[str, str],
    ):
        """plans: of the ranks that wrote the checkpoint, by table; kinds: the optimizer of sharded tables there and here."""
        self.model, self.stored, self.plans, self.kinds = model, stored, plans, kinds
        create_state(optimizer)
        self._dense: dict[str, dict[str, torch.Tensor]] = {}
        self._counters: dict[str, torch.Tensor] = {}
        for name, key, value in optimizer_state(optimizer):
            table = table_of(name)
            if table is None:
                self._dense.setdefault(name, {})[key] = value
            elif key == "steps":  # of a data-parallel table
                self._counters[table] = value
        self._parts = list(table_states(model, optimizer))
        self._steps: dict[str, int] = {}

    def take_table(self, before: Table, now: Table, place: Place, first: int, rows: Map, sets: SetMap) -> str:
        """Takes the state of a table's rows. place: of the table there; first: of a replicated table, its first row in the
        weight here; rows, sets: the maps."""
        old, new = (_DENSE if t.replicated else kind for t, kind in zip((before, now), self.kinds, strict=True))
        if old != new:
            return f", without their optimizer state ({old} there, {new} here)"
        keys = list(_MOMENTS) if now.replicated else self._keys(before.name)
        if now.replicated:
            weight = place.tensor.removeprefix("dense/")
            if not self._holds(weight):
                return ", without their optimizer state, which is not there"
            here = replicated_weight(str(now.dim))
            state = self._dense[here]
            for key in keys:
                stored_rows = Place(f"dense_optimizer/{weight}/{key}", place.first, place.rows)
                gather_sets(self.stored, stored_rows, rows, sets, 0, state[key][first : first + now.rows])
            self._take_step(here, weight)
            return ", with their optimizer state"
        for part in self._parts:
            if part.table == now.name and part.key in keys:
                self._take_part(part, before, rows, sets)
        counter = f"tables/{before.name}/steps"
        if counter in self.stored.tensors:
            self._steps[now.name] = int(self.stored.whole(counter))
            if now.name in self._counters:
                self._counters[now.name].fill_(self._steps[now.name])
        if new == "sgd":
            return ""
        return ", with their optimizer state" if keys else ", without their optimizer state, which is not there"

    def take_dense(self, name: str, entries: Entries) -> str:
        """Takes the state of a dense tensor's entries."""
        if name not in self._dense:  # a statistic, which no optimizer updates
            return ""
        if not self._holds(name):
            return ", without its optimizer state, which is not there"
        for key in _MOMENTS:
            entries.fill(self._dense[name][key], self.stored.whole(f"dense_optimizer/{name}/{key}"))
        self._take_step(name)
        return ", with its optimizer state"

    def set_steps(self) -> None:
        """Sets the counters of fused optimizers, once all tables are taken."""
        set_fused_steps(self.model, self._steps)

    def _holds(self, name: str) -> bool:
        return all(f"dense_optimizer/{name}/{key}" in self.stored.tensors for key in (*_MOMENTS, "step"))

    def _take_step(self, name: str, there: str | None = None) -> None:
        self._dense[name]["step"].copy_(self.stored.whole(f"dense_optimizer/{there or name}/step"))

    def _keys(self, table: str) -> list[str]:
        """Keys of the stored state of a sharded table."""
        return sorted(key for key in self._stored_keys(table) if key not in ("weight", "steps"))

    def _stored_keys(self, table: str) -> Iterator[str]:
        prefix = f"tables/{table}/"
        return (name.removeprefix(prefix) for name in self.stored.tensors if name.startswith(prefix))

    def _take_part(self, part: TableState, before: Table, rows: Map, sets: SetMap) -> None:
        wanted = rows[part.first_row : part.first_row + len(part.values)]
        name = f"tables/{before.name}/{part.key}"
        if not part.row_wise:
            gather_sets(self.stored, Place(name, 0, before.rows), wanted, sets, part.columns[0], part.values)
            return
        # One number per row: where rows hold other sets there, that of the whole row.
        same = before.dim == part.shape[1] and all(here == there for here, there in enumerate(sets.there))
        shares = self.plans[before.name].shares(part.columns if same else (0, before.dim))
        gather(
            wanted,
            part.values,
            lambda first, count: row_wise_values(self.stored, name, shares, first, count),
            row_bytes=len(shares) * self.stored.dtype(name).itemsize,
        )


def gather_sets(stored: Stored, place: Place, rows: Map, sets: SetMap, column: int, out: torch.Tensor) -> None:
    """`gather_box` for columns from `column` on of this run's table, set by set."""
    for at, there, width in sets.within(column, out.shape[1]):
        gather_box(stored, place, rows, there, out[:, at : at + width])
