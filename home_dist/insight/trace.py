"""Splits the time of traced steps into parts, and measures how much of the exchange between ranks computing hides.

Reads the file of torch's profiler (Chrome's format). Each moment of a step belongs to the innermost known scope on the training
thread, or for a GPU on the computing stream. An exchange lasts from its start to its end. It is hidden while operators run
beside it, or while Python runs between two operators.
"""

import bisect
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEP = "home_dist: step"
PARTS = (
    "data wait",
    "input exchange",
    "look-up",
    "output exchange",
    "feature vector",
    "sequences",
    "experts",
    "towers",
    "backward",
    "optimizer",
    "other",
)
SCOPE = "home_dist: "
"""Prefix of a part's name in this library's scopes."""
_KNOWN = (
    # (prefix of TorchRec's or torch's scope, part that its time belongs to)
    ("## next_batch", "data wait"),
    ("## copy_batch_to_gpu", "data wait"),
    ("## inplace_copy_batch_to_gpu", "data wait"),
    ("## wait_for_batch", "data wait"),
    ("## start_sparse_data_dist", "input exchange"),
    ("## wait_sparse_data_dist", "input exchange"),
    ("[splits_dist]", "input exchange"),
    ("## FusedKJTListSplitsAwaitable", "input exchange"),
    ("## KJTAllToAll", "input exchange"),
    ("## KJTListAwaitable", "input exchange"),
    ("## all2all_data", "input exchange"),
    ("## runtime_forward_assemble_KJT", "input exchange"),
    ("[lookup]", "look-up"),
    ("[output_dist]", "output exchange"),
    ("[output_dist_wait]", "output exchange"),
    ("## EmbeddingBagCollectionAwaitable", "output exchange"),
    ("## EmbeddingCollectionAwaitable", "output exchange"),
    ("## backward", "backward"),
    ("## optimizer", "optimizer"),
    ("## zero_grad", "optimizer"),
    ("Optimizer.", "optimizer"),
)
_BYTES = {"float": 4, "int": 4, "long int": 8, "double": 8, "c10::Half": 2, "c10::BFloat16": 2}
_BYTES |= {"unsigned char": 1, "signed char": 1}
_MESSAGE = 8  # bytes of a sum of one whole number: whether a rank is asked to leave, which runs beside steps at any moment
_PYTHON = 200.0  # microseconds: a shorter gap between two operators counts as computing, as Python prepares the next one


@dataclass
class Exchange:
    """One kind of collective, per step."""

    calls: float = 0.0
    bytes: float = 0.0
    """Bytes that this rank hands to it; 0 if the trace does not say."""
    milliseconds: float = 0.0


@dataclass
class Breakdown:
    steps: int
    milliseconds: float
    """Per step."""
    parts: dict[str, float]
    """Milliseconds per step of each of PARTS; they add up to `milliseconds`."""
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    communicating: float = 0.0
    """Milliseconds per step during which an exchange was under way."""
    hidden: float = 0.0
    """Milliseconds of `communicating` during which computing went on."""
    launches: float = 0.0
    """GPU kernels that a step launches; on a CPU, operators that call no other operator."""

    @property
    def hidden_share(self) -> float:
        """NaN without exchanges."""
        return self.hidden / self.communicating if self.communicating else float("nan")


Span = tuple[float, float]


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events that have a duration."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [event for event in json.loads(text)["traceEvents"] if event.get("ph") == "X"]


def breakdown(events: Sequence[dict[str, Any]]) -> Breakdown:
    """Averages over the traced steps. Raises ValueError if the trace has no step of this library."""
    on_gpu = any(e.get("cat") == "kernel" for e in events)
    scopes = [e for e in events if e.get("cat") == ("gpu_user_annotation" if on_gpu else "user_annotation")]
    steps = [e for e in scopes if e["name"] == STEP]
    if not steps:
        raise ValueError(f"the trace holds no scope {STEP!r}")
    thread = steps[0]["tid"]
    spans = [_span(s) for s in steps]
    parts = dict.fromkeys(PARTS, 0.0)
    for begin, end in spans:
        inside = [s for s in scopes if s["tid"] == thread and begin <= s["ts"] < end and _part(s["name"]) is not None]
        for part, took in _innermost(inside, begin, end):
            parts[part] += took
    collectives = [e for e in events if _collective(e, on_gpu) is not None and _within(e, spans)]
    exchanges: dict[str, Exchange] = {}
    for event in collectives:
        kind = exchanges.setdefault(_collective(event, on_gpu) or "", Exchange())
        kind.calls += 1 / len(steps)
        kind.bytes += _bytes(event) / len(steps)
        kind.milliseconds += event["dur"] / 1e3 / len(steps)
    under_way = _union(_span(e) for e in collectives)
    if on_gpu:
        busy = _union(_span(e) for e in events if e.get("cat") == "kernel" and not e["name"].startswith("nccl"))
    else:
        busy = _bridged(_union(_computing([e for e in events if e.get("cat") == "cpu_op" and e["tid"] == thread])))
    return Breakdown(
        steps=len(steps),
        milliseconds=sum(s["dur"] for s in steps) / 1e3 / len(steps),
        parts={part: took / 1e3 / len(steps) for part, took in parts.items()},
        exchanges=dict(sorted(exchanges.items(), key=lambda item: -item[1].milliseconds)),
        communicating=_length(under_way) / 1e3 / len(steps),
        hidden=_length(_common(under_way, busy)) / 1e3 / len(steps),
        launches=_launches([e for e in events if _within(e, spans)], on_gpu) / len(steps),
    )


def _part(name: str) -> str | None:
    """The part that a scope's time belongs to."""
    if name.startswith(SCOPE):
        part = name.removeprefix(SCOPE)
        return part if part in PARTS else None
    return next((part for begin, part in _KNOWN if name.startswith(begin)), None)


def _innermost(scopes: Sequence[dict[str, Any]], begin: float, end: float) -> Iterable[tuple[str, float]]:
    """Cuts begin .. end into (part, microseconds) by the innermost scope; scopes are nested."""
    since = begin
    open_: list[tuple[float, str]] = [(end, "other")]
    for scope in sorted(scopes, key=lambda s: (s["ts"], -s["dur"])):
        start, stop = _span(scope)
        while open_[-1][0] <= start and len(open_) > 1:
            until, part = open_.pop()
            yield part, until - since
            since = until
        yield open_[-1][1], start - since
        since = start
        open_.append((min(stop, open_[-1][0]), _part(scope["name"]) or "other"))
    while open_:
        until, part = open_.pop()
        yield part, until - since
        since = until


def _collective(event: dict[str, Any], on_gpu: bool) -> str | None:
    """Name of the collective, if the event lasts as long as the exchange."""
    name = event["name"]
    if on_gpu:
        return name.split("(")[0] if event.get("cat") == "kernel" and name.startswith("nccl") else None
    if not name.startswith("gloo:") or (name == "gloo:all_reduce" and 0 < _bytes(event) <= _MESSAGE):
        return None
    return name.removeprefix("gloo:")


def _launches(events: Sequence[dict[str, Any]], on_gpu: bool) -> int:
    if on_gpu:
        return sum(e.get("cat") == "kernel" for e in events)
    count = 0
    threads: dict[Any, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "cpu_op":
            threads.setdefault(event["tid"], []).append(event)
    for operators in threads.values():
        operators.sort(key=lambda e: (e["ts"], -e["dur"]))
        ends = [e["ts"] + e["dur"] for e in operators]
        # An operator calls the next one if the next one begins before it ends.
        count += sum(following["ts"] >= end for end, following in zip(ends, operators[1:], strict=False)) + 1
    return count


def _computing(operators: Sequence[dict[str, Any]]) -> Iterable[Span]:
    """Spans of one thread's operators, except those that wait for an exchange or call an operator that does."""
    waits = sorted(e["ts"] for e in operators if e["name"].startswith(("c10d::", "gloo:")))
    for event in operators:
        begin, end = _span(event)
        waiting = bisect.bisect_left(waits, begin) < bisect.bisect_right(waits, end)
        if not waiting and "_Wait" not in event["name"]:
            yield begin, end


def _bytes(event: dict[str, Any]) -> int:
    """Bytes of the tensors handed to a collective."""
    arguments = event.get("args", {})
    total = 0
    for kind, shape in zip(arguments.get("Input type", ()), arguments.get("Input Dims", ()), strict=False):
        size = _BYTES.get(kind, 0)
        if size and all(isinstance(n, int) for n in shape):
            for n in shape:
                size *= n
            total += size
    return total


def _span(event: dict[str, Any]) -> Span:
    return event["ts"], event["ts"] + event["dur"]


def _within(event: dict[str, Any], spans: Sequence[Span]) -> bool:
    return any(begin <= event["ts"] < end for begin, end in spans)


def _union(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _bridged(spans: Sequence[Span]) -> list[Span]:
    """Spans with gaps shorter than _PYTHON filled."""
    joined: list[Span] = []
    for begin, end in spans:
        if joined and begin - joined[-1][1] < _PYTHON:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _common(one: Sequence[Span], other: Sequence[Span]) -> list[Span]:
    common, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        begin, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if begin < end:
            common.append((begin, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return common


def _length(spans: Sequence[Span]) -> float:
    return sum(end - begin for begin, end in spans)
