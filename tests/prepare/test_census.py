"""Census-Income against counts by hand: on files made here in the published layout and, where they are, on the published ones.

HOME_DIST_CENSUS names the folder of the published files.
"""

import csv
import gzip
import json
import lzma
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from home_dist.errors import ConfigError, DataError
from home_dist.prepare.census import LEVELS, CensusOptions, prepare_census
from home_dist.schema import load_schema
from tests.ranks import run

# Of the published test file: 7 numbers, the weight, the other columns and the class.
NUMBERS, WEIGHT, EDUCATION, MARITAL, CLASS = (0, 5, 16, 17, 18, 30, 39), 24, 4, 7, 41
# Of the published training rows.
HEADER = (
    "class_worker,det_ind_code,det_occ_code,education,hs_college,marital_stat,major_ind_code,major_occ_code,race,hisp_origin,sex,"
    "union_member,unemp_reason,full_or_part_emp,tax_filer_stat,region_prev_res,state_prev_res,det_hh_fam_stat,det_hh_summ,"
    "mig_chg_msa,mig_chg_reg,mig_move_reg,mig_same,mig_prev_sunbelt,fam_under_18,country_father,country_mother,country_self,"
    "citizenship,own_or_self,vet_question,vet_benefits,year,income_50k"
)
DEGREES = ("Associates", "Bachelors", "Masters", "Prof school", "Doctorate")


def write_census(folder: Path, rows: int = 900, seed: int = 0) -> Path:
    """Income follows education and age, marriage follows age."""
    random = np.random.default_rng(seed)
    levels = ["Children", "High school graduate", "Bachelors degree(BA AB BS)", "Associates degree-academic program"]
    lines = []
    for _ in range(2 * rows):
        age, education = int(random.integers(0, 90)), int(random.integers(0, len(levels)))
        line = [f"v{random.integers(0, 3 + column % 5)}" for column in range(42)]
        for column in NUMBERS:
            line[column] = str(random.integers(0, 50))
        line[0], line[1], line[EDUCATION] = str(age), f"of age {age // 10}", levels[education]
        line[MARITAL] = "Never married" if age < 25 + random.normal(0, 5) else "Widowed"
        line[WEIGHT] = "1032.38"
        line[CLASS] = "50000+." if education >= 2 and age + random.normal(0, 5) > 45 else "- 50000."
        lines.append(line)
    folder.mkdir()
    with gzip.open(folder / "census-income.test.gz", "wt") as file:
        file.writelines(", ".join(line) + "\n" for line in lines[:rows])
    kept = [c for c in range(42) if c not in (*NUMBERS, WEIGHT)]
    with lzma.open(folder / "census-income.train.nominal.csv.xz", "wt") as file:
        file.write(HEADER + "\n")
        file.writelines(",".join(line[c].removesuffix(".") for c in kept) + "\n" for line in lines[rows:])
    return folder


def published() -> list[object]:
    folder = os.environ.get("HOME_DIST_CENSUS")
    skip = pytest.mark.skipif(folder is None, reason="HOME_DIST_CENSUS does not name the folder of the published files")
    return ["made", pytest.param(folder, marks=[skip, pytest.mark.slow])]


@pytest.fixture(scope="module", params=published(), ids=["made", "published"])
def raw(request, tmp_path_factory):
    return write_census(tmp_path_factory.mktemp("census") / "raw") if request.param == "made" else Path(request.param)


def rows_by_hand(raw: Path) -> tuple[list[list[str]], list[dict[str, str]]]:
    with gzip.open(raw / "census-income.test.gz", "rt", newline="") as file:
        test = [[value.strip() for value in line] for line in csv.reader(file)]
    with lzma.open(raw / "census-income.train.nominal.csv.xz", "rt", newline="") as file:
        train = list(csv.DictReader(file))
    return test, train


def test_income_beside_the_class_of_education(raw, tmp_path):
    for tasks in ("levels", "education", "income"):
        prepare_census(raw, tmp_path / tasks, CensusOptions(tasks, "all"))
    schema = load_schema(tmp_path / "levels" / "schema.toml")
    assert [(t.name, t.kind) for t in schema.task] == [
        ("income", "binary"),
        ("never_married", "binary"),
        ("education_level", "multiclass"),
    ]
    beside, alone = ({f.name for f in load_schema(tmp_path / f / "schema.toml").feature} for f in ("levels", "income"))
    assert beside == alone - {"education"}
    made, by_level, by_income = (pq.read_table(tmp_path / f / "test") for f in ("levels", "education", "income"))
    assert made["label_education_level"].equals(by_level["label_education_level"])
    assert made["label_income"].equals(by_income["label_income"])


@pytest.mark.parametrize("tasks", ["income", "education"])
def test_published_files_with_nominal_features(raw, tasks, tmp_path):
    report = prepare_census(raw, tmp_path / "out", CensusOptions(tasks, "nominal"))
    test, train = rows_by_hand(raw)
    schema = load_schema(tmp_path / "out" / "schema.toml")
    held = {"income_50k", "marital_stat"} | ({"education"} if tasks == "education" else set())
    assert {f.name for f in schema.feature} == set(train[0]) - held
    assert [(t.name, t.group) for t in schema.task[:2]] == [(tasks, "main"), ("never_married", "auxiliary")]
    assert len(schema.task) == (3 if tasks == "education" else 2)
    parts = {s: pq.read_table(tmp_path / "out" / s) for s in ("train", "validation", "test")}
    assert len(parts["test"]) == len(test) == report["splits"]["test"]["rows"]
    assert len(parts["train"]) + len(parts["validation"]) == len(train)
    assert len(parts["validation"]) == len(train) - round(0.9 * len(train))
    main = {
        "income": ([r[CLASS] == "50000+." for r in test], [r["income_50k"].startswith("50000+") for r in train]),
        "education": ([r[EDUCATION].startswith(DEGREES) for r in test], [r["education"].startswith(DEGREES) for r in train]),
    }[tasks]
    never = ([r[MARITAL] == "Never married" for r in test], [r["marital_stat"] == "Never married" for r in train])
    for name, (of_test, of_train) in ((tasks, main), ("never_married", never)):
        assert parts["test"][f"label_{name}"].to_pylist() == [int(h) for h in of_test]  # in the file's order
        fitted = pa.concat_tables([parts["train"], parts["validation"]])[f"label_{name}"].to_numpy()
        assert fitted.sum() == sum(of_train)
        assert report["splits"]["test"]["positives"][name] == sum(of_test)
    if tasks == "education":
        levels, task = [LEVELS.index(r[EDUCATION]) for r in test], schema.task[2]
        assert parts["test"]["label_education_level"].to_pylist() == levels
        assert report["classes"]["education_level"]["splits"]["test"]["counts"] == np.bincount(levels, minlength=17).tolist()
        fitted = np.bincount(parts["train"]["label_education_level"].to_numpy(), minlength=17)
        assert task.values.shares == pytest.approx(fitted / fitted.sum(), abs=1e-8)
        assert (task.kind, task.classes) == ("multiclass", 17)
    # The test rows are encoded by what stands in the vocabulary.
    for column, place in (("det_ind_code", 2), ("class_worker", 1)):
        table = pq.read_table(tmp_path / "out" / "vocabularies" / f"{column}.parquet")
        rows = dict(zip(table["value"].to_pylist(), table["row"].to_pylist(), strict=True))
        assert parts["test"][column].to_pylist() == [rows.get(r[place], 0) for r in test]


def test_all_features_of_the_test_file(raw, tmp_path):
    prepare_census(raw, tmp_path / "out", CensusOptions("education", "all", seed=3))
    test, _ = rows_by_hand(raw)
    parts = {s: pq.read_table(tmp_path / "out" / s) for s in ("train", "validation", "test")}
    assert [len(p) / len(test) for p in parts.values()] == pytest.approx([0.6, 0.2, 0.2], abs=0.001)
    schema = load_schema(tmp_path / "out" / "schema.toml")
    names = {f.name for f in schema.feature}
    assert {"age", "weeks_worked", "capital_gains"} <= names
    assert not names & {"education", "marital_stat", "income_50k", "instance_weight"}
    whole = pa.concat_tables(parts.values())
    assert whole["label_education"].to_numpy().sum() == sum(r[EDUCATION].startswith(DEGREES) for r in test)
    ages = whole["stat_age"].to_numpy()
    assert ages.mean() == pytest.approx(np.mean([float(r[0]) for r in test]), abs=0.1)
    # Rows stay together: labels by age are those of the file.
    young = [r[MARITAL] == "Never married" for r in test if float(r[0]) < 15]
    assert whole["label_never_married"].to_numpy()[ages < 14.5].mean() == pytest.approx(np.mean(young), abs=0.02)
    prepare_census(raw, tmp_path / "same", CensusOptions("education", "all", seed=3))
    prepare_census(raw, tmp_path / "other", CensusOptions("education", "all", seed=4))
    read = [pq.read_table(tmp_path / f / "train") for f in ("out", "same", "other")]
    assert read[0].equals(read[1])
    assert not read[0].equals(read[2])


@pytest.mark.distributed
@pytest.mark.slow
def test_it_trains(tmp_path):
    prepare_census(write_census(tmp_path / "raw"), tmp_path / "data", CensusOptions("income", "all"))
    (tmp_path / "run.toml").write_text(
        f'run = {{ dir = "{tmp_path / "run"}" }}\ndata = {{ path = "{tmp_path / "data"}" }}\nembedding = {{ dim = 4 }}\n'
        'model = { kind = "mmoe", experts = 2, expert_hidden = [16], expert_dim = 8, tower_hidden = [8] }\n'
        "train = { epochs = 5, batch_size = 64, lr = 0.01 }\n"
    )
    ended = run(1, "train", tmp_path / "run.toml", timeout=200)
    assert ended.codes == [0], ended.text
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    for task in ("income", "never_married"):
        assert found["test"][task]["auc"] > 0.8, found


def test_wrong_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--tasks wages: allowed are income, education"):
        prepare_census(tmp_path, tmp_path / "out", CensusOptions("wages"))
    with pytest.raises(DataError, match=r"census-income\.test: no such file"):
        prepare_census(tmp_path, tmp_path / "out", CensusOptions())
    raw = write_census(tmp_path / "raw", rows=50)
    (raw / "census-income.test.gz").write_bytes((raw / "census-income.test.gz").read_bytes()[:300])
    with pytest.raises(DataError, match=r"census-income\.test\.gz: cannot be read"):
        prepare_census(raw, tmp_path / "out", CensusOptions())
    assert not (tmp_path / "out").exists()
