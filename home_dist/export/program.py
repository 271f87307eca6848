"""`home-dist export --format program`: the scoring model as a torch.export program, compared with the trainer.

Folder: program.pt2, on request program.aot.pt2 (compiled by AOTInductor for this machine's kind of processor), program.json
(inputs and outputs), report.json (parity), and the files that map ids to rows (schema, vocabularies, managed ids).
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from home_dist.config import load_config
from home_dist.data.files import needed_inputs
from home_dist.data.inputs import open_inputs
from home_dist.data.matching_rows import RunSide
from home_dist.data.other_data import read_as
from home_dist.data.side_files import schema_around, with_data, with_local_schema
from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError, DataError, UserError
from home_dist.evaluation.measure import measured
from home_dist.evaluation.scores import Families, Scored, scored
from home_dist.export.calibration import Calibrated, Calibration, Method, fit_calibration
from home_dist.export.columns import parquet_files, read_batches
from home_dist.export.managed_rows import read_managed, with_managed_rows
from home_dist.export.model_card import write_card
from home_dist.export.numbers import Inputs
from home_dist.export.program_inputs import Input, inputs_of
from home_dist.export.scorer import Embeddings, Scorer
from home_dist.export.source import Source, written_whole
from home_dist.export.tracing import Scoring, compile_program, exported
from home_dist.export.weights import write_meaning
from home_dist.files.json_files import json_text
from home_dist.files.listing import Found
from home_dist.files.places import join, with_parents, without_secrets
from home_dist.files.stores import Store
from home_dist.objectives import Objectives
from home_dist.schema import InputLayout, TaskSpec, build_layout, load_schema
from home_dist.training.build import build
from home_dist.training.checkpoint.loading import load
from home_dist.training.run_folder import RunFolder

PROGRAM, COMPILED, ABOUT, REPORT = "program.pt2", "program.aot.pt2", "program.json", "report.json"


@dataclass(frozen=True)
class Parity:
    """The program against the trainer, for one task on the test split."""

    task: str
    largest_difference: float
    """Largest absolute difference of probabilities, or of predictions in the label's unit."""
    trainer_auc: float
    """NaN for tasks that are not binary."""
    program_auc: float

    @property
    def auc_loss(self) -> float:
        return self.trainer_auc - self.program_auc


def export_program(
    source: Source,
    out: Path,
    embeddings: Embeddings,
    compiled: bool,
    ranks: Ranks,
    calibrate: Method | None = None,
    say: Callable[[str], None] = print,
) -> list[Parity]:
    """ranks: a single rank, on which the trainer scores the test split. calibrate: adds a calibration that is fitted on the
    validation split; the report is of the program without it. Returns the report, empty without a test split.

    Raises ConfigError for networks that torch.export cannot take.
    """
    calibration = None if calibrate is None else _fitted(source, calibrate, ranks, say)
    scorer, inputs = Scorer(source, embeddings), inputs_of(source.layout)
    plain = exported(scorer, inputs)
    program = plain if calibration is None else exported(Calibrated(scorer, calibration), inputs)
    parities: list[Parity] = []

    def write(folder: Path) -> None:
        torch.export.save(program, folder / PROGRAM)
        if compiled:
            compile_program(program, folder / COMPILED)
        about = {
            **source.metadata(),
            "embeddings": embeddings,
            "tasks": scorer.tasks,
            "predictions": predictions_of(source.schema.task, scorer.head.objectives),
            "inputs": {n: _told(i) for n, i in inputs.items()},
        }
        if calibration is not None:
            about["calibration"] = calibration.to_json(scorer.names)
        (folder / ABOUT).write_text(json_text(about) + "\n")
        write_meaning(source, folder)
        write_card(source, folder, "program")
        if source.config.data.test:
            parities.extend(parity(source, replace(open_program(folder), run=plain.module()), ranks))
            report_of(folder, embeddings, parities)

    written_whole(out, write)
    return parities


def report_of(folder: Path, embeddings: Embeddings, parities: Sequence[Parity]) -> None:
    """Writes report.json."""
    report = {
        "split": "test",
        "embeddings": embeddings,
        "largest_difference": max(p.largest_difference for p in parities),
        "largest_auc_loss": float(np.nanmax([p.auc_loss for p in parities] or [np.nan])),
        "tasks": [asdict(p) | {"auc_loss": p.auc_loss} for p in parities],
        "bytes": {p.name: p.stat().st_size for p in sorted(folder.glob("*.pt2"))},
    }
    (folder / REPORT).write_text(json_text(report) + "\n")


def predictions_of(specs: Sequence[TaskSpec], objectives: Objectives) -> list[dict[str, Any]]:
    """Description of each column of the program's result."""
    counts = objectives.predictions
    tasks = [t for t, count in zip(specs, counts, strict=True) for _ in range(count)]
    kinds = [k for k, count in zip(objectives.kinds, counts, strict=True) for _ in range(count)]
    units = [t.unit if k not in ("binary", "multiclass") else "probability" for t, k in zip(tasks, kinds, strict=True)]
    return [
        {"name": name, "task": task.name, "kind": kind, "unit": unit}
        for name, task, kind, unit in zip(objectives.names, tasks, kinds, units, strict=True)
    ]


def _told(item: Input) -> dict[str, Any]:
    """Description of an input, for callers that run a program without home_dist."""
    if item.parts:
        columns = [{"name": part.name, "column": part.column, **_held(part)} for part in item.parts]
        return {"dtype": str(item.dtype).removeprefix("torch."), "first_dimension": "samples", "columns": columns}
    description: dict[str, Any] = {"dtype": str(item.dtype).removeprefix("torch."), "first_dimension": item.group or "samples"}
    if item.kind == "lengths":
        description["first_dimension"] = "samples"
    held = _held(item)
    return description | ({"column": item.column, **held} if held else {})


def _held(item: Input) -> dict[str, Any]:
    if item.item is not None and item.item.rows_of is not None and item.kind != "weights":
        return {"holds": f"rows of table {item.item.table.name}, by its values in schema.toml"}
    if item.pretrained is not None:
        return {"width": item.width, "holds": "the vector, and 1 where it is missing, with zeros"}
    return {}


@dataclass(frozen=True)
class Program:
    run: Scoring
    layout: InputLayout
    """With the functions that map keys to rows."""
    names: list[str]
    """(P,) of the predictions."""
    about: dict[str, Any]
    trained: RunSide
    """The schema and vocabularies in its folder."""

    def reading(self, place: str, schema: str | None = None) -> "Program":
        """The program for files that may be prepared otherwise: rows are mapped by key. place: of the files; schema: their
        schema.toml, by default the nearest one in a folder around them. Raises DataError, which names what means something
        else, and for files whose schema is not known."""
        by_row = [i.column for i in self.layout.inputs if i.rows_of is None and i.key not in self.layout.statistics]
        schema = schema or schema_around(place)
        if schema is None:
            if not by_row and not self.layout.statistics:
                return self
            raise DataError(
                f"{without_secrets(place)}: no schema.toml is in its folder or around it, so that nothing tells whether its "
                f"numbers are the model's ({', '.join([*by_row, *self.layout.statistics][:5])}, ...). Put the schema.toml of "
                f"the prepared data beside it, or name it with --schema; score a raw log with --log."
            )
        config = with_data(self.trained.config, with_parents(schema)[1])
        config = config.model_copy(update={"data": config.data.model_copy(update={"data_schema": schema})})
        there = RunSide(config, load_schema(with_local_schema(config).schema_path()), {})
        return replace(self, layout=read_as(self.layout, self.trained, there, without_secrets(place)))

    def scores(self, store: Store, files: list[Found], rows: int) -> Iterator[tuple[Any, np.ndarray[Any, Any]]]:
        """(table of all columns, predictions (n, P)) per batch, in the order of the files."""
        for file in files:
            for table, inputs in read_batches(store, file, self.layout, rows):
                yield table, self.of_inputs(inputs)

    def of_inputs(self, inputs: Inputs) -> np.ndarray[Any, Any]:
        """Predictions (n, P) of n rows."""
        with torch.no_grad():
            return self.run({name: inputs[name] for name in inputs_of(self.layout)}).numpy()

    @property
    def columns(self) -> list[str]:
        """Columns of the files that it reads."""
        return list(needed_inputs(self.layout))

    def of_logits(self) -> "Program":
        """The program without the sigmoid of its binary tasks: in fp32 its results no longer order logits above 17. Other
        predictions stay."""
        return replace(self, run=self.run.of_logits() if isinstance(self.run, Cuttable) else before_sigmoids(self.run))


@runtime_checkable
class Cuttable(Protocol):
    """A way to run a program that is cut before its sigmoids itself."""

    def of_logits(self) -> Scoring: ...


def before_sigmoids(run: Scoring) -> Scoring:
    """A copy of a program that is not compiled, without the sigmoid of binary tasks."""
    cut = deepcopy(run)
    if not isinstance(cut, torch.fx.GraphModule):
        raise ValueError("only a program that is not compiled can be cut before its sigmoid")
    [output] = (node for node in cut.graph.nodes if node.op == "output")
    for sigmoid, user in _last_sigmoids(output):
        [logits] = sigmoid.all_input_nodes
        user.replace_input_with(sigmoid, logits)
    cut.recompile()
    return cut


_MOVES_VALUES = ("alias", "cat", "index_select", "view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "slice")


def _last_sigmoids(output: torch.fx.Node) -> list[tuple[torch.fx.Node, torch.fx.Node]]:
    """(sigmoid, its user) where only operators that move values stand between a sigmoid and the program's result: those of
    binary tasks. Other kinds compute with theirs."""
    found, users = [], [output]
    while users:
        user = users.pop()
        for node in user.all_input_nodes:
            name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
            if node.target is torch.ops.aten.sigmoid.default:
                found.append((node, user))
            elif name in _MOVES_VALUES:
                users.append(node)
    return found


def open_program(folder: Path, compiled: bool = False) -> Program:
    """Loads a folder's program. Raises UserError if there is none."""
    path = folder / (COMPILED if compiled else PROGRAM)
    if not (folder / ABOUT).is_file() or not path.is_file():
        wanted = "--compiled" if compiled else "--format program"
        raise UserError(f"{path}: no program is there. Write one with home-dist export RUN {wanted}.")
    about = json.loads((folder / ABOUT).read_text())
    # Its warnings about data-dependent sizes need no attention.
    logging.getLogger("torch._export.serde.serialize").setLevel(logging.ERROR)
    run = torch._inductor.aoti_load_package(str(path)) if compiled else torch.export.load(path).module()
    places = [f"data.path={folder}", f"data.schema={folder / 'schema.toml'}"]
    config = load_config(folder / "config.toml", places, code=False)
    trained = RunSide(config, load_schema(config.schema_path()), {})
    told = about.get("predictions")  # of versions that knew only yes or no: one per task
    names = about["tasks"] if told is None else [p["name"] for p in told]
    layout = with_durations(_layout(folder, trained), trained.schema.task, about["inputs"])
    unlike = sorted(set(inputs_of(layout)) ^ set(about["inputs"]))
    if unlike:
        raise ConfigError(f"{folder}: config.toml and program.json differ in the inputs {', '.join(unlike)}. Export it again.")
    return Program(run, layout, names, about, trained)


def with_durations(layout: InputLayout, tasks: Sequence[TaskSpec], inputs: Collection[str]) -> InputLayout:
    """The layout with the durations that a program takes. Where a user's objective is not imported, its task's kind in the
    schema does not tell whether it reads the duration. inputs: names of the program's inputs."""
    columns = [t.duration if f"duration.{t.duration}" in inputs else None for t in tasks]
    return replace(layout, labels=tuple(replace(x, duration=c) for x, c in zip(layout.labels, columns, strict=True)))


def _layout(folder: Path, trained: RunSide) -> InputLayout:
    """The layout from the folder's files, with the functions that map keys to rows."""
    layout = build_layout(trained.schema, trained.config)
    return with_managed_rows(layout, lambda name: read_managed(folder / "managed" / f"{name}.parquet"))


def parity(source: Source, program: Program, ranks: Ranks, rows: int = 1000) -> list[Parity]:
    """Compares program and trainer on the run's test split, which both read in the order of the files."""
    trainer = _of_trainer(source, "test", ranks)
    families = trainer.families
    place = join(source.config.data.path, source.config.data.test)
    store, files = parquet_files(place)
    of_program = program.reading(place, source.given.data.schema_place).of_logits().scores(store, files, rows)
    exported = replace(trainer, scores=_as_scores(np.concatenate([values for _, values in of_program]), families))
    if exported.scores.shape != trainer.scores.shape:
        raise UserError(f"the program scored {exported.scores.shape}, the trainer {trainer.scores.shape} rows and predictions")
    differences = np.abs(exported.predictions - trainer.predictions).max(0)
    names = [t.name for t in source.schema.task]
    areas = [{m.task: m.auc for m in measured(s, names)} for s in (trainer, exported)]
    largest = [float(differences[families.columns(k)].max()) for k in range(len(names))]
    return [Parity(n, d, areas[0][n], areas[1][n]) for n, d in zip(names, largest, strict=True)]


def _of_trainer(source: Source, split: str, ranks: Ranks) -> Scored:
    """The trainer's scores of a split of the run's data."""
    recorded = RunFolder(source.checkpoint.parent.parent).recorded_vocabularies()
    inputs = open_inputs(source.given, source.schema, (split,), recorded, trains=False)
    built = build(inputs, ranks, loaded=True)
    load(source.checkpoint, built.model, None)
    with built.averaged(source.averaged):
        return scored(built.model, inputs.evaluation_reader(split, ranks), ranks, Families.of(built.objectives))


def _fitted(source: Source, method: Method, ranks: Ranks, say: Callable[[str], None]) -> Calibration:
    if not source.config.data.validation:
        raise ConfigError(
            "--calibrate: the run has no validation split (data.validation), and rows that it was trained on or is tested on "
            "must not calibrate it. Leave it out, or train with a validation split."
        )
    calibration, notes = fit_calibration(_of_trainer(source, "validation", ranks), [t.name for t in source.schema.task], method)
    for note in notes:
        say(f"note: {note}")
    return calibration


def _as_scores(values: np.ndarray, families: Families) -> np.ndarray:
    """What a program without its last sigmoid computes -> what metrics read: classes' probabilities become logits."""
    scores = values.astype(np.float64)
    for k in families.tasks("class"):
        with np.errstate(divide="ignore"):
            scores[:, families.columns(k)] = np.log(scores[:, families.columns(k)]).clip(min=-745)
    return scores
