"""`home-dist replay PLACE`: sends a version's golden requests again, and compares the answers with the trainer's."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from home_dist.config.publish import RowType
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.golden import ANSWER
from home_dist.publish.manifest import ADVICE, Manifest, PublishError
from home_dist.publish.reading import copies
from home_dist.publish.scoring import open_version
from home_dist.publish.writing import GOLDEN

TOLERANCE: dict[RowType, float] = {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-2}
"""How far an answer may be from the trainer's, as a share of the trainer's or, below 1, as a difference: products in another
order round otherwise, and smaller rows are rounded themselves."""


@dataclass(frozen=True)
class Replayed:
    """Of a prediction."""

    name: str
    requests: int
    largest_difference: float
    """The largest |answer - trainer's| / max(1, |trainer's|)."""


def golden_of(folder: VersionsFolder, manifest: Manifest) -> tuple[pa.Table, pa.Table]:
    """(requests, answers by name of the prediction). Raises PublishError for a version without, or a damaged file."""
    if not manifest.golden or GOLDEN not in manifest.files:
        raise PublishError(f"{folder.shown(manifest.version)}: holds no golden requests (--golden 0). Publish it with some.")
    with copies() as to:
        path = folder.fetched(manifest.version, GOLDEN, manifest.files[GOLDEN], to)
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise PublishError(f"{folder.shown(f'{manifest.version}/{GOLDEN}')}: cannot be read: {error}. {ADVICE}") from None
    names = [p["name"] for p in manifest.predictions]
    missing = [n for n in names if ANSWER + n not in table.column_names]
    if missing:
        raise PublishError(
            f"{folder.shown(f'{manifest.version}/{GOLDEN}')}: holds no answers of {', '.join(missing)}. {ADVICE}"
        )
    answers = table.select([ANSWER + n for n in names]).rename_columns(names)
    return table.drop_columns([ANSWER + n for n in names]), answers


def replay(place: str, version: str | None = None) -> tuple[Manifest, list[Replayed]]:
    """Answers a version's golden requests from its files, and compares. By default the current version. Raises PublishError,
    StoreError, ConfigError, DataError."""
    model = open_version(place, version)
    manifest = model.manifest
    requests, expected = golden_of(VersionsFolder(place), manifest)
    return manifest, compared(model.predict(requests), expected)


def compared(answers: pa.Table, expected: pa.Table) -> list[Replayed]:
    found = []
    for name in expected.column_names:
        one, other = (np.asarray(t[name], dtype=np.float64) for t in (answers, expected))
        apart = np.abs(one - other) / np.maximum(1, np.abs(other))
        found.append(Replayed(name, len(one), float(np.where(np.isnan(apart), np.inf, apart).max(initial=0))))
    return found
