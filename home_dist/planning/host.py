"""Work of a rank's host in a step, whatever its device: launching operators and reading rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from home_dist.config import RunConfig
from home_dist.data.ahead import MOST_DECODERS
from home_dist.planning.probe import DenseCost
from home_dist.planning.topology import Device
from home_dist.schema import InputLayout
from home_dist.schema.spec import DenseFeature, StatisticFeature

MEASURED_VALUES = 98
"""Values in a row of benchmarks/reader.py: 20 ids, 10 statistics, two histories of 30 events, 8 labels. Device.decode was
measured with such rows."""


@dataclass(frozen=True)
class HostWork:
    """The host's work for one rank and step."""

    launches: int
    """Launches of the dense block's forward and backward, without those of look-ups, exchange and optimizers."""
    launch_seconds: float
    """Seconds of one launch."""
    values: float
    """Values that the reader decodes per row."""
    threads: int
    """Number of decoding threads."""
    rows_per_second: float
    """Rows/s of all decoding threads together."""
    batch: int

    @property
    def launching(self) -> float:
        """Seconds per step."""
        return self.launches * self.launch_seconds

    @property
    def reading(self) -> float:
        """Seconds per step."""
        return self.batch / self.rows_per_second


def host_work(
    config: RunConfig, layout: InputLayout, tasks: int, lengths: Mapping[str, float], device: Device, dense: DenseCost
) -> HostWork:
    """lengths: ids per sample, by key of the input. Rows with more values than MEASURED_VALUES take proportionally longer; rows
    with fewer are not assumed to be faster."""
    values = values_per_row(layout, tasks, lengths)
    threads = config.data.threads or MOST_DECODERS
    speed = device.decode * min(1.0, MEASURED_VALUES / values)
    return HostWork(dense.launches, device.launch * 1e-6, values, threads, threads * speed, config.train.batch_size)


def values_per_row(layout: InputLayout, tasks: int, lengths: Mapping[str, float]) -> float:
    """Counts ids, weights of lists, dense values, vectors and labels. A statistic counts once, also if looked up by bucket."""
    ids = sum(lengths.get(item.key, 1.0) * (1 if item.weights is None else 2) for item in layout.inputs)
    dense = sum(feature.width for feature in layout.dense if isinstance(feature, DenseFeature))
    dense += sum(f.name not in layout.statistics for f in layout.dense if isinstance(f, StatisticFeature))
    vectors = sum(1 if item.frozen is not None else item.width for item in layout.pretrained)
    return ids + dense + vectors + tasks
