"""JSON that other programs can read, and files of entries that a kill has cut."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from home_dist.errors import ConfigError
from home_dist.files.json_files import append_entries, finite, json_text, read_entries, read_json, write_json

TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refuse(name):
    raise ValueError(f"{name} is no JSON")


@given(TREES)
def test_the_text_is_valid_json_whatever_the_numbers(tree):
    assert json.loads(json_text(tree), parse_constant=refuse) == finite(tree)


def test_figures_that_are_not_defined_are_null(tmp_path):
    write_json(tmp_path / "evaluation.json", {"auc": math.nan, "parts": [1.0, math.inf], "rows": 3})
    assert read_json(tmp_path / "evaluation.json", "") == {"auc": None, "parts": [1.0, None], "rows": 3}


def test_a_cut_file_is_an_error_that_names_it_and_an_absent_one_is_empty(tmp_path):
    assert read_json(tmp_path / "none.json", "") == {}
    for content in (b"", b'{"a": 1', b"[1]", b"\xff"):
        (tmp_path / "cut.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"cut.json: .* Evaluate again."):
            read_json(tmp_path / "cut.json", "Evaluate again.", ConfigError)


ENTRIES = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=5)


@given(ENTRIES, ENTRIES, st.integers(0, 10_000))
def test_entries_appended_after_a_cut_are_all_read(tmp_path_factory, before, after, cut):
    path = tmp_path_factory.mktemp("entries") / "rows.jsonl"
    append_entries(path, before)
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    kept = list(read_entries(path))
    assert kept == before[: len(kept)]
    append_entries(path, after)
    assert list(read_entries(path)) == [*kept, *after]
