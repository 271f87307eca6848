"""The meaning of a data set's columns: features, histories, tables, tasks and their groups."""

from home_dist.schema.label_values import LabelValues
from home_dist.schema.layout import EventInput, IdInput, InputLayout, PretrainedInput, SequenceInput, Table, build_layout
from home_dist.schema.spec import (
    DenseFeature,
    EventField,
    Feature,
    IdFeature,
    Pooling,
    PretrainedFeature,
    Schema,
    SequenceSpec,
    StatisticFeature,
    TableSpec,
    TaskSpec,
    load_schema,
    save_schema,
)

__all__ = [
    "DenseFeature",
    "EventField",
    "EventInput",
    "Feature",
    "IdFeature",
    "IdInput",
    "InputLayout",
    "LabelValues",
    "Pooling",
    "PretrainedFeature",
    "PretrainedInput",
    "Schema",
    "SequenceInput",
    "SequenceSpec",
    "StatisticFeature",
    "Table",
    "TableSpec",
    "TaskSpec",
    "build_layout",
    "load_schema",
    "save_schema",
]
