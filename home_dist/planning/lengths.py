"""How many ids a sample has in each list column: given, told by the data's footers, or assumed."""

from collections.abc import Mapping
from dataclasses import dataclass

from home_dist.data.files import DataFiles, open_parquet
from home_dist.errors import ConfigError
from home_dist.schema import IdInput, InputLayout

_FILES = 8  # whose footers are read
_OF_FEATURE, _OF_HISTORY = 5.0, 50.0  # assumed where nothing is known


@dataclass(frozen=True)
class Lengths:
    by_key: Mapping[str, float]
    """By key of the input; single ids are 1."""
    assumed: tuple[str, ...]
    """Columns of which nothing was known."""

    @staticmethod
    def of(layout: InputLayout, given: Mapping[str, float], footers: Mapping[str, float]) -> "Lengths":
        """given: by feature, sequence or column; footers: by column. Raises ConfigError for a name that there is not."""
        by_key: dict[str, float] = {}
        assumed, used = [], set()

        def one(item: IdInput, names: tuple[str, ...], otherwise: float) -> None:
            name = next((n for n in names if n in given), None)
            if name is not None:
                used.add(name)
                by_key[item.key] = given[name]
            elif item.column in footers:
                by_key[item.key] = footers[item.column]
            else:
                by_key[item.key] = otherwise
                assumed.append(item.column)

        for item in layout.features:
            if item.is_list:
                one(item, (item.key, item.column), _OF_FEATURE)
            else:
                by_key[item.key] = 1.0
        for sequence in layout.sequences:
            for event in sequence.fields:
                one(event.field, (event.field.column, sequence.name), _OF_HISTORY)
        unknown = sorted(set(given) - used)
        if unknown:
            raise ConfigError(f"--mean-length {unknown[0]}: no list feature, sequence or column of lists has this name")
        return Lengths(by_key, tuple(assumed))


def of_footers(files: DataFiles) -> dict[str, float]:
    """Mean values per row of each column, of some files; an empty list counts as one value there."""
    values: dict[str, int] = {}
    rows = 0
    for path in files.paths[:: -(-len(files.paths) // _FILES)]:
        opened = open_parquet(files.store, path)
        columns = [opened.schema.column(i).path.split(".")[0] for i in range(len(opened.schema))]
        rows += opened.metadata.num_rows
        for number in range(opened.metadata.num_row_groups):
            group = opened.metadata.row_group(number)
            for index, column in enumerate(columns):
                values[column] = values.get(column, 0) + group.column(index).num_values
    return {column: count / rows for column, count in values.items()} if rows else {}
