"""`home-dist export --format dense`: the program without tables, which a server compiles once and gives each version's tensors.

Folder: dense.pt2, on request dense.aot.pt2 (compiled by AOTInductor for this machine's kind of processor), dense.json (inputs,
predictions, names of the parameters) and report.json (parity with the trainer). docs/export.md tells how to run it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from home_dist.distributed.ranks import Ranks
from home_dist.export.dense_inputs import described
from home_dist.export.dense_scorer import DenseScorer
from home_dist.export.loaded import model_of
from home_dist.export.model_card import write_card
from home_dist.export.numbers import Inputs, within
from home_dist.export.program import Parity, Program, before_sigmoids, parity, predictions_of, report_of
from home_dist.export.program_inputs import Input, id_name, inputs_of, singles, unpacked
from home_dist.export.source import Source, written_whole
from home_dist.export.tracing import Scoring, compile_program, exported
from home_dist.files.json_files import json_text
from home_dist.schema import IdInput

DENSE, COMPILED_DENSE, ABOUT_DENSE = "dense.pt2", "dense.aot.pt2", "dense.json"


def export_dense(source: Source, out: Path, compiled: bool, ranks: Ranks) -> list[Parity]:
    """ranks: a single rank, on which the trainer scores the test split. Returns the report, empty without a test split.

    Raises ConfigError for networks that torch.export cannot take, or if something is at `out`.
    """
    scorer = DenseScorer(source)
    program = exported(scorer, scorer.inputs)
    parities: list[Parity] = []

    def write(folder: Path) -> None:
        torch.export.save(program, folder / DENSE)
        if compiled:
            compile_program(program, folder / COMPILED_DENSE)
        about = {
            **source.metadata(),
            "predictions": predictions_of(source.schema.task, scorer.head.objectives),
            "order": list(scorer.inputs),
            "inputs": {n: described(i, source.schema) for n, i in scorer.inputs.items()},
            "parameters": parameters_of(program),
        }
        (folder / ABOUT_DENSE).write_text(json_text(about) + "\n")
        write_card(source, folder, "dense")
        if source.config.data.test:
            parities.extend(parity(source, with_tables(source, program.module(), scorer.inputs), ranks))
            report_of(folder, "fp32", parities)

    written_whole(out, write)
    return parities


def parameters_of(program: torch.export.ExportedProgram) -> list[str]:
    """Names of the tensors that a version exchanges, as in its dense.safetensors."""
    signature = program.graph_signature
    used = {*signature.inputs_to_parameters.values(), *signature.inputs_to_buffers.values()}
    return sorted(n for n in used if n.startswith("head.") and n not in signature.non_persistent_buffers)


def with_tables(source: Source, run: Scoring, inputs: dict[str, Input]) -> Program:
    """A dense program that takes columns as other programs do: rows are looked up in the checkpoint's tables. run: exported or
    compiled; inputs: its inputs."""
    return replace(model_of(source).program, run=TablesOutside(source, run, inputs))


@dataclass(frozen=True)
class TablesOutside:
    """Looks rows up, as a server does, and runs a dense program with them."""

    source: Source
    run: Scoring
    inputs: dict[str, Input]

    @cached_property
    def tables(self) -> dict[str, torch.Tensor]:
        names = {i.item.table.name for i in singles(self.inputs).values() if i.item is not None and i.kind == "rows"}
        return {name: torch.cat(list(self._blocks(name))) for name in names}

    def _blocks(self, name: str) -> Iterator[torch.Tensor]:
        return (rows.float() for rows in self.source.rows(name))

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """inputs: of scorer.py. Returns (B, P)."""
        columns = unpacked(inputs, inputs_of(self.source.layout))
        return self.run({name: self._given(item, columns) for name, item in self.inputs.items()})

    def of_logits(self) -> "TablesOutside":
        return replace(self, run=before_sigmoids(self.run))

    def _given(self, given: Input, inputs: Inputs) -> torch.Tensor:
        if given.parts:
            return torch.stack([self._given(part, inputs) for part in given.parts], 1)
        if given.item is None or given.kind not in ("rows", "slots"):
            return inputs[given.name]
        slots = self._slots(given.item, inputs)
        return slots if given.kind == "slots" else self.tables[given.item.table.name].index_select(0, slots)

    def _slots(self, item: IdInput, inputs: Inputs) -> torch.Tensor:
        statistic = self.source.layout.statistics.get(item.key)
        if statistic is None:
            return within(inputs[id_name(item)], item.table.rows)
        values = inputs[f"number.{item.column}"].contiguous()
        reached = torch.bucketize(values, torch.tensor(statistic.boundaries, dtype=torch.float64), right=True)
        return torch.where(values.isnan(), 0, reached + 1)
