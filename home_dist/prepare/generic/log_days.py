"""Which days a log holds, by its column of times alone."""

import tempfile
from pathlib import Path

import numpy as np

from home_dist.prepare.formats.converting import CONVERTED, convert
from home_dist.prepare.generic import columns
from home_dist.prepare.generic.going_on import new_files
from home_dist.prepare.generic.log_files import TYPES, Beside, chunks_of, look, named_in, read_chunk
from home_dist.prepare.generic.log_inputs import FoundFiles
from home_dist.prepare.generic.log_spec import load_spec
from home_dist.prepare.generic.state import Base

_ROWS = 1 << 20  # whose times are in memory at a time


def log_days(description: Path, base: Base | None = None) -> dict[int, int]:
    """Rows by day, in days since 1970, in order. base: leaves out what it has read. Raises ConfigError or DataError."""
    spec = load_spec(description)
    sources = FoundFiles.of(spec, description.parent)
    if base is not None:
        named = [named_in(str(p), description.parent) for p in sources.log]
        sources = sources.only(new_files(sources.log, named, base))
    rows: dict[int, int] = {}
    declared = {name: TYPES[kind] for name, kind in spec.types.items()}
    for path, values in zip(sources.log, sources.beside.values, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            source = path
            if spec.format.kind_of(str(path)) != "parquet":
                convert(path, Path(folder), declared, spec.format)
                source = Path(folder) / CONVERTED
            looked = look([source], [path], declared, beside=Beside([values], sources.beside.types))
            types = columns.Types(spec.log, looked.types)
            if not looked.files[0].rows:
                continue
            types.time(spec.moment)
            for chunk in chunks_of(looked.files, _ROWS):
                table = read_chunk(chunk, {spec.moment: types.of(spec.moment)})
                column = table.column(spec.moment).combine_chunks()
                time = columns.times(column, spec.time_unit, str(path), chunk.first, spec.moment, spec.unzoned)
                days, counts = np.unique(spec.clock.days(time), return_counts=True)
                for day, count in zip(days.tolist(), counts.tolist(), strict=True):
                    if base is None or day >= base.record.end_day:
                        rows[day] = rows.get(day, 0) + count
    return dict(sorted(rows.items()))
