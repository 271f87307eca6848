"""Reads the published files: their columns, and values stripped of surrounding spaces."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from home_dist.errors import DataError

NUMERIC = ("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "num_emp", "weeks_worked")
WEIGHT = "instance_weight"  # weight of the row in the population; not a feature
COLUMNS = (
    "age",
    "class_worker",
    "det_ind_code",
    "det_occ_code",
    "education",
    "wage_per_hour",
    "hs_college",
    "marital_stat",
    "major_ind_code",
    "major_occ_code",
    "race",
    "hisp_origin",
    "sex",
    "union_member",
    "unemp_reason",
    "full_or_part_emp",
    "capital_gains",
    "capital_losses",
    "dividends",
    "tax_filer_stat",
    "region_prev_res",
    "state_prev_res",
    "det_hh_fam_stat",
    "det_hh_summ",
    WEIGHT,
    "mig_chg_msa",
    "mig_chg_reg",
    "mig_move_reg",
    "mig_same",
    "mig_prev_sunbelt",
    "num_emp",
    "fam_under_18",
    "country_father",
    "country_mother",
    "country_self",
    "citizenship",
    "own_or_self",
    "vet_question",
    "vet_benefits",
    "weeks_worked",
    "year",
    "income_50k",
)
NOMINAL = tuple(c for c in COLUMNS if c not in (*NUMERIC, WEIGHT))
"""Includes the class."""


def read_test(folder: Path) -> pa.Table:
    """census-income.test, whole: nominal columns as texts, numeric ones as float64."""
    return _read(_find(folder, "census-income.test"), list(COLUMNS), list(COLUMNS))


def read_train_nominal(folder: Path) -> pa.Table:
    """The training rows, nominal columns only."""
    return _read(_find(folder, "census-income.train.nominal.csv"), None, list(NOMINAL))


def _find(folder: Path, name: str) -> Path:
    files = [p for p in (folder / f"{name}{suffix}" for suffix in ("", ".gz", ".xz")) if p.is_file()]
    if not files:
        raise DataError(f"{folder / name}: no such file, nor with .gz or .xz behind its name. Give the folder that holds it.")
    return files[0]


def _read(path: Path, names: list[str] | None, wanted: list[str]) -> pa.Table:
    types = {c: pa.string() for c in wanted} if names is None else {c: pa.string() for c in names}
    try:
        with _opened(path) as source:
            table = pacsv.read_csv(
                source,
                pacsv.ReadOptions(column_names=names),
                convert_options=pacsv.ConvertOptions(column_types=types, include_columns=wanted),
            )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}). It may be truncated, or of another layout.") from None
    columns = {}
    for name in table.column_names:
        texts = pc.utf8_trim_whitespace(table.column(name).combine_chunks())
        try:
            columns[name] = texts.cast(pa.float64()) if name in NUMERIC else texts
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: column {name!r} must hold numbers ({str(error).splitlines()[0]}).") from None
    return pa.table(columns)


def _opened(path: Path) -> pa.NativeFile:
    """Opens a file, decompressed: Arrow decompresses gzip, but not xz."""
    if path.suffix != ".xz":
        return pa.input_stream(str(path))
    import lzma

    with lzma.open(path) as file:
        try:
            return pa.BufferReader(file.read())
        except lzma.LZMAError as error:
            raise OSError(str(error)) from None
