"""The breakdown of a trace, against traces written down by hand."""

import gzip
import json

import pytest

from home_dist.insight.trace import SCOPE, STEP, breakdown, read_trace

TRAINS, OTHER = 7, 8


def event(category, name, begin, end, thread=TRAINS, **told):
    """begin, end: milliseconds."""
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "tid": thread,
        "ts": begin * 1e3,
        "dur": (end - begin) * 1e3,
        "args": told,
    }


def scope(name, begin, end, thread=TRAINS):
    return event("user_annotation", name, begin, end, thread)


def test_each_moment_belongs_to_the_innermost_known_scope():
    found = breakdown(
        [
            scope(STEP, 100, 200),
            scope("## next_batch ##", 100, 103),
            scope("## forward 4 ##", 110, 150),
            scope("[output_dist_wait]_[bags]_[row_wise]", 112, 118),
            scope("## PooledEmbeddingsAwaitable wait() ##", 113, 117),
            scope(SCOPE + "feature vector", 120, 140),
            scope(SCOPE + "sequences", 125, 131),
            scope(SCOPE + "experts", 141, 149),
            scope("## backward 4 ##", 150, 190),
            scope("## optimizer 4 ##", 190, 199),
            scope("Optimizer.step#AdamW.step", 191, 198),
            scope("## backward 4 ##", 120, 160, thread=OTHER),
            scope("## next_batch ##", 90, 95),
        ]
    )
    expected = {
        "data wait": 3,
        "output exchange": 6,
        "feature vector": 14,
        "sequences": 6,
        "experts": 8,
        "backward": 40,
        "optimizer": 9,
    }
    expected["other"] = 100 - sum(expected.values())
    assert {part: ms for part, ms in found.parts.items() if ms} == pytest.approx(expected)
    assert (found.steps, found.milliseconds) == (1, 100)


def test_hidden_is_what_operators_run_beside():
    exchange = {"Input type": ["float", "", "long int"], "Input Dims": [[10, 4], [], [6]]}
    found = breakdown(
        [
            scope(STEP, 0, 100),
            scope(STEP, 100, 200),
            event("cpu_op", "gloo:all_to_all", 10, 30, thread=OTHER, **exchange),
            event("cpu_op", "gloo:all_to_all", 20, 40, thread=OTHER),
            event("cpu_op", "gloo:all_reduce", 150, 160, thread=OTHER),
            event("cpu_op", "gloo:all_reduce", 250, 260, thread=OTHER),  # after the steps
            event("cpu_op", "aten::mm", 12, 15),
            event("cpu_op", "aten::mm", 15.1, 16),  # the 0.1 before is Python's, on its way to it
            event("cpu_op", "aten::mm", 25, 25.5, thread=OTHER),  # of a thread that does not train
            event("cpu_op", "All2All_Pooled_Wait", 20, 40),  # waits
            event("cpu_op", "evaluate_function: GatherBackward", 145, 165),  # holds one that does
            event("cpu_op", "c10d::allreduce_", 150, 150.2),
            event("cpu_op", "aten::add", 152, 154),
        ]
    )
    assert found.communicating * 2 == pytest.approx(30 + 10)
    assert found.hidden * 2 == pytest.approx(4 + 2)
    assert found.hidden_share == pytest.approx(6 / 40)
    every = found.exchanges["all_to_all"]
    assert (every.calls, every.milliseconds, every.bytes) == pytest.approx((1, 20, (160 + 48) / 2))
    assert found.exchanges["all_reduce"].milliseconds == pytest.approx(5)


def test_on_a_gpu_kernels_and_streams_count():
    found = breakdown(
        [
            scope(STEP, 0, 1),  # of the thread that launches
            event("gpu_user_annotation", STEP, 10, 20),
            event("gpu_user_annotation", "## backward 1 ##", 12, 18),
            event("kernel", "gemm", 12, 15),
            event("kernel", "ncclDevKernel_AllReduce_Sum_f32(a, b)", 14, 18, thread=OTHER),
        ]
    )
    assert found.parts["backward"] == pytest.approx(6)
    assert list(found.exchanges) == ["ncclDevKernel_AllReduce_Sum_f32"]
    assert found.hidden_share == pytest.approx(1 / 4)


def test_compressed_and_plain_files(tmp_path):
    tree = {"traceEvents": [scope(STEP, 0, 1), {"ph": "M", "name": "process_name"}]}
    plain, small = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_text(json.dumps(tree))
    small.write_bytes(gzip.compress(json.dumps(tree).encode()))
    assert read_trace(plain) == read_trace(small) == tree["traceEvents"][:1]
    with pytest.raises(ValueError, match="holds no scope"):
        breakdown([])


def test_launches_are_operators_that_call_no_other():
    found = breakdown(
        [
            scope(STEP, 0, 50),
            scope(STEP, 50, 100),
            event("cpu_op", "aten::linear", 1, 9),
            event("cpu_op", "aten::t", 2, 4),
            event("cpu_op", "aten::transpose", 2.5, 3),
            event("cpu_op", "aten::addmm", 5, 8),
            event("cpu_op", "aten::relu", 60, 61),
            event("cpu_op", "aten::mul", 2, 3, thread=OTHER),
            event("cpu_op", "aten::mul", 120, 130),
        ]
    )
    assert found.launches == 4 / 2


def test_launches_on_a_gpu_are_kernels():
    found = breakdown(
        [
            event("gpu_user_annotation", STEP, 0, 50),
            event("kernel", "gemm", 1, 9),
            event("kernel", "relu", 10, 11, thread=OTHER),
            event("cpu_op", "aten::mul", 2, 3),
        ]
    )
    assert found.launches == 2


def test_a_message_beside_the_steps_is_no_exchange():
    """preemption.py asks in each step whether a rank is to leave: its sum of one number lies in a traced step or not."""
    told = {"Input type": ["long int"], "Input Dims": [[1]]}
    gradients = {"Input type": ["float"], "Input Dims": [[100]]}
    found = breakdown(
        [
            scope(STEP, 0, 10),
            event("cpu_op", "aten::mm", 1, 2),
            event("cpu_op", "gloo:all_reduce", 3, 4, OTHER, **told),
            event("cpu_op", "gloo:all_reduce", 5, 6, OTHER, **gradients),
        ]
    )
    assert {name: (e.calls, e.bytes) for name, e in found.exchanges.items()} == {"all_reduce": (1, 400)}
    assert found.communicating == 1
