"""Data whose rows can be told apart: the dense value `age` is the row's number."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from home_dist.data import Batch, Reader, ReaderPosition
from tests.factory import make_data


def make_numbered(folder: Path, rows: int, group_sizes: Sequence[int]) -> Path:
    """One file per size of its row groups."""
    data = make_data(folder, rows=rows, files=len(group_sizes))
    count = 0
    for path, size in zip(sorted((data / "train").glob("*.parquet")), group_sizes, strict=True):
        table = pq.read_table(path)
        ages = np.arange(count, count + len(table), dtype=np.float32)
        count += len(table)
        table = table.set_column(table.schema.get_field_index("age"), "age", [ages])
        pq.write_table(table, path, row_group_size=size)
    return data


def numbers(batch: Batch) -> list[int]:
    """The row numbers of a batch's real samples: dense is (rate, age, vector), age standardised by mean 5 and std 3."""
    return (batch.dense[batch.mask.bool(), 1] * 3 + 5).round().int().tolist()


def read_in_stages(stages: Sequence[tuple[int, int, Callable[[int], Reader]]]) -> Counter[int]:
    """How often each row of epoch 0 is read. A stage: ranks, steps until the stop, and the reader of a rank; the last stage
    runs to the end, and each begins where the one before stopped. The state goes through JSON."""
    position, seen = None, Counter[int]()
    for number, (ranks, stop, reader_of) in enumerate(stages):
        last, steps, reached = number == len(stages) - 1, set(), position
        for rank in range(ranks):
            reader = reader_of(rank)
            if position is not None:
                reader.resume(position)
            steps.add(reader.steps(0))
            done = reader.steps_done(0)
            for taken, batch in enumerate(reader.epoch(0)):
                if taken == stop and not last:
                    break
                seen.update(numbers(batch))
                done = batch.step
            reached = ReaderPosition.from_json(reader.position(0, done).to_json())
        assert len(steps) == 1  # on all ranks the same
        position = reached
    return seen
