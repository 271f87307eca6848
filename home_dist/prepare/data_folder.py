"""A data set while it is being prepared: columns, tables and features are added one by one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from home_dist.prepare.asof import Ints
from home_dist.prepare.boundaries import Buckets, fit_statistic, rounded
from home_dist.prepare.write import list_array
from home_dist.prepare.written_vocabulary import Keys, PublishedVocabulary, fit_vocabulary
from home_dist.schema import IdFeature, StatisticFeature, TableSpec


@dataclass
class Prepared:
    """Columns and their schema so far; arrays are (N,), one entry per impression."""

    columns: dict[str, pa.Array] = field(default_factory=dict)
    tables: dict[str, TableSpec] = field(default_factory=dict)
    features: list[IdFeature] = field(default_factory=list)
    vocabularies: dict[str, PublishedVocabulary] = field(default_factory=dict)

    def add_id(self, name: str, keys: Keys, training: NDArray[np.bool_], min_count: int, extra: Keys | None = None) -> None:
        """A feature of one id per impression, with a vocabulary fitted on the training part and `extra`."""
        vocabulary = fit_vocabulary(keys[training], min_count, extra)
        self._declare(name, vocabulary.rows)
        self.vocabularies[name] = vocabulary
        self.columns[name] = pa.array(vocabulary.encode(keys))
        self.features.append(IdFeature(name=name, column=name, table=name))

    def add_number(self, name: str, values: Ints, rows: int) -> None:
        """A feature of one id per impression whose values are the table's rows themselves."""
        self._declare(name, rows)
        self.columns[name] = pa.array(values, pa.int32())
        self.features.append(IdFeature(name=name, column=name, table=name))

    def add_list(self, name: str, table: str, keys: Keys, offsets: Ints, training: NDArray[np.bool_], min_count: int) -> None:
        """A feature of several ids per impression, mean-pooled; keys: (n,), offsets: (N + 1,)."""
        vocabulary = fit_vocabulary(keys[np.repeat(training, np.diff(offsets))], min_count)
        self._declare(table, vocabulary.rows)
        self.vocabularies[table] = vocabulary
        self.columns[name] = list_array(vocabulary.encode(keys), offsets)
        self.features.append(IdFeature(name=name, column=name, table=table, pooling="mean"))

    def add_statistics(
        self,
        numbers: Mapping[str, NDArray[np.float64]],
        training: NDArray[np.bool_],
        buckets: int,
        cuts: Mapping[str, Buckets | tuple[float, ...]] | None = None,
    ) -> list[StatisticFeature]:
        """Adds the columns of `numbers` that vary within the training part, and returns their features.

        numbers: (N,) each, NaN where unknown. cuts: boundaries other than quantiles, by name.
        """
        fitted = []
        for name, values in numbers.items():
            stored = rounded(values, training)
            statistic = fit_statistic(name, f"stat_{name}", stored[training], buckets, (cuts or {}).get(name))
            if statistic is not None:
                fitted.append(statistic)
                self.columns[statistic.column] = pa.array(stored, from_pandas=True)
        return fitted

    def _declare(self, name: str, rows: int) -> None:
        self.tables[name] = TableSpec(name=name, rows=rows)
