"""What the columns of a data set mean: features, histories, tables, tasks and their groups."""

from home_dist.schema.spec import (
    DenseFeature,
    EventField,
    Feature,
    IdFeature,
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
    "Feature",
    "IdFeature",
    "Schema",
    "SequenceSpec",
    "StatisticFeature",
    "TableSpec",
    "TaskSpec",
    "load_schema",
    "save_schema",
]
