"""A resumed run is the run that was not stopped, bit for bit: every combination of following, accumulation, sampling, rows that
are left out and number of ranks."""

import json
from dataclasses import replace

import pytest
import torch

from home_dist.training.checkpoint.reading import open_stored
from tests.distributed.resume_ranks import BAD_LABELS, CASES
from tests.ranks import run_module

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_equal(ranks, tmp_path):
    ended = run_module(ranks, "tests.distributed.resume_ranks", tmp_path, ",".join(CASES))
    for name, case in CASES.items():
        whole, stopped = (tmp_path / name / kind / "run" for kind in ("whole", "stopped"))
        steps = [p.name for p in sorted((whole / "checkpoints").glob("step-*"))]
        assert [p.name for p in sorted((stopped / "checkpoints").glob("step-*"))] == steps
        assert len(steps) >= 4, (name, steps)
        for step in steps:
            (expected, record), (found, again) = (open_stored(f / "checkpoints" / step) for f in (whole, stopped))
            positions = [replace(r.state.position, dealt=None) for r in (record, again)]
            assert positions[0] == positions[1], (name, step)
            assert record.state.rounds == again.state.rounds
            assert expected.tensors.keys() == found.tensors.keys()
            apart = [n for n in expected.tensors if not torch.equal(expected.whole(n), found.whole(n))]
            assert apart == [], (name, step)
        if case.follow:
            assert record.state.rounds == [["part-00000.parquet"], ["part-00001.parquet"]], name
        if case.skip:
            texts = [(f / "bad_rows.json").read_text().replace(str(f.parent), "") for f in (whole, stopped)]
            told, again = (json.loads(text)["splits"]["train"] for text in texts)
            assert told == again, name
            assert set(told["rows_by_file"]) == {f"/data/train/part-0000{n}.parquet" for n in (0, 1)}
            assert len(BAD_LABELS) < told["rows"] <= 2 * len(BAD_LABELS)
    assert "left out so far" in ended.outputs[0]
