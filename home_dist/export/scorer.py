"""The scoring model: raw columns in, per-task predictions out, on one device and without TorchRec's collections.

Inputs are columns of the Parquet files, with their values unchanged:

    "ids"                 (B, n) int64     the id features of small tables with one id per sample, side by side: "ids.COLUMN"
    "ids.COLUMN"          (B,) int64       an id feature of a larger table with one id per sample
    "numbers"             (B, n) float64   statistics and dense numbers: "number.COLUMN"; NaN where a statistic is null
    "vector.COLUMN"       (B, width) float64
    "list.COLUMN"         (N,) int64       values of all lists of a column, one list after another
    "weights.COLUMN"      (N,) float32     weights of a weighted list's values
    "lengths.GROUP"       (B,) int64       lengths of the lists of a feature, or of all fields of a history
    "pretrained.FEATURE"  (B, width + 1) float32    its vector, and 1 where it is missing
    "duration.COLUMN"     (B,) float32     the item's duration, for tasks that are learned by it

Columns of raw ids, whose table has a vocabulary, a hash or managed ids, are "ids.TABLE/COLUMN" and "list.TABLE/COLUMN". The
program takes their rows, since texts are no tensors; columns.py maps ids to rows. Ids outside of a table, such as those that
`keep_rows` cuts off, read row 0.
"""

from typing import Literal

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from home_dist.export.numbers import Inputs, SmallRows, within
from home_dist.export.program_inputs import id_name, inputs_of
from home_dist.export.scoring_head import ScoringHead, Weights
from home_dist.schema import IdInput

Embeddings = Literal["fp32", "fp16", "int8"]


class StoredTable(nn.Module):
    """Rows of a table. int8: a row is value * scale + lowest, with both in fp32 per row, as in FBGEMM and Caffe2."""

    values: torch.Tensor
    scale: torch.Tensor
    lowest: torch.Tensor

    def __init__(self, source: Weights, table: str, kind: Embeddings):
        super().__init__()
        rows, dim = source.table_shape(table)
        self.rows, self.kind = rows, kind
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[kind]
        values = torch.empty(rows, dim, dtype=dtype)
        scale, lowest = torch.empty(rows, 1), torch.empty(rows, 1)
        first = 0
        for block in source.rows(table):
            part = slice(first, first + len(block))
            if kind == "int8":
                low = block.amin(1, keepdim=True)
                step = ((block.amax(1, keepdim=True) - low) / 255).clamp(min=1e-30)
                lowest[part], scale[part] = low, step
                values[part] = ((block - low) / step).round().clamp(0, 255).to(torch.uint8)
            else:
                values[part] = block.to(dtype)
            first += len(block)
        self.register_buffer("values", values)
        if kind == "int8":
            self.register_buffer("scale", scale)
            self.register_buffer("lowest", lowest)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (n,) -> (n, dim) float32."""
        looked_up = nn.functional.embedding(ids, self.values).float()
        if self.kind == "int8":
            looked_up = looked_up * self.scale.index_select(0, ids) + self.lowest.index_select(0, ids)
        return looked_up


class Scorer(ScoringHead):
    def __init__(self, source: Weights, embeddings: Embeddings = "fp32"):
        """Raises ConfigError for tensors that do not fit their configuration."""
        super().__init__(source)
        self.tables = nn.ModuleDict(
            {t.name: StoredTable(source, t.name, embeddings) for t in source.layout.tables if not t.replicated}
        )
        self._reads(inputs_of(source.layout))
        self.small = SmallRows(source.layout, self.inputs)

    def _samples(self, inputs: Inputs) -> int:
        # Every network has an input with one value per sample: a column, or the lengths of a column of lists.
        name = next(n for n in inputs if not n.startswith(("list.", "weights.")))
        return inputs[name].shape[0]

    def _small(self, inputs: Inputs, samples: int) -> torch.Tensor:
        return self.small(inputs, samples)

    def _ids(self, item: IdInput, inputs: Inputs) -> JaggedTensor:
        ids = within(inputs[id_name(item)], item.table.rows)
        return JaggedTensor(values=ids, lengths=self._lengths(item, inputs) if item.is_list else torch.ones_like(ids))

    def _looked_up(self, item: IdInput, ids: JaggedTensor, inputs: Inputs) -> JaggedTensor:
        return JaggedTensor(values=self.tables[item.table.name](ids.values()), lengths=ids.lengths())
