"""The past of keys counted slice of time by slice of time: the same bytes as in one piece."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from home_dist.prepare.generic import log_preparation, past
from home_dist.prepare.generic.past_in_pieces import count_in_pieces
from home_dist.prepare.generic.time_slices import KeyCodes, MomentSample
from tests.prepare.test_engine import state_of
from tests.prepare.test_going_on import DESCRIPTION, describe, digests, make_days, prepare

# More windows: several for a key, until the morning and until the impression, longer and shorter than a slice.
MORE = """  { by = ["video"], name = "short", rates = ["view"], days = 0.1 },
  { by = ["video"], name = "mornings", rates = ["view", "like"], days = 1.5, until = "morning" },
  { by = ["author", "place"], name = "pair", rates = ["like"], days = 2 },
  { by = ["user"], rates = ["like"] },
"""


@pytest.mark.parametrize(
    ("seed", "rows", "partitions", "extra"),
    [(3, 40, 1, 'forget_days = 0.3\nrepeated = "merge"\n'), (4, 30, 2, "forget_days = 1.25\n"), (5, 60, 1, "")],
)
def test_pieces_do_not_show(seed, rows, partitions, extra, tmp_path):
    """A preparation and one that goes on from it."""
    folder = tmp_path
    make_days(folder, 5, seed, rows=70)
    for path in (folder / "log").iterdir():  # some rows twice
        log = pq.read_table(path)
        pq.write_table(pa.concat_tables([log, log.slice(seed % 50, 25)]), path)
    describe(folder, 1, extra, DESCRIPTION.replace('  { by = ["user"], rates = ["like"] },\n', MORE))
    prepare(folder, "whole0", until=3, partitions=1)
    prepare(folder, "whole1", "whole0", 5, partitions=1)
    slices = []

    def counting(*given):
        count_in_pieces(*given)
        slices.append(len(list(given[6].glob("back-*.arrow"))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_preparation, "piece_rows", lambda *_: rows)
        patch.setattr(past, "count_in_pieces", counting)
        prepare(folder, "data0", until=3, partitions=partitions)
        prepare(folder, "data1", "data0", 5, partitions=partitions)
    assert max(slices) > 3
    for number, splits in enumerate((("train", "validation", "test"), ("train",))):
        for split in splits:
            assert digests(folder / f"data{number}", split) == digests(folder / f"whole{number}", split)
        assert state_of(folder / f"data{number}") == state_of(folder / f"whole{number}")


@given(st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from("xy")), max_size=9), max_size=5))
@settings(max_examples=40)
def test_codes_are_places_of_distinct_keys(batches):
    codes, expected = KeyCodes(3), dict[tuple, int]()
    for batch in batches:
        columns = [[row[n] for row in batch] for n in range(3)]
        arrays = [pa.array(c, k) for c, k in zip(columns, (pa.string(), pa.int64(), pa.string()), strict=True)]
        told = codes.add(arrays) if batch else []
        assert [expected.setdefault(row, len(expected)) for row in batch] == list(told)
    assert len(codes) == len(expected)
    back = codes.keys(np.arange(len(expected)))
    assert list(zip(*(c.to_pylist() for c in back), strict=True)) == list(expected)


def test_slices_hold_about_equally_many_rows():
    times = np.sort(np.random.default_rng(0).exponential(1e6, 200_000).astype(np.int64))
    sample = MomentSample(20_000)
    for part in np.array_split(times, 37):
        sample.add(part)
    begins = sample.begins()
    sizes = np.diff(np.append(np.searchsorted(times, begins), len(times)))
    assert len(begins) >= 20
    assert sizes.max() <= 11_000
