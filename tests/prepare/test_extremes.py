"""The largest values of a log's numbers, and which of them are told."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from home_dist.insight.prepared_page import write_page
from home_dist.prepare.generic.largest_values import extremes, scan_extremes
from home_dist.prepare.summary import part_lines
from tests.prepare.test_which_file import BAD, prepared, replaced, split_log


def with_value(value):
    def change(table):
        return replaced(table, "seconds", pc.if_else(pa.array(np.arange(len(table)) == 5), value, table.column("seconds")))

    return change


@pytest.mark.parametrize("value", [1e30, -1e9])
def test_a_value_far_beyond_all_others_is_told_with_file_and_row(tmp_path, value):
    split_log(tmp_path, with_value(value))
    report = prepared(tmp_path)
    told = report["extremes"]["seconds"]
    assert value in (told["lowest"], told["highest"])
    assert told["row"] == 6
    assert told["suspicious"]
    line = next(line for line in part_lines(report) if line.startswith("WARNING: column 'seconds'"))
    assert f"holds {value:g} (row 6 of " in line
    assert f"day-{BAD:02d}.parquet" in line
    assert not report["extremes"]["length"]["suspicious"]
    write_page(report, tmp_path / "page.html")
    assert f"row 6 of {told['file']}" in (tmp_path / "page.html").read_text()


def test_what_is_usual_is_told_in_the_report_alone(tmp_path):
    table = split_log(tmp_path, lambda t: t)
    report = prepared(tmp_path)
    told, values = report["extremes"]["seconds"], table.column("seconds").drop_null().to_numpy()
    assert (told["lowest"], told["highest"]) == (values.min(), values.max())
    for name, share in (("half_below", 0.5), ("99.9%_below", 0.999)):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert exact <= told[name] <= exact * 1.126
    assert not told["suspicious"]
    assert not any("'seconds'" in line for line in part_lines(report))


def test_infinite_values_are_counted(tmp_path):
    split_log(tmp_path, with_value(float("inf")))
    report = prepared(tmp_path)
    assert report["extremes"]["seconds"]["infinite"] == 1
    assert "note: column 'seconds' holds 1 infinite values: they count as missing" in list(part_lines(report))


@settings(max_examples=50)
@given(
    st.lists(st.floats(allow_infinity=True, allow_nan=True), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_how_the_log_is_cut_does_not_show(values, cuts):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:

        def told(bounds):
            places = []
            for number, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
                places.append(Path(folder, f"{len(bounds)}-{number}"))
                places[-1].mkdir()
                scan_extremes({"x": np.asarray(values[first:last])}, np.arange(first, last), places[-1])
            return extremes(places, ["file"], 40)

        assert told([0, *sorted(min(c, len(values)) for c in cuts), len(values), len(values)]) == told([0, len(values)])


def test_parquet_of_no_numbers(tmp_path):
    scan_extremes({}, np.arange(3), tmp_path)
    assert extremes([tmp_path], ["file"], 40) == {}
    assert pq.read_table(tmp_path / "sizes.parquet").num_rows == 0
