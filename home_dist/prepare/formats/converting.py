"""A file of any format as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.orc as paorc
import pyarrow.parquet as pq

from home_dist.files.remote import SourceFile
from home_dist.prepare.engine.mirror import source
from home_dist.prepare.formats.delimited import convert_delimited
from home_dist.prepare.formats.format_section import FormatSection
from home_dist.prepare.formats.json_lines import convert_json
from home_dist.prepare.formats.unreadable import unreadable_file

CONVERTED = "table.parquet"
NO_TYPES: Mapping[str, pa.DataType] = MappingProxyType({})


def convert(
    file: SourceFile, folder: Path, declared: Mapping[str, pa.DataType] = NO_TYPES, section: FormatSection | None = None
) -> None:
    """Writes folder/table.parquet. declared: types that the description gives to columns of a format without
    types. Raises DataError, ConfigError."""
    section, out = section or FormatSection(), folder / CONVERTED
    kind = section.kind_of(str(file))
    if kind == "csv":
        convert_delimited(file, out, declared, section)
    elif kind == "json":
        convert_json(file, out)
    elif kind == "orc":
        _convert_orc(file, out)
    else:
        raise ValueError(f"{file}: Parquet is read as it is")


def _convert_orc(file: SourceFile, out: Path) -> None:
    """Stripe by stripe."""
    try:
        opened = paorc.ORCFile(source(file))
        with pq.ParquetWriter(out, opened.schema, compression="zstd", compression_level=1) as writer:
            for stripe in range(opened.nstripes):
                writer.write_batch(opened.read_stripe(stripe))
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_file(file, error) from None
