"""README.md of an export: a model card in Hugging Face's form, with a YAML header, made of what the run's folder holds.

The licence is the user's to choose: the header has a line for it, as a comment.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from home_dist.errors import UserError
from home_dist.export.source import Source
from home_dist.files.json_files import read_json
from home_dist.files.places import without_secrets
from home_dist.files.whole import write_whole
from home_dist.insight.cold_ids import from_json
from home_dist.insight.run_record import RunRecord
from home_dist.prepare.days import ALL_ROWS

CARD = "README.md"
Form = Literal["safetensors", "program", "dense", "delta"]

_MEASURES = {
    "binary": (("auc", "AUC"), ("gauc", "GAUC"), ("log_loss", "log loss"), ("calibration", "calibration")),
    "number": (("mae", "MAE"), ("xauc", "XAUC"), ("r2", "R2"), ("calibration", "calibration")),
    "class": (("accuracy", "accuracy"), ("log_loss", "log loss"), ("macro_auc", "macro AUC")),
}
_NAMED = 40
"""Features and tables that are named at most."""
_OFF = 0.1
"""A calibration that is further from 1 is told among the limits."""

_LOADING: dict[Form, str] = {
    "safetensors": """Files are sharded; `model.safetensors.index.json` says which file holds a tensor.

```python
import json
from safetensors import safe_open

index = json.load(open("model.safetensors.index.json"))["weight_map"]
name = next(iter(index))
with safe_open(index[name], framework="numpy") as file:
    values = file.get_tensor(name)
```

`tables.NAME.weight` are tables of embeddings, a row per id; `schema.toml` and `vocabularies/` tell which id has which row. All
other tensors are the dense part. `home_dist.load` takes the run's own folder, or an export with `--format program`.
""",
    "program": """```python
import home_dist
import pyarrow.parquet as pq

model = home_dist.load(".")
predictions = model.predict(pq.read_table("rows.parquet"))
```

`home-dist score . rows.parquet --out scores` does it for files of any size. Without home_dist,
`torch.export.load("program.pt2")` takes the inputs that `program.json` describes.
""",
    "dense": """`torch.export.load("dense.pt2")` takes looked-up rows in place of ids, as `dense.json` describes: it holds no
tables.
""",
    "delta": """Rows of tables that changed since another checkpoint (`tables.NAME.rows`, `tables.NAME.values`), and dense
tensors that changed: to be put into an export of that checkpoint. `model.safetensors.index.json` says which file holds a
tensor.
""",
}


def write_card(source: Source, folder: Path, form: Form) -> None:
    write_whole(folder / CARD, card(source, form))


def card(source: Source, form: Form) -> str:
    run = source.checkpoint.parent.parent
    of_run = RunRecord.open(run)
    here = of_run.evaluation.get("step") == source.record.state.step  # else it was measured at another checkpoint
    record = of_run if here else None
    name = run.absolute().name
    parts = [
        _header(source, record, name),
        f"# {name}",
        f"A ranking model of kind `{source.config.model.kind}` for {len(source.schema.task)} tasks, trained with home_dist for "
        f"{source.record.state.step:,} steps.",
        "## What it predicts",
        _table(("task", "group", "kind", "prediction"), list(_tasks(source))),
        "## Data",
        "\n".join(_data(source)),
        "## Figures",
        _figures(source, record),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(source, record)),
        "## How to load it",
        _LOADING[form].strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _header(source: Source, record: RunRecord | None, name: str) -> str:
    """JSON texts are YAML, too."""
    tags = ["home_dist", "ranking", "recommendation", "multi-task-learning", source.config.model.kind.replace(":", "-")]
    lines = ["# license: the Hub asks for one; choose it", "library_name: home_dist", f"tags: {json.dumps(tags)}"]
    if record is not None:
        measures = dict.fromkeys(measure for _, _, measure, _, _ in _labelled(record))
        lines.append(f"metrics: {json.dumps(list(measures))}")
        lines.append(f"model-index: {json.dumps(_index(source, record, name), ensure_ascii=False)}")
    return "\n".join(["---", *lines, "---"])


def _index(source: Source, record: RunRecord, name: str) -> list[dict[str, Any]]:
    data = Path(_shown(source)).name or "data"
    results = []
    for split in record.splits:
        for task in record.tasks:
            metrics = [
                {"type": measure, "name": label, "value": value}
                for of_split, of_task, measure, label, value in _labelled(record)
                if (of_split, of_task) == (split, task)
            ]
            if metrics:
                dataset = {"name": data, "type": data, "split": split}
                results.append({"task": {"type": "ranking", "name": task}, "dataset": dataset, "metrics": metrics})
    return [{"name": name, "results": results}]


def _labelled(record: RunRecord) -> Iterator[tuple[str, str, str, str, float]]:
    """(split, task, measure, label, value) of all that are defined."""
    for split in record.splits:
        for task in record.tasks:
            for measure, label in _MEASURES[record.family(split, task)]:
                value = record.metric(split, task, measure)
                if not math.isnan(value):
                    yield split, task, measure, label, value


def _tasks(source: Source) -> Iterator[list[str]]:
    for task in source.schema.task:
        kind = source.config.objective_of(task.name, task.kind).kind
        what = {"binary": "probability", "multiclass": f"a probability for each of {task.classes} classes"}.get(kind)
        means = f": {task.means}" if task.means else ""
        yield [f"`{task.name}`", task.group, kind, (what or f"a number{f' in {task.unit}' if task.unit else ''}") + means]


def _data(source: Source) -> Iterator[str]:
    state = source.record.state
    yield f"- {state.samples:,} samples in training, of `{_shown(source)}`"
    for split, entry in _report(source).get("splits", {}).items():
        first, last = entry["days"]
        span = "" if first == ALL_ROWS else f", {first} to {last}"
        users = f", of {entry['users']:,} users" if entry["users"] else ""
        yield f"- {split}: {entry['rows']:,} rows{span}{users}"
    named = [f"`{f.name}`" for f in source.schema.feature]
    names = ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
    histories = ", ".join(f"`{s.name}`" for s in source.schema.sequence)
    yield f"- {len(source.schema.feature)} features: {names}"
    if histories:
        yield f"- histories: {histories}"
    sharded = [t for t in source.layout.tables if not t.replicated]
    shapes = ", ".join(f"`{t.name}` {t.rows:,} x {t.dim}" for t in sharded[:_NAMED])
    yield f"- {len(source.places)} tables of embeddings; those of ids, rows x width: {shapes or 'none'}"


def _report(source: Source) -> dict[str, Any]:
    """Of the data's preparation; empty where the folder is not on this machine or was not made by home_dist."""
    try:
        tree = read_json(Path(source.config.data.path) / "report.json", "")
        return tree if all({"days", "rows", "users"} <= set(s) for s in tree.get("splits", {}).values()) else {}
    except (UserError, AttributeError, TypeError):
        return {}


def _shown(source: Source) -> str:
    return without_secrets(source.config.data.path)


def _figures(source: Source, record: RunRecord | None) -> str:
    if record is None:
        return (
            "This checkpoint has not been evaluated on its own: the run's `evaluation.json` is of another step, or missing. "
            "`home-dist evaluate` measures it."
        )
    parts = []
    for split in record.splits:
        drawn = record.bootstraps(split)
        for family, measures in _MEASURES.items():
            tasks = [t for t in record.tasks if record.family(split, t) == family]
            if not tasks:
                continue
            rows = []
            for task in tasks:
                row = [f"`{task}`", f"{record.metric(split, task, 'samples'):,.0f}"]
                if family == "binary":
                    row.append(f"{record.metric(split, task, 'positives'):,.0f}")
                for measure, _ in measures:
                    row.append(_number(record.metric(split, task, measure)))
                    interval = drawn[measure].interval(task) if measure in drawn else None
                    if interval is not None and not math.isnan(interval.low):
                        row[-1] += f" ({_number(interval.low)} to {_number(interval.high)})"
                rows.append(row)
            counts = ("samples", "positives") if family == "binary" else ("samples",)
            parts.append(f"{split}:\n\n" + _table(("task", *counts, *(label for _, label in measures)), rows))
    if any(record.bootstraps(split) for split in record.splits):
        parts.append(f"In brackets: 95 % intervals over draws of {record.drawn}.")
    parts.append("Calibration is the sum of predictions over the sum of labels.")
    return "\n\n".join(parts)


def _limits(source: Source, record: RunRecord | None) -> Iterator[str]:
    config = source.config
    lacking = [split for split in ("validation", "test") if not getattr(config.data, split)]
    if lacking:
        yield f"There was no {' and no '.join(lacking)} split."
    else:
        yield "Figures are of the validation and test parts as the data was split; later data may differ."
    if source.averaged:
        yield "Dense parameters are averages over training (train.ema)."
    if record is None:
        return
    split = next(iter(record.splits), None)
    off = [
        f"`{task}` {value:.2f}"
        for of_split, task, measure, _, value in _labelled(record)
        if of_split == split and measure == "calibration" and abs(value - 1) > _OFF
    ]
    if off:
        yield f"On {split} predictions do not add up to the labels (calibration): {', '.join(off)}."
    rare = [t for t in record.tasks if 0 < record.metric(split or "", t, "positives") < 100]
    if rare:
        yield f"Fewer than 100 positives on {split}, so that figures say little: {', '.join(f'`{t}`' for t in rare)}."
    for counted in from_json(record.evaluation.get("known_ids", {}).get(split, {})):
        if counted.ids and counted.share < 1:
            yield (
                f"{counted.share:.1%} of {counted.ids:,} ids of `{counted.feature}` on {split} had a row of their own; the "
                "others look alike to the model."
            )
    for finding in record.findings():
        if finding.sign.rule != "cold ids":
            yield f"Finding in training: {finding.sign.rule} at {finding.sign.where}: {finding.sign.what}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
