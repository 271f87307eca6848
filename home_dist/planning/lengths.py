"""Mean number of ids per sample in each list column: given, read from the data's footers, or assumed."""

from collections.abc import Mapping
from dataclasses import dataclass

from home_dist.data.files import DataFiles, open_parquet
from home_dist.errors import ConfigError
from home_dist.schema import IdInput, InputLayout

_FILES = 8  # about how many files have their footers read
_OF_FEATURE, _OF_HISTORY = 5.0, 50.0  # assumed ids per sample, where neither given nor in footers


@dataclass(frozen=True)
class Lengths:
    by_key: Mapping[str, float]
    """Mean ids per sample, by key of the input; 1 for single ids."""
    assumed: tuple[str, ...]
    """Columns whose lengths are assumed."""

    @staticmethod
    def of(layout: InputLayout, given: Mapping[str, float], footers: Mapping[str, float]) -> "Lengths":
        """given: lengths by feature, sequence or column; footers: lengths by column. Raises ConfigError for unknown names."""
        by_key: dict[str, float] = {}
        assumed, used = [], set()

        def add(item: IdInput, names: tuple[str, ...], assumed_length: float) -> None:
            name = next((n for n in names if n in given), None)
            if name is not None:
                used.add(name)
                by_key[item.key] = given[name]
            elif item.column in footers:
                by_key[item.key] = footers[item.column]
            else:
                by_key[item.key] = assumed_length
                assumed.append(item.column)

        for item in layout.features:
            if item.is_list:
                add(item, (item.key, item.column), _OF_FEATURE)
            else:
                by_key[item.key] = 1.0
        for sequence in layout.sequences:
            for event in sequence.fields:
                add(event.field, (event.field.column, sequence.name), _OF_HISTORY)
        unknown = sorted(set(given) - used)
        if unknown:
            raise ConfigError(f"--mean-length {unknown[0]}: no list feature, sequence or column of lists has this name")
        return Lengths(by_key, tuple(assumed))


def of_footers(files: DataFiles) -> dict[str, float]:
    """Mean values per row of each column, from some files' footers. Footers count an empty list as one value."""
    values: dict[str, int] = {}
    rows = 0
    for path in files.paths[:: -(-len(files.paths) // _FILES)]:
        opened = open_parquet(files.store, path)
        columns = [opened.schema.column(i).path.split(".")[0] for i in range(len(opened.schema))]
        rows += opened.metadata.num_rows
        for number in range(opened.metadata.num_row_groups):
            row_group = opened.metadata.row_group(number)
            for index, column in enumerate(columns):
                values[column] = values.get(column, 0) + row_group.column(index).num_values
    return {column: count / rows for column, count in values.items()} if rows else {}
